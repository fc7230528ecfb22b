"""LogGaussian with a gate beside its network: what a small dense diffusion of many genes needs.

    output = network(x_t, x~0; c) + g(c) x_t,    g(c) one number a dimension, linear in c

A network whose layers are narrower than the data can't hand on each dimension's own noisy value, so
its guess of x0 stays a smooth mean down to t = 0, and so do its samples: far too many zeros, or
noise where the target is v. c is the embedding of log-SNR and class; the gate starts at 0, and
knows how much of a value to believe at that noise (for Gaussian data it is Wiener's filter).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sed_core.baselines.ddpm import DDPMConfig
from sed_core.baselines.log_gaussian import LogGaussian
from sed_core.baselines.values import DenseValues


class GatedLogGaussian(LogGaussian):
    """LogGaussian whose dimensions each see their own noisy value past the network.

    Raises:
        ValueError: for pictures, whose U-Net hands on every pixel by itself.
    """

    def __init__(self, values: DenseValues, denoiser: DDPMConfig):
        if denoiser.side:
            raise ValueError(f"gates are for vectors, got pictures of side {denoiser.side}")
        super().__init__(values, denoiser)
        c = denoiser
        self.denoiser.network = Gated(self.denoiser.network, c.dim, c.condition)


class Gated(nn.Module):
    """A network, and past it a share of the first `dim` inputs that depends on the condition."""

    def __init__(self, network: nn.Module, dim: int, condition: int):
        super().__init__()
        self.network, self.dim = network, dim
        self.gate = nn.Linear(condition, dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Float[Tensor, "B I"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        return self.network(x, c) + self.gate(F.silu(c)) * x[:, : self.dim]
