"""SED: a Gaussian diffusion in the latent of SAVAE, and SAVAE's decoder behind it.

    L = E || z0 - f(z_t, t, z~0) ||^2,   z_t = sqrt(ab) z0 + sqrt(1 - ab) eps

z0 is the standardised latent; f is an MLP U-Net conditioned on log-SNR, on its own previous guess
z~0 (self-conditioning, Chen et al. 2023) and maybe on a class. Sampling: noise -> latent (DDIM or
DDPM) -> pairs -> everything else exactly zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core.chance import Chance, split
from sed_core.diffusion import Diffusion, DiffusionConfig, Label, Sampler
from sed_core.nn import MLPUNet
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.training import Loss


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(DiffusionConfig):
    """Shape of the latent denoiser."""

    latent: int
    widths: tuple[int, ...] = (512, 512, 256, 128)


class LatentDenoiser(Diffusion):
    """The diffusion of a latent: an MLP U-Net, for a latent has no grid."""

    def __init__(self, config: DenoiserConfig):
        c = config
        super().__init__(MLPUNet(2 * c.latent, c.latent, c.widths, c.condition), config)
        self.config: DenoiserConfig = config


class SED(nn.Module):
    """Sparsity-Exploiting Diffusion. Public latents are standardised over the training data.

    Args:
        savae: the autoencoder's configuration.
        denoiser: the latent denoiser's configuration.
    """

    CONFIGS: ClassVar[dict[str, type[Any]]] = {"savae": SAVAEConfig, "denoiser": DenoiserConfig}

    def __init__(self, savae: SAVAEConfig, denoiser: DenoiserConfig):
        super().__init__()
        if savae.latent != denoiser.latent:
            raise ValueError(
                f"both parts must share one latent size, got {savae.latent} and {denoiser.latent}"
            )
        self.configs = {"savae": savae, "denoiser": denoiser}
        self.savae = SAVAE(savae)
        self.denoiser = LatentDenoiser(denoiser)
        self.register_buffer("latent_mean", torch.zeros(savae.latent))
        self.register_buffer("latent_sd", torch.ones(savae.latent))

    @property
    def dim(self) -> int:
        """Dimensions of the data."""
        return self.savae.config.dim

    @property
    def classes(self) -> int:
        """Classes that can be asked for; 0 for none."""
        return self.denoiser.config.classes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.get_buffer("latent_mean").device

    # -- latents ---------------------------------------------------------------------------------

    def encode(self, batch: SparseBatch) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of q(z | x), standardised."""
        return self.standard(*self.savae.encode(self._checked(batch)))

    def standardise(self, z: Float[Tensor, "B Z"]) -> None:
        """Take mean and sd of the training latents (as SAVAE gives them) as the standard."""
        self.get_buffer("latent_mean").copy_(z.mean(0))
        self.get_buffer("latent_sd").copy_(z.std(0).clamp_min(1e-6))

    def standard(
        self, mu: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """SAVAE's posterior in standardised units."""
        mean, sd = self._statistics()
        return (mu - mean) / sd, logvar - 2 * sd.log()

    def draft(self, z: Float[Tensor, "B Z"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """The draft head's view of z: probability of non-zero and mean value a dimension."""
        return self.savae.draft(self._raw(z))

    # -- loss ------------------------------------------------------------------------------------

    def loss(self, batch: SparseBatch, *, label: Label = None, generator: torch.Generator) -> Loss:
        """SAVAE's loss plus the latent denoiser's, on latents that no gradient flows into.

        Training proper does the two one after the other (`sed_core.recipes`).
        """
        autoencoder = self.savae.loss(batch, generator=generator)
        with torch.no_grad():
            mu, logvar = self.encode(batch)
        z0 = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=generator).to(mu)
        latent = self.latent_loss(z0, label=label, generator=generator)
        parts = {**autoencoder.parts, **latent.parts}
        return Loss(autoencoder.total + latent.total, parts)

    def latent_loss(
        self, z0: Float[Tensor, "B Z"], *, label: Label = None, generator: torch.Generator
    ) -> Loss:
        """The latent denoiser's loss on standardised latents."""
        return self.denoiser.loss(z0, label=label, generator=generator)

    # -- sampling --------------------------------------------------------------------------------

    def diffuse(
        self,
        n: int,
        *,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
    ) -> Iterator[Step[Float[Tensor, "n Z"]]]:
        """Noise -> standardised latent.

        Args:
            steps: network evaluations.
            eta: noise of a DDIM step, 0 (deterministic) to 1 (equal to DDPM).
            label: one class for all samples, one a sample, or None for unconditional.
            guidance: 0 unconditional, 1 conditional, above 1 amplified.
            generator: one for all samples, or one a sample.
        """
        return self.denoiser.run(
            n,
            (self.denoiser.config.latent,),
            steps=steps,
            sampler=sampler,
            eta=eta,
            label=label,
            guidance=guidance,
            generator=generator,
        )

    def decode(
        self,
        z: Float[Tensor, "B Z"],
        *,
        temperature: float = 1.0,
        value_temperature: float = 1.0,
        prefix: SparseBatch | None = None,
        choose: Int[Tensor, " B"] | None = None,
        generator: Chance,
        detail: bool = True,
    ) -> Iterator[Step[SparseBatch]]:
        """Standardised latent -> pairs, one a step; see `SAVAE.decode`."""
        return self.savae.decode(
            self._raw(z),
            temperature=temperature,
            value_temperature=value_temperature,
            prefix=prefix,
            choose=choose,
            generator=generator,
            detail=detail,
        )

    def stream(
        self,
        n: int,
        *,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        temperature: float = 1.0,
        value_temperature: float = 1.0,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
        detail: bool = True,
    ) -> Iterator[Step[Any]]:
        """Noise -> latent -> pairs: first the "latent" steps, then the "pairs" steps."""
        chance = split(generator, n)
        latent = self.diffuse(
            n,
            steps=steps,
            sampler=sampler,
            eta=eta,
            label=label,
            guidance=guidance,
            generator=chance,
        )
        return self._decode_after(latent, chance, temperature, value_temperature, detail)

    def _decode_after(
        self,
        latent: Iterator[Step[Tensor]],
        chance: list[torch.Generator],
        temperature: float,
        value_temperature: float,
        detail: bool,
    ) -> Iterator[Step[Any]]:
        step = None
        for step in latent:
            yield step
        assert step is not None
        yield from self.decode(
            step.x,
            temperature=temperature,
            value_temperature=value_temperature,
            generator=chance,
            detail=detail,
        )

    def sample(
        self,
        n: int,
        *,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        temperature: float = 1.0,
        value_temperature: float = 1.0,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
    ) -> SparseBatch:
        """n samples, as pairs."""
        return last(
            self.stream(
                n,
                steps=steps,
                sampler=sampler,
                eta=eta,
                temperature=temperature,
                value_temperature=value_temperature,
                label=label,
                guidance=guidance,
                generator=generator,
                detail=False,
            )
        )

    def reconstruct(self, batch: SparseBatch) -> SparseBatch:
        """Encode and decode without chance: posterior mean, most probable index, mean value."""
        with torch.no_grad():
            mu, _ = self.encode(batch)
        chance = [torch.Generator() for _ in range(len(batch))]
        return last(
            self.decode(mu, temperature=0.0, value_temperature=0.0, generator=chance, detail=False)
        )

    # -- inside ----------------------------------------------------------------------------------

    def _raw(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
        mean, sd = self._statistics()
        return z.to(mean) * sd + mean

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("latent_mean"), self.get_buffer("latent_sd")

    def _checked(self, batch: SparseBatch) -> SparseBatch:
        if batch.dim != self.savae.config.dim:
            raise ValueError(
                f"this model is for {self.savae.config.dim} dimensions, got data of {batch.dim}"
            )
        return batch.to(self.device)
