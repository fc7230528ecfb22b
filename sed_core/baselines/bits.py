"""Sparsity Bits: a bit beside every value says whether it is zero, and both are diffused together.

The predecessor of SED (Ostheimer et al. 2025, arXiv 2502.02448), in the spirit of Analog Bits: the
bit is +1 for a non-zero and -1 for a zero, a real number to the diffusion, and cut at 0 in the end.
Zeros are exact, but the network is as large and as slow as the dense one.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sed_core.baselines.ddpm import DDPM
from sed_core.baselines.values import dense, fold
from sed_core.sparse import SparseBatch
from sed_core.stream import Step


class SparsityBits(DDPM):
    """DDPM of values and bits; a sample is its values where its bits are positive.

    Steps carry the bits as `aux["bit"]` (n, D).
    """

    CHANNELS: ClassVar[int] = 2

    def to_network(self, batch: SparseBatch | Float[Tensor, "B D"]) -> Tensor:
        """Values and bits in the network's units and shape, where the model is."""
        x = dense(batch, self.dim).to(self.denoiser.device)
        bits = 2 * (x != 0).to(x.dtype) - 1
        return fold(torch.cat([self.values.forward(x), bits], 1), self.side)

    def _in_data_units(self, step: Step[Tensor]) -> Step[Tensor]:
        assert step.x0 is not None
        (x, bit), (x0, _) = self._gated(step.x), self._gated(step.x0)
        return Step("dense", step.i, step.n, step.t, x, x0, {"bit": bit})

    def _gated(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Values where the bits are positive, and the bits."""
        value, bit = y.flatten(1).chunk(2, 1)
        return self.values.inverse(value) * (bit > 0), bit
