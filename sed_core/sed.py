"""SED: a Gaussian diffusion in the latent of SAVAE, and SAVAE's decoder behind it.

    L = E || z0 - f(z_t, t, z~0) ||^2,   z_t = sqrt(ab) z0 + sqrt(1 - ab) eps

z0 is the standardised latent; f is an MLP U-Net conditioned on log-SNR, on its own previous guess
z~0 (self-conditioning, Chen et al. 2023) and maybe on a class. Sampling: noise -> latent (DDIM or
DDPM) -> pairs -> everything else exactly zero.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core.chance import Chance, normal, split
from sed_core.gaussian import Denoiser, add_noise, ddim, ddpm, guess, target, time_grid
from sed_core.nn import FourierFeatures, MLPUNet
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.schedules import SCHEDULES, Schedule, log_snr
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.training import Loss

LATEST = 0.999  # training draws t below this; log-SNR is not defined at 1
Label = int | Int[Tensor, " B"] | None
Sampler = Literal["ddim", "ddpm"]


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the latent denoiser."""

    latent: int
    widths: tuple[int, ...] = (512, 512, 256, 128)
    condition: int = 128  # width of the embedding of log-SNR and class
    classes: int = 0  # 0 for no class condition
    label_dropout: float = 0.1  # share of training rows whose class is hidden (for guidance)
    self_conditioning: float = 0.5  # share of training steps that see a guess
    target: Literal["x0", "eps", "v"] = "x0"
    schedule: Literal["cosine", "linear"] = "cosine"


class LatentDenoiser(nn.Module):
    """f(z_t, t, z~0, class) -> guess of z0."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.fourier = FourierFeatures()
        self.time = nn.Sequential(
            nn.Linear(self.fourier.width, config.condition),
            nn.GELU(),
            nn.Linear(config.condition, config.condition),
        )
        self.label = nn.Embedding(config.classes + 1, config.condition)  # the last: unknown
        self.network = MLPUNet(2 * config.latent, config.latent, config.widths, config.condition)

    @property
    def schedule(self) -> Schedule:
        """alpha_bar of this model."""
        return SCHEDULES[self.config.schedule]

    def forward(
        self,
        z_t: Float[Tensor, "B Z"],
        t: Float[Tensor, " B"],
        z0: Float[Tensor, "B Z"],
        label: Int[Tensor, " B"],
    ) -> Float[Tensor, "B Z"]:
        """The network's output; what it means depends on the target."""
        snr = log_snr(self.schedule, t.clamp_max(LATEST)) / 10
        condition = self.time(self.fourier(snr)) + self.label(label)
        return self.network(torch.cat([z_t, z0], 1), condition)


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
        self,
        z0: Float[Tensor, "B Z"],
        *,
        label: Label = None,
        generator: torch.Generator,
    ) -> Loss:
        """E || z0 - f(z_t, t, z~0) ||^2 a latent dimension, with self-conditioning."""
        c, schedule = self.denoiser.config, self.denoiser.schedule
        t = LATEST * torch.rand(len(z0), generator=generator).to(z0)
        eps = torch.randn(z0.shape, generator=generator).to(z0)
        z_t = add_noise(schedule, z0, t, eps)
        labels = self._hide(self._labels(label, len(z0), z0.device), generator)
        seen = torch.zeros_like(z0)
        if torch.rand((), generator=generator) < c.self_conditioning:
            with torch.no_grad():
                seen = guess(c.target, schedule, self.denoiser(z_t, t, seen, labels), z_t, t)
        output = self.denoiser(z_t, t, seen, labels)
        error = (output - target(c.target, schedule, z0, t, eps)).square().mean()
        return Loss(error, {"latent": error})

    def _hide(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Replace a share of the labels by "unknown", so that one network learns both laws."""
        c = self.denoiser.config
        hidden = torch.rand(len(labels), generator=generator).to(labels.device) < c.label_dropout
        return labels.masked_fill(hidden, c.classes)

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
        _check_sampling(n, steps, sampler, eta, guidance)
        chance = split(generator, n)
        z = normal(chance, self.denoiser.config.latent).to(self.device)
        denoiser = self._denoiser(self._labels(label, n, self.device), guidance)
        schedule = self.denoiser.schedule
        if sampler == "ddpm":
            return ddpm(denoiser, schedule, z, steps=steps, generator=chance)
        return ddim(denoiser, schedule, z, steps=steps, eta=eta, generator=chance)

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

    def _denoiser(self, labels: Int[Tensor, " B"], guidance: float) -> Denoiser:
        """(z_t, t) -> guess of z0, with guidance and the memory of the guess before."""
        c, schedule, unknown = (
            self.denoiser.config,
            self.denoiser.schedule,
            torch.full_like(labels, self.denoiser.config.classes),
        )

        def denoise(z_t: Tensor, t: Tensor, seen: Tensor, label: Tensor) -> Tensor:
            return guess(c.target, schedule, self.denoiser(z_t, t, seen, label), z_t, t)

        def guided(z_t: Tensor, t: Tensor, seen: Tensor) -> Tensor:
            if guidance == 1 or bool((labels == unknown).all()):
                return denoise(z_t, t, seen, labels)
            plain = denoise(z_t, t, seen, unknown)
            if guidance == 0:
                return plain
            return plain + guidance * (denoise(z_t, t, seen, labels) - plain)

        return _remembering(guided)

    def _labels(self, label: Label, n: int, device: torch.device) -> Int[Tensor, " B"]:
        classes = self.denoiser.config.classes
        if label is None:
            return torch.full((n,), classes, device=device)
        if classes == 0:
            raise ValueError("this model was trained without classes; leave label out")
        labels = torch.as_tensor(label, device=device)
        if labels.is_floating_point() or labels.shape not in ((), (n,)):
            raise ValueError(f"label must be one whole number, or one for each of {n} samples")
        if n and not bool(((labels >= 0) & (labels <= classes)).all()):
            raise ValueError(f"label must be from 0 to {classes - 1}, got {label}")
        return labels.expand(n)

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


def _remembering(denoise: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Denoiser:
    """Give each guess to the next call (self-conditioning); the first call gets zeros."""
    guesses: list[Tensor] = []

    def denoiser(z_t: Tensor, t: Tensor) -> Tensor:
        seen = guesses.pop() if guesses else torch.zeros_like(z_t)
        guesses.append(denoise(z_t, t, seen))
        return guesses[0]

    return denoiser


def _check_sampling(n: int, steps: int, sampler: str, eta: float, guidance: float) -> None:
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"the number of samples must be a whole number of at least 1, got {n}")
    time_grid(steps)  # refuses a bad number of steps now rather than at the first one
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"sampler must be 'ddim' or 'ddpm', got {sampler!r}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be from 0 to 1, got {eta}")
    if not 0 <= guidance <= 100:
        raise ValueError(f"guidance must be from 0 to 100, got {guidance}")
