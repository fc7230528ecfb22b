"""Gaussian diffusion of counts: DDPM on log(1 + x), rounded to whole numbers in the end.

Steps are ancestral, q(x_s | x_t, x0) at the guess of x0 (Ho et al. 2020, Eq. 7), unless DDIM is
asked for. Noise drawn afresh around the guess, as in the notebook of CountsDiff, is neither, and
halves the variance of the samples even with an ideal denoiser (`countsdiff.md` 8).
"""

from collections.abc import Iterator
from typing import Unpack

from jaxtyping import Int64, Shaped
from torch import Tensor

from sed_core.baselines.ddpm import DDPM
from sed_core.baselines.values import whole
from sed_core.chance import Chance
from sed_core.diffusion import Sampling
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last


class LogGaussian(DDPM):
    """DDPM whose data and samples are counts; build it with `DenseValues.of_counts`."""

    def stream(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Iterator[Step[Int64[Tensor, "n D"]]]:
        """Noise -> counts; see `Diffusion.run` for the options. The default sampler is "ddpm"."""
        ancestral: Sampling = {"sampler": "ddpm", **options}
        return super().stream(n, generator=generator, **ancestral)

    def sample(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Int64[Tensor, "n D"]:
        """n rows, whole and inside the data's range."""
        return last(self.stream(n, generator=generator, **options))

    def to_network(self, batch: SparseBatch | Shaped[Tensor, "B D"]) -> Tensor:
        """Counts in the network's units and shape, where the model is."""
        return super().to_network(whole(batch, self.dim).float())

    def _in_data_units(self, step: Step[Tensor]) -> Step[Tensor]:
        assert step.x0 is not None
        x, x0 = (self.values.inverse(y.flatten(1)).round().long() for y in (step.x, step.x0))
        return Step("counts", step.i, step.n, step.t, x, x0)
