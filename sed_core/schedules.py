"""alpha_bar(t): the share of the data that survives at time t, from 1 (clean) down to 0 (noise).

One notion serves three families: the signal power of Gaussian diffusion, the survival probability
of thinned counts, and one minus the noise level of candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cosine:
    """alpha_bar(t) = cos^2( (t + s) / (1 + s) pi / 2 )  (Nichol and Dhariwal 2021)."""

    s: float = 0.008

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.cos((t + self.s) / (1 + self.s) * pi / 2) ** 2


@dataclass(frozen=True)
class Linear:
    """alpha_bar(t) = exp( -(b + a t^2) ): the continuous form of linearly rising betas."""

    a: float = 10.0
    b: float = 1e-4

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.exp(-(self.b + self.a * t**2))


SCHEDULES: dict[str, Schedule] = {"cosine": Cosine(), "linear": Linear()}


def log_snr(schedule: Schedule, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log( alpha_bar / (1 - alpha_bar) ), computed in float64."""
    return torch.logit(schedule(t.double())).to(t.dtype)


def slope(schedule: Schedule, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """d alpha_bar / dt at t, by automatic differentiation."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        return torch.autograd.grad(schedule(t).sum(), t)[0]
