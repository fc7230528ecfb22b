"""DDPM: Gaussian diffusion of every value of the data, zeros included (Ho et al. 2020).

Schedule, target, self-conditioning, class and guidance are SED's (`sed_core.diffusion`); only the
representation differs. Pictures get a convolutional U-Net, vectors SED's own MLP U-Net.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sed_core.baselines.values import DenseValues, dense, fold
from sed_core.chance import Chance
from sed_core.diffusion import Diffusion, DiffusionConfig, Label, Sampling
from sed_core.gaussian import Denoiser
from sed_core.nn import MLPUNet
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.training import Loss
from sed_core.unet import ImageUNet, sides


@dataclass(frozen=True, kw_only=True)
class DDPMConfig(DiffusionConfig):
    """Shape of the network."""

    dim: int
    side: int = 0  # of pictures; 0 for vectors
    widths: tuple[int, ...] = (32, 64, 128)
    patch: int = 2  # of pictures

    def __post_init__(self) -> None:
        if self.side and self.side**2 != self.dim:
            raise ValueError(f"{self.dim} dimensions are no picture of side {self.side}")
        if self.side:
            sides(self.side, self.patch, len(self.widths))


class DDPM(nn.Module):
    """Dense diffusion; samples have no exact zeros but where they are clipped.

    Args:
        values: how data become network units.
        denoiser: the network's shape.
    """

    CONFIGS: ClassVar[dict[str, type[Any]]] = {"values": DenseValues, "denoiser": DDPMConfig}
    CHANNELS: ClassVar[int] = 1  # numbers diffused for each dimension

    def __init__(self, values: DenseValues, denoiser: DDPMConfig):
        super().__init__()
        self.configs = {"values": values, "denoiser": denoiser}
        self.values, self.dim, self.side = values, denoiser.dim, denoiser.side
        clip = max(values.bound, self.CHANNELS - 1) if values.bound else 0.0
        self.denoiser = Diffusion(_network(denoiser, self.CHANNELS), denoiser, clip=clip)

    @property
    def classes(self) -> int:
        """Classes that can be asked for; 0 for none."""
        return self.denoiser.config.classes

    def loss(
        self,
        batch: SparseBatch | Shaped[Tensor, "B D"],
        *,
        label: Label = None,
        generator: torch.Generator,
    ) -> Loss:
        """E || x0 - f(x_t, t, x~0) ||^2 a dimension, in network units."""
        return self.denoiser.loss(self.to_network(batch), label=label, generator=generator)

    def stream(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Iterator[Step[Float[Tensor, "n D"]]]:
        """Noise -> data, in data units; see `Diffusion.run` for the options."""
        empty = fold(torch.empty(1, self.CHANNELS * self.dim), self.side)
        moves = self.denoiser.run(n, tuple(empty.shape[1:]), generator=generator, **options)
        return (self._in_data_units(step) for step in moves)

    def sample(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Float[Tensor, "n D"]:
        """n samples, clipped to the data's range and left as they are otherwise."""
        return last(self.stream(n, generator=generator, **options))

    def to_network(self, batch: SparseBatch | Shaped[Tensor, "B D"]) -> Tensor:
        """Rows in the network's units and shape, where the model is."""
        x = dense(batch, self.dim).to(self.denoiser.device)
        return fold(self.values.forward(x), self.side)

    def denoise(self, label: Label, n: int, guidance: float = 1.0) -> Denoiser:
        """(x_t, t) -> guess of x0 in network units, for n rows; remembers its guess before."""
        return self.denoiser.denoiser(self.denoiser.labels(label, n), guidance)

    def _in_data_units(self, step: Step[Tensor]) -> Step[Tensor]:
        assert step.x0 is not None
        x, x0 = (self.values.inverse(y.flatten(1)) for y in (step.x, step.x0))
        return Step("dense", step.i, step.n, step.t, x, x0)


def _network(config: DDPMConfig, channels: int) -> nn.Module:
    """A U-Net for `channels` numbers a dimension, beside which stands the guess before."""
    c = config
    if c.side:
        return ImageUNet(2 * channels, channels, c.widths, c.patch, c.condition)
    return MLPUNet(2 * channels * c.dim, channels * c.dim, c.widths, c.condition)
