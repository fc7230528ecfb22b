"""A Gaussian diffusion around any network: what SED's latent and the dense peers have in common.

    L = E || x0 - f(x_t, t, x~0) ||^2,   x_t = sqrt(ab) x0 + sqrt(1 - ab) eps

f is conditioned on log-SNR, on its own guess before (x~0: self-conditioning, Chen et al. 2023) and
maybe on a class. Training, targets, guidance and samplers are the same code for every family, so
that only the representation x differs between them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core.chance import Chance, normal, split
from sed_core.gaussian import Denoiser, add_noise, ddim, ddpm, guess, target, time_grid
from sed_core.nn import FourierFeatures
from sed_core.schedules import SCHEDULES, Schedule, log_snr
from sed_core.stream import Step
from sed_core.training import Loss

LATEST = 0.999  # training draws t below this; log-SNR is not defined at 1
Label = int | Int[Tensor, " B"] | None
Sampler = Literal["ddim", "ddpm"]


class Sampling(TypedDict, total=False):
    """Options of a diffusion sampler; see `Diffusion.run`."""

    steps: int
    sampler: Sampler
    eta: float
    label: Label
    guidance: float


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """What does not depend on the network's shape."""

    condition: int = 128  # width of the embedding of log-SNR and class
    classes: int = 0  # 0 for no class condition
    label_dropout: float = 0.1  # share of training rows whose class is hidden (for guidance)
    self_conditioning: float = 0.5  # share of training steps that see a guess
    target: Literal["x0", "eps", "v"] = "x0"
    schedule: Literal["cosine", "linear"] = "cosine"


class Diffusion(nn.Module):
    """f(x_t, t, x~0, class) -> guess of x0, with its loss and its samplers.

    Args:
        network: (x_t and the guess before, joined along dimension 1; condition) -> output.
        config: time, class and target.
        clip: largest absolute guess, for bounded data; 0 for none.
    """

    def __init__(self, network: nn.Module, config: DiffusionConfig, *, clip: float = 0.0):
        super().__init__()
        self.config, self.clip = config, clip
        self.fourier = FourierFeatures()
        self.time = nn.Sequential(
            nn.Linear(self.fourier.width, config.condition),
            nn.GELU(),
            nn.Linear(config.condition, config.condition),
        )
        self.label = nn.Embedding(config.classes + 1, config.condition)  # the last: unknown
        self.network = network

    @property
    def schedule(self) -> Schedule:
        """alpha_bar of this model."""
        return SCHEDULES[self.config.schedule]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.label.weight.device

    def forward(
        self,
        x_t: Float[Tensor, "B ..."],
        t: Float[Tensor, " B"],
        x0: Float[Tensor, "B ..."],
        label: Int[Tensor, " B"],
    ) -> Float[Tensor, "B ..."]:
        """The network's output; what it means depends on the target."""
        snr = log_snr(self.schedule, t.clamp_max(LATEST)) / 10
        condition = self.time(self.fourier(snr)) + self.label(label)
        return self.network(torch.cat([x_t, x0], 1), condition)

    # -- loss ------------------------------------------------------------------------------------

    def loss(
        self, x0: Float[Tensor, "B ..."], *, label: Label = None, generator: torch.Generator
    ) -> Loss:
        """E || x0 - f(x_t, t, x~0) ||^2 a dimension, with self-conditioning."""
        c, schedule = self.config, self.schedule
        t = LATEST * torch.rand(len(x0), generator=generator).to(x0)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x_t = add_noise(schedule, x0, t, eps)
        known = hide(self.labels(label, len(x0)), c.classes, c.label_dropout, generator)
        seen = torch.zeros_like(x0)
        if torch.rand((), generator=generator) < c.self_conditioning:
            with torch.no_grad():
                seen = self.guess(x_t, t, seen, known)
        output = self(x_t, t, seen, known)
        error = (output - target(c.target, schedule, x0, t, eps)).square().mean()
        return Loss(error, {"denoiser": error})

    def guess(self, x_t: Tensor, t: Tensor, seen: Tensor, label: Tensor) -> Tensor:
        """The guess of x0 that the output means."""
        x0 = guess(self.config.target, self.schedule, self(x_t, t, seen, label), x_t, t)
        return x0.clamp(-self.clip, self.clip) if self.clip else x0

    # -- sampling --------------------------------------------------------------------------------

    def run(
        self,
        n: int,
        shape: tuple[int, ...],
        *,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
    ) -> Iterator[Step[Float[Tensor, "n ..."]]]:
        """Noise of that shape -> sample.

        Args:
            steps: network evaluations.
            eta: noise of a DDIM step, 0 (deterministic) to 1 (equal to DDPM).
            label: one class for all samples, one a sample, or None for unconditional.
            guidance: 0 unconditional, 1 conditional, above 1 amplified.
            generator: one for all samples, or one a sample.
        """
        check_sampling(n, steps, sampler, eta, guidance)
        chance = split(generator, n)
        x = normal(chance, *shape).to(self.device)
        denoiser = self.denoiser(self.labels(label, n), guidance)
        if sampler == "ddpm":
            return ddpm(denoiser, self.schedule, x, steps=steps, generator=chance)
        return ddim(denoiser, self.schedule, x, steps=steps, eta=eta, generator=chance)

    def denoiser(self, labels: Int[Tensor, " B"], guidance: float) -> Denoiser:
        """(x_t, t) -> guess of x0, with guidance and the memory of the guess before."""
        unknown = torch.full_like(labels, self.config.classes)

        def guided(x_t: Tensor, t: Tensor, seen: Tensor) -> Tensor:
            if guidance == 1 or bool((labels == unknown).all()):
                return self.guess(x_t, t, seen, labels)
            plain = self.guess(x_t, t, seen, unknown)
            if guidance == 0:
                return plain
            moved = plain + guidance * (self.guess(x_t, t, seen, labels) - plain)
            return moved.clamp(-self.clip, self.clip) if self.clip else moved

        return _remembering(guided)

    def labels(self, label: Label, n: int) -> Int[Tensor, " n"]:
        """A class for each of n rows; see `labels`."""
        return labels(label, n, self.config.classes, self.device)


def labels(label: Label, n: int, classes: int, device: torch.device) -> Int[Tensor, " n"]:
    """A class for each of n rows; the number after the last class means "unknown".

    Raises:
        ValueError: for a label that the model does not know, or the wrong number of them.
    """
    if label is None:
        return torch.full((n,), classes, device=device)
    if classes == 0:
        raise ValueError("this model was trained without classes; leave label out")
    found = torch.as_tensor(label, device=device)
    if found.is_floating_point() or found.shape not in ((), (n,)):
        raise ValueError(f"label must be one whole number, or one for each of {n} samples")
    if n and not bool(((found >= 0) & (found <= classes)).all()):
        raise ValueError(f"label must be from 0 to {classes - 1}, got {label}")
    return found.expand(n)


def hide(
    label: Int[Tensor, " n"], classes: int, share: float, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Replace a share of the labels by "unknown", so that one network learns both laws."""
    hidden = torch.rand(len(label), generator=generator).to(label.device) < share
    return label.masked_fill(hidden, classes)


def _remembering(denoise: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Denoiser:
    """Give each guess to the next call (self-conditioning); the first call gets zeros."""
    guesses: list[Tensor] = []

    def denoiser(x_t: Tensor, t: Tensor) -> Tensor:
        seen = guesses.pop() if guesses else torch.zeros_like(x_t)
        guesses.append(denoise(x_t, t, seen))
        return guesses[0]

    return denoiser


def check_sampling(n: int, steps: int, sampler: str, eta: float, guidance: float) -> None:
    """Refuse what no sampler can do, before any work."""
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"the number of samples must be a whole number of at least 1, got {n}")
    time_grid(steps)  # refuses a bad number of steps now rather than at the first one
    if sampler not in ("ddim", "ddpm"):
        raise ValueError(f"sampler must be 'ddim' or 'ddpm', got {sampler!r}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be from 0 to 1, got {eta}")
    if not 0 <= guidance <= 100:
        raise ValueError(f"guidance must be from 0 to 100, got {guidance}")
