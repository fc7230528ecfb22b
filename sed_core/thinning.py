"""Thinning: every unit of a count dies on its own, and p(t) is the probability that it still lives.

    x_t | x_0      ~  Bin(x_0, p_t)                                         marginal
    x_t | x_s      ~  Bin(x_s, p_t / p_s)                                   transition, s < t
    x_s | x_t, x_0 ~  x_t + Bin(x_0 - x_t, (p_s - p_t) / (1 - p_t))         bridge

A survival schedule is a `Schedule` (`sed_core.schedules`) that falls from 1 to 0. E^2 / Var of a
thinned count is x_0 p / (1 - p), so log p / (1 - p) plays the part of log-SNR.

Source: CountsDiff (Soatto et al. 2026), Blackout (Santos et al. 2023), JUMP (Chen and Zhou 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import exp, log, log1p, pi, tan
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sed_core.chance import Chance, split, uniform
from sed_core.gaussian import time_grid
from sed_core.inversion import binomial
from sed_core.limits import one_of
from sed_core.schedules import Cosine, Schedule, slope

LARGEST_LOG_ODDS = 15.0  # beyond, fewer than one unit in three million is on the other side
ENDS = 1e-6  # a schedule may miss 1 and 0 by as much
CHECKED = 10_000  # times at which a schedule is looked at

Spacing = Literal["t", "log_odds"]
SurvivalName = Literal["cosine", "shifted", "fi", "blackout", "jump", "linear", "sigmoid"]
Survival = float | Float[Tensor, " B"]  # one probability for all rows, or one a row


# -- schedules -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FisherInformation:
    """logit p(t) = A (1 - 2t), A = log(e^L - 1): equal steps of a count's Fisher information."""

    log_lifetime: float = 15.0

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.sigmoid(fisher_bound(self.log_lifetime) * (1 - 2 * t))


@dataclass(frozen=True)
class ShiftedCosine:
    """logit p(t) = 2 log cot(pi t / 2) - log k: the cosine for counts of about k.

    A count of k is as hard to tell at p as a count of 1 at k p, so grey levels, which go to 255,
    are decided where the plain cosine hardly is (Hoogeboom et al. 2023 shift large pictures so).
    """

    largest: float = 255.0

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        alive = torch.cos(pi / 2 * t).square()
        return alive / (alive + self.largest * torch.sin(pi / 2 * t).square())


@dataclass(frozen=True)
class Blackout:
    """Blackout's own grid: logit p_k = A (1 - 2 (k - 1) / (T - 1)) at t = k / T, and 1 at t = 0."""

    steps: int = 1000
    log_lifetime: float = 15.0

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        bound, k = fisher_bound(self.log_lifetime), t * self.steps
        p = torch.sigmoid(bound * (1 - 2 * (k - 1).clamp_min(0) / (self.steps - 1)))
        return p + (1 - k).clamp_min(0) * (1 - p)


@dataclass(frozen=True)
class Jump:
    """p(k / T) = prod_{i <= k} sqrt(1 - beta_i), beta rising linearly to where p(1) = e^-22.

    Between the grid points the sum of logarithms is an integral (midpoint rule).
    """

    steps: int = 1000
    first: float = 1e-4  # beta_1
    log_last: float = -22.0  # log p(1)

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        first, rise = self.first, _jump_rise(self)
        lowest = 1 - first + rise / 2
        kept = lowest - rise * self.steps * t
        area = kept * torch.log(kept) - kept - (lowest * log(lowest) - lowest)
        return torch.exp(-area / (2 * rise))


@dataclass(frozen=True)
class Linear:
    """p(t) = 1 - t."""

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 - t


@dataclass(frozen=True)
class Sigmoid:
    """A logistic curve from +a to -a, stretched to fall from 1 to 0 exactly."""

    a: float = 6.0

    def __call__(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        half = torch.full_like(t, self.a / 2)
        return 0.5 + 0.5 * torch.tanh(half * (1 - 2 * t)) / torch.tanh(half)


SURVIVAL: Mapping[str, Schedule] = {
    "cosine": Cosine(0.0),  # cos^2(pi t / 2)
    "shifted": ShiftedCosine(),
    "fi": FisherInformation(),
    "blackout": Blackout(),
    "jump": Jump(),
    "linear": Linear(),
    "sigmoid": Sigmoid(),
}


def survival_schedule(wanted: str | Schedule) -> Schedule:
    """The schedule of that name, or one's own if it keeps the contract.

    Raises:
        ValueError: for another name, or a function that is no survival schedule.
    """
    if callable(wanted):
        check_survival(wanted)
        return wanted
    one_of("schedule", wanted, tuple(SURVIVAL))
    return SURVIVAL[wanted]


def check_survival(schedule: Schedule) -> None:
    """Let a schedule through that falls strictly from 1 at t = 0 to 0 at t = 1.

    Raises:
        ValueError: saying which of these it misses, and where.
    """
    t = torch.linspace(0, 1, CHECKED + 1, dtype=torch.float64)
    p = schedule(t)
    if p.shape != t.shape or not bool(p.isfinite().all()):
        raise ValueError("a survival schedule maps each t in [0, 1] to one finite probability")
    if not 1 - ENDS <= p[0].item() <= 1 or not 0 <= p[-1].item() <= ENDS:
        raise ValueError(
            f"a survival schedule falls from 1 to 0, got p(0) = {p[0].item():.6g} and "
            f"p(1) = {p[-1].item():.6g}; everything must be dead at t = 1"
        )
    rises = (p[1:] >= p[:-1]).nonzero()
    if len(rises):
        raise ValueError(
            f"a survival schedule falls strictly, but this one does not at t = "
            f"{t[rises[0]].item():.4f}"
        )


def fisher_bound(log_lifetime: float) -> float:
    """A = log(e^L - 1), the log-odds at the clean end."""
    return log_lifetime + log1p(-exp(-log_lifetime))


@lru_cache
def _jump_rise(schedule: Jump) -> float:
    """beta_2 - beta_1, found by bisection: the steeper, the less survives."""
    low, high = 0.0, (1 - schedule.first) / schedule.steps
    ranks = torch.arange(schedule.steps, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        log_p = torch.log1p(-(schedule.first + middle * ranks)).sum().item() / 2
        low, high = (middle, high) if log_p > schedule.log_last else (low, middle)
    return low


# -- probabilities at a time -----------------------------------------------------------------------


def survival(schedule: Schedule, t: float) -> float:
    """p(t) in float64; exactly 1 at t = 0 and 0 at t = 1, which some schedules miss by e^-15."""
    if t <= 0 or t >= 1:
        return 1.0 if t <= 0 else 0.0
    return schedule(torch.tensor(t, dtype=torch.float64)).item()


def log_odds(p: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """log p / (1 - p) in float64, cut off where it says nothing more."""
    return torch.logit(p.double()).clamp(-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)


def death_rate(schedule: Schedule, t: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """-p'(t): the share of all units that dies per unit of time."""
    return -slope(schedule, t)


# -- grids -----------------------------------------------------------------------------------------


def survival_grid(
    schedule: Schedule, steps: int, *, spacing: Spacing = "t"
) -> list[tuple[float, float]]:
    """The moves (t, s) of a sampler from 1 to 0, with edges uniform in t or in log p / (1 - p).

    Those uniform in log-odds start and end with steps as large as the cosine's of as many.
    """
    uniform_in_t = time_grid(steps)  # refuses a bad number of steps
    one_of("spacing", spacing, get_args(Spacing))
    if spacing == "t" or steps == 1:
        return uniform_in_t
    largest = -2 * log(tan(pi / (2 * steps)))
    levels = torch.linspace(-largest, largest, steps - 1, dtype=torch.float64)
    inner = [float(t) for t in time_of(schedule, torch.sigmoid(levels))]
    return list(pairwise([1.0, *inner, 0.0]))


def time_of(schedule: Schedule, p: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """The time at which the share p survives, by bisection."""
    low, high = torch.zeros_like(p), torch.ones_like(p)
    for _ in range(60):
        middle = (low + high) / 2
        alive = schedule(middle) > p
        low, high = torch.where(alive, middle, low), torch.where(alive, high, middle)
    return (low + high) / 2


# -- exact laws ------------------------------------------------------------------------------------


def thin(x: Int64[Tensor, "B D"], p: Survival, *, generator: Chance) -> Int64[Tensor, "B D"]:
    """Bin(x, p): each unit lives on with probability p."""
    u = uniform(split(generator, len(x)), *x.shape[1:], dtype=torch.float64).to(x.device)
    return binomial(x, _column(p, x), u)


def transition(
    x_s: Int64[Tensor, "B D"], p_s: Survival, p_t: Survival, *, generator: Chance
) -> Int64[Tensor, "B D"]:
    """x_t | x_s for s < t."""
    kept = transition_probability(_column(p_s, x_s), _column(p_t, x_s))
    return thin(x_s, kept.squeeze(1), generator=generator)


def bridge(
    x_t: Int64[Tensor, "B D"],
    x0: Int64[Tensor, "B D"],
    p_s: Survival,
    p_t: Survival,
    *,
    generator: Chance,
) -> Int64[Tensor, "B D"]:
    """x_s | x_t, x0 for s < t: some of the dead were still alive at s."""
    alive = bridge_probability(_column(p_s, x_t), _column(p_t, x_t))
    return x_t + thin(x0 - x_t, alive.squeeze(1), generator=generator)


def transition_probability(
    p_s: Float[Tensor, "*X"], p_t: Float[Tensor, "*X"]
) -> Float[Tensor, "*X"]:
    """That a unit which lives at s still does at t; 0 where none lives at s."""
    _refuse_rising(p_s, p_t)
    return torch.where(p_s > 0, p_t / p_s, 0.0)


def bridge_probability(p_s: Float[Tensor, "*X"], p_t: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """That a unit which is dead at t was still alive at s; 0 where none is dead at t."""
    _refuse_rising(p_s, p_t)
    return torch.where(p_t < 1, (p_s - p_t) / (1 - p_t), 0.0)


def _column(p: Survival, x: Tensor) -> Float[Tensor, "B 1"]:
    """A probability for each row."""
    column = torch.as_tensor(p, dtype=torch.float64, device=x.device).reshape(-1, 1)
    if not bool(((column >= 0) & (column <= 1)).all()):
        raise ValueError(f"a survival probability is from 0 to 1, got {p}")
    return column.expand(len(x), 1)


def _refuse_rising(p_s: Tensor, p_t: Tensor) -> None:
    if bool((p_t > p_s).any()):
        raise ValueError("s comes before t, so p_t may not be above p_s; swap them")
