"""Gaussian diffusion: noising, targets, the DDPM and DDIM steps and their loops.

    x_t = sqrt(ab) x0 + sqrt(1 - ab) eps,    ab = alpha_bar(t)

Shared by SED's latent and by the dense baselines, so that only the representation differs between
them. A denoiser maps (x_t, t) to a guess of x0; t has one entry a row.

References: DDPM (Ho et al. 2020), DDIM (Song et al. 2021), v target (Salimans and Ho 2022).
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sed_core.chance import Chance, normal, split
from sed_core.schedules import Schedule
from sed_core.stream import Step

Denoiser = Callable[[Tensor, Tensor], Tensor]
Target = Literal["x0", "eps", "v"]


def add_noise(
    schedule: Schedule, x0: Float[Tensor, "*X"], t: Float[Tensor, " B"], eps: Tensor
) -> Float[Tensor, "*X"]:
    """x_t of the forward process, given its noise."""
    signal, noise = _scales(schedule, t, x0)
    return signal * x0 + noise * eps


def target(kind: Target, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """What a network of this kind is trained to predict."""
    signal, noise = _scales(schedule, t, x0)
    return {"x0": x0, "eps": eps, "v": signal * eps - noise * x0}[kind]


def guess(kind: Target, schedule: Schedule, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The guess of x0 that a network's output of this kind means."""
    signal, noise = _scales(schedule, t, x_t)
    if kind == "eps":
        return (x_t - noise * output) / signal.clamp_min(1e-6)
    return output if kind == "x0" else signal * x_t - noise * output


@torch.no_grad()
def ddim_step(
    denoiser: Denoiser,
    schedule: Schedule,
    x_t: Float[Tensor, "*X"],
    t: float,
    s: float,
    *,
    eta: float = 0.0,
    generator: Chance,
) -> tuple[Float[Tensor, "*X"], Float[Tensor, "*X"]]:
    """One step t -> s of DDIM; eta = 0 draws nothing, eta = 1 is the DDPM step.

    A step to s = 0 returns the clean guess itself, without left-over noise.
    """
    x0 = denoiser(x_t, x_t.new_full((len(x_t),), t))
    if s <= 0:
        return x0, x0
    ab_t, ab_s = _alpha_bar(schedule, t), _alpha_bar(schedule, s)
    sigma = eta * sqrt((1 - ab_t / ab_s) * (1 - ab_s) / (1 - ab_t))  # Song et al., Eq. 16
    eps = (x_t - sqrt(ab_t) * x0) / sqrt(1 - ab_t)
    x_s = sqrt(ab_s) * x0 + sqrt(max(0.0, 1 - ab_s - sigma**2)) * eps  # Eq. 12
    return x_s + sigma * _noise(x_t, generator) if eta else x_s, x0


@torch.no_grad()
def ddpm_step(
    denoiser: Denoiser,
    schedule: Schedule,
    x_t: Float[Tensor, "*X"],
    t: float,
    s: float,
    *,
    generator: Chance,
) -> tuple[Float[Tensor, "*X"], Float[Tensor, "*X"]]:
    """One ancestral step t -> s: a draw from q(x_s | x_t, x0) at the guess of x0."""
    x0 = denoiser(x_t, x_t.new_full((len(x_t),), t))
    if s <= 0:
        return x0, x0
    ab_t, ab_s = _alpha_bar(schedule, t), _alpha_bar(schedule, s)
    kept = ab_t / ab_s
    mean = sqrt(kept) * (1 - ab_s) * x_t + sqrt(ab_s) * (1 - kept) * x0  # Ho et al., Eq. 7
    variance = (1 - ab_s) * (1 - kept) / (1 - ab_t)
    return mean / (1 - ab_t) + sqrt(variance) * _noise(x_t, generator), x0


def ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    x: Float[Tensor, "*X"],
    *,
    steps: int,
    eta: float = 0.0,
    generator: Chance,
) -> Iterator[Step[Tensor]]:
    """DDIM from noise x at t = 1 down to t = 0 in `steps` network evaluations."""
    chance = split(generator, len(x)) if eta else ()
    for i, (t, s) in enumerate(time_grid(steps), start=1):
        x, x0 = ddim_step(denoiser, schedule, x, t, s, eta=eta, generator=chance)
        yield Step("latent", i, steps, s, x, x0)


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    x: Float[Tensor, "*X"],
    *,
    steps: int,
    generator: Chance,
) -> Iterator[Step[Tensor]]:
    """Ancestral sampling from noise x at t = 1 down to t = 0 in `steps` network evaluations."""
    chance = split(generator, len(x))
    for i, (t, s) in enumerate(time_grid(steps), start=1):
        x, x0 = ddpm_step(denoiser, schedule, x, t, s, generator=chance)
        yield Step("latent", i, steps, s, x, x0)


def time_grid(steps: int) -> list[tuple[float, float]]:
    """The moves (t, s) of a uniform grid from 1 to 0."""
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps}")
    times = [1 - i / steps for i in range(int(steps))] + [0.0]
    return list(pairwise(times))


def _alpha_bar(schedule: Schedule, t: float) -> float:
    return schedule(torch.tensor(t, dtype=torch.float64)).item()


def _scales(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    ab = schedule(t.double()).reshape(-1, *[1] * (like.ndim - 1))
    return ab.sqrt().to(like.dtype), (1 - ab).sqrt().to(like.dtype)


def _noise(x: Tensor, generator: Chance) -> Tensor:
    return normal(split(generator, len(x)), *x.shape[1:]).to(x)
