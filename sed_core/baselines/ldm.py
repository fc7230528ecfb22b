"""LDM: a dense autoencoder, and SED's own latent diffusion in its latent (Rombach et al. 2022).

Latent size, weight of the KL and latent denoiser are SED's; only the autoencoder differs: it reads
and writes every value, zeros included. Pictures get convolutions, vectors two hidden layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sed_core.baselines.values import DenseValues, dense, fold
from sed_core.chance import Chance
from sed_core.diffusion import Label, Sampling
from sed_core.sed import DenoiserConfig, LatentDenoiser
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.training import Loss
from sed_core.unet import ResidualBlock, enlarge, sides


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of the dense autoencoder."""

    dim: int
    side: int = 0  # of pictures; 0 for vectors
    latent: int = 64
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each level; for vectors, hidden layers
    patch: int = 2  # of pictures
    beta: float = 1e-6  # weight of the KL

    def __post_init__(self) -> None:
        if self.side and self.side**2 != self.dim:
            raise ValueError(f"{self.dim} dimensions are no picture of side {self.side}")
        if self.side:
            sides(self.side, self.patch, len(self.widths))


class LDM(nn.Module):
    """Latent diffusion of dense data. Public latents are standardised over the training data.

    Args:
        values: how data become network units.
        autoencoder: the dense autoencoder's shape.
        denoiser: the latent denoiser's shape.
    """

    CONFIGS: ClassVar[dict[str, type[Any]]] = {
        "values": DenseValues,
        "autoencoder": AutoencoderConfig,
        "denoiser": DenoiserConfig,
    }

    def __init__(
        self, values: DenseValues, autoencoder: AutoencoderConfig, denoiser: DenoiserConfig
    ):
        super().__init__()
        if autoencoder.latent != denoiser.latent:
            raise ValueError(
                "both parts must share one latent size, "
                f"got {autoencoder.latent} and {denoiser.latent}"
            )
        self.configs = {"values": values, "autoencoder": autoencoder, "denoiser": denoiser}
        self.values, self.dim, self.side = values, autoencoder.dim, autoencoder.side
        self.beta = autoencoder.beta
        made = _Convolutions(autoencoder) if self.side else _Layers(autoencoder)
        self.autoencoder: _Convolutions | _Layers = made
        self.denoiser = LatentDenoiser(denoiser)
        self.register_buffer("latent_mean", torch.zeros(denoiser.latent))
        self.register_buffer("latent_sd", torch.ones(denoiser.latent))

    @property
    def classes(self) -> int:
        """Classes that can be asked for; 0 for none."""
        return self.denoiser.config.classes

    # -- latents ---------------------------------------------------------------------------------

    def encode(
        self, batch: SparseBatch | Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of q(z | x), standardised."""
        return self.standard(*self.posterior(self.to_network(batch)))

    def standard(
        self, mu: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """A posterior in standardised units."""
        mean, sd = self._statistics()
        return (mu - mean) / sd, logvar - 2 * sd.log()

    def posterior(self, y: Tensor) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of q(z | x) as the autoencoder gives them, of network units."""
        mu, logvar = self.autoencoder.encode(y).chunk(2, 1)
        return mu, logvar.clamp(-30, 20)

    def standardise(self, z: Float[Tensor, "B Z"]) -> None:
        """Take mean and sd of the training latents (not standardised) as the standard."""
        self.get_buffer("latent_mean").copy_(z.mean(0))
        self.get_buffer("latent_sd").copy_(z.std(0).clamp_min(1e-6))

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B D"]:
        """Standardised latent -> data units, clipped to the data's range."""
        mean, sd = self._statistics()
        return self.values.inverse(self.autoencoder.decode(z.to(mean) * sd + mean).flatten(1))

    # -- loss ------------------------------------------------------------------------------------

    def loss(
        self,
        batch: SparseBatch | Float[Tensor, "B D"],
        *,
        label: Label = None,
        generator: torch.Generator,
    ) -> Loss:
        """The autoencoder's loss plus the latent denoiser's, whose gradient stays in it."""
        reconstruction = self.autoencoder_loss(batch, generator=generator)
        with torch.no_grad():
            mu, logvar = self.encode(batch)
        z0 = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=generator).to(mu)
        latent = self.denoiser.loss(z0, label=label, generator=generator)
        return Loss(reconstruction.total + latent.total, {**reconstruction.parts, **latent.parts})

    def autoencoder_loss(
        self, batch: SparseBatch | Float[Tensor, "B D"], *, generator: torch.Generator
    ) -> Loss:
        """Squared error a sample, as a Gaussian likelihood of unit variance, plus beta KL."""
        y = self.to_network(batch)
        mu, logvar = self.posterior(y)
        z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=generator).to(mu)
        error = 0.5 * (self.autoencoder.decode(z) - y).square().flatten(1).sum(1).mean()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return Loss(error + self.beta * kl, {"reconstruction": error, "kl": kl})

    def to_network(self, batch: SparseBatch | Float[Tensor, "B D"]) -> Tensor:
        """Rows in the network's units and shape, where the model is."""
        x = dense(batch, self.dim).to(self.denoiser.device)
        return fold(self.values.forward(x), self.side)

    # -- sampling --------------------------------------------------------------------------------

    def stream(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Iterator[Step[Tensor]]:
        """Noise -> latent ("latent" steps) -> data, in data units (one "dense" step)."""
        shape = (self.denoiser.config.latent,)
        return self._then_decode(self.denoiser.run(n, shape, generator=generator, **options))

    def _then_decode(self, latent: Iterator[Step[Tensor]]) -> Iterator[Step[Tensor]]:
        step = None
        for step in latent:
            yield step
        assert step is not None
        with torch.no_grad():
            x = self.decode(step.x)
        yield Step("dense", 1, 1, 0.0, x, x)

    def sample(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Float[Tensor, "n D"]:
        """n samples, clipped to the data's range and left as they are otherwise."""
        return last(self.stream(n, generator=generator, **options))

    def reconstruct(self, batch: SparseBatch | Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Encode and decode without chance, in data units."""
        with torch.no_grad():
            return self.decode(self.encode(batch)[0])

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("latent_mean"), self.get_buffer("latent_sd")


class _Convolutions(nn.Module):
    """Picture <-> latent: residual blocks at every level, one linear map at the smallest."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        c, self.patch = config, config.patch
        self.sides = sides(c.side, c.patch, len(c.widths))
        self.smallest = (c.widths[-1], self.sides[-1], self.sides[-1])
        flat, levels = c.widths[-1] * self.sides[-1] ** 2, list(pairwise(c.widths))
        self.enter = nn.Conv2d(c.patch**2, c.widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(w, w, 0) for w in c.widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in levels)
        self.pack, self.unpack = nn.Linear(flat, 2 * c.latent), nn.Linear(c.latent, flat)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in levels[::-1])
        self.up = nn.ModuleList(ResidualBlock(w, w, 0) for w in c.widths[::-1])
        self.leave = nn.Conv2d(c.widths[0], c.patch**2, 3, padding=1)

    def encode(self, y: Float[Tensor, "B 1 S S"]) -> Float[Tensor, "B ZZ"]:
        """Mean and log-variance, side by side."""
        x = self.enter(F.pixel_unshuffle(y, self.patch))
        for level, block in enumerate(self.down):
            x = block(self.shrink[level - 1](x) if level else x, None)
        return self.pack(F.silu(x).flatten(1))

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B 1 S S"]:
        """The picture, in network units."""
        channels, rows, _ = self.smallest
        x = rearrange(self.unpack(z), "b (c i j) -> b c i j", c=channels, i=rows)
        for level, block in enumerate(self.up):
            x = enlarge(self.grow[level - 1](x), self.sides[-1 - level]) if level else x
            x = block(x, None)
        return F.pixel_shuffle(self.leave(F.silu(x)), self.patch)


class _Layers(nn.Module):
    """Vector <-> latent: fully connected layers with LayerNorm."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        c = config
        self.encoder = _stack(c.dim, c.widths, 2 * c.latent)
        self.decoder = _stack(c.latent, c.widths[::-1], c.dim)

    def encode(self, y: Float[Tensor, "B D"]) -> Float[Tensor, "B ZZ"]:
        """Mean and log-variance, side by side."""
        return self.encoder(y)

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B D"]:
        """The vector, in network units."""
        return self.decoder(z)


def _stack(inputs: int, widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, *widths)):
        layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
