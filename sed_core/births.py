"""The reverse step of thinned counts: births where the network expects missing units, maybe deaths.

    sigma in [0, sigma_max],   sigma_max = min(1, (1 - p_s) / p_t)              attrition
    beta = (p_s - (1 - sigma) p_t) / (1 - p_t)
    x_s = Bin(x_t, 1 - sigma) + Bin(x_0 - x_t, beta)   ~   Bin(x_0, p_s) given x_0

sigma = 0 is the bridge of `sed_core.thinning`, in which counts only grow. The sampler puts the
network's rate E[x_0 - x_t | x_t] in place of x_0 - x_t: tau-leaping of a birth and death process.

Source: CountsDiff (Soatto et al. 2026), Prop. 3.2.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite
from typing import Literal, TypedDict, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sed_core.chance import uniform
from sed_core.inversion import binomial, poisson, rounded_binomial
from sed_core.limits import one_of
from sed_core.schedules import Schedule
from sed_core.stream import Step
from sed_core.thinning import Spacing, survival, survival_grid

Attrition = Literal["none", "rescaled", "rate", "capped", "max"]
BirthLaw = Literal["stochastic", "binomial", "poisson"]
Rate = Callable[[Tensor, float], Tensor]  # (x_t, p_t) -> E[x_0 - x_t | x_t]
Chances = Sequence[torch.Generator]  # one a row


@dataclass(frozen=True)
class Move:
    """A step t -> s, and what it does to a unit: dies with sigma, is born with beta."""

    t: float
    s: float
    p_t: float
    p_s: float
    sigma: float
    beta: float


@dataclass(frozen=True)
class Bounds:
    """What a count may not pass.

    `largest` bounds the counts themselves, 0 if nothing does; `guard` bounds the rate, so that a
    network in a state it has never seen does not run away.
    """

    largest: int = 0
    guard: float = 1e6


UNBOUNDED = Bounds()


class Drawing(TypedDict):
    """How the steps of a sampler draw."""

    births: BirthLaw
    bounds: Bounds
    chance: Chances


# -- what a step does to a unit --------------------------------------------------------------------


def moves(
    schedule: Schedule,
    steps: int,
    *,
    spacing: Spacing = "t",
    attrition: Attrition = "none",
    strength: float = 0.0,
) -> list[Move]:
    """The steps of a sampler, one for each network evaluation.

    Args:
        spacing: whether edges are uniform in t or in log p / (1 - p).
        attrition: how many units die again at each step; see `attrition_probability`.
    """
    check_attrition(attrition, strength)
    grid, found = survival_grid(schedule, steps, spacing=spacing), list[Move]()
    alive = [0.0, *(survival(schedule, s) for _, s in grid)]
    for (t, s), (p_t, p_s) in zip(grid, pairwise(alive), strict=True):
        sigma = attrition_probability(attrition, strength, p_t, p_s, t - s)
        found.append(Move(t, s, p_t, p_s, sigma, birth_probability(p_t, p_s, sigma)))
    return found


def attrition_probability(
    kind: Attrition, strength: float, p_t: float, p_s: float, duration: float
) -> float:
    """sigma: the probability that a living unit dies in a reverse step, never above sigma_max.

    none      0
    rescaled  strength * sigma_max: a share of the largest possible, per step
    rate      1 - exp(-strength * duration): a hazard, per unit of time
    capped    strength: the same at each step
    max       sigma_max: living and dead change places as far as the law allows
    """
    largest = largest_attrition(p_t, p_s)
    wanted = {
        "none": 0.0,
        "rescaled": strength * largest,
        "rate": 1 - exp(-strength * duration),
        "capped": strength,
        "max": 1.0,
    }[kind]
    return min(wanted, largest)


def largest_attrition(p_t: float, p_s: float) -> float:
    """sigma_max; above it, no number of births makes up for the deaths."""
    return min(1.0, (1 - p_s) / p_t) if p_t > 0 else 1.0


def birth_probability(p_t: float, p_s: float, sigma: float) -> float:
    """beta: the probability that a dead unit is alive after the step, so that the share p_s is."""
    return min(1.0, max(0.0, (p_s - (1 - sigma) * p_t) / (1 - p_t)))  # Prop. 3.2


def check_attrition(kind: str, strength: float) -> None:
    """Refuse what is no attrition."""
    one_of("attrition", kind, get_args(Attrition))
    highest = {"rescaled": 1.0, "capped": 1.0}.get(kind, 1e6)
    if not 0 <= strength <= highest:
        raise ValueError(f"strength of {kind} attrition is from 0 to {highest:g}, got {strength}")


# -- step ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Change:
    """The state after a step, and what led there."""

    x: Int64[Tensor, "n D"]
    births: Int64[Tensor, "n D"]
    deaths: Int64[Tensor, "n D"]
    rate: Float[Tensor, "n D"]


@torch.no_grad()
def reverse_step(
    rate: Rate,
    x_t: Int64[Tensor, "n D"],
    move: Move,
    *,
    births: BirthLaw = "stochastic",
    bounds: Bounds = UNBOUNDED,
    chance: Chances,
) -> Change:
    """One step t -> s of every row, each with its own generator."""
    expected = bounded(rate(x_t, move.p_t), x_t, bounds)
    draw = lambda: uniform(chance, x_t.shape[1], dtype=torch.float64)  # noqa: E731
    born = draw_births(births, expected, move.beta, draw())
    died = (
        binomial(x_t, _scalar(move.sigma), draw())
        if move.sigma
        else x_t.new_zeros(()).expand_as(x_t)
    )
    x_s = x_t - died + born if move.sigma else x_t + born
    if bounds.largest and births == "poisson":  # the only births without a largest number
        x_s = x_s.clamp_max(bounds.largest)
        born = x_s - x_t + died
    return Change(x_s, born, died, expected)


def draw_births(
    kind: BirthLaw, rate: Float[Tensor, "n D"], beta: float, u: Float[Tensor, "n D"]
) -> Int64[Tensor, "n D"]:
    """Births of mean beta * rate, one for each uniform u.

    stochastic  Bin(R, beta), where R is the rate rounded up or down at random
    binomial    Bin(ceil rate, beta rate / ceil rate)
    poisson     Poisson(beta rate): exact if the data are, and closer if they spread more
    """
    if kind == "poisson":
        return poisson(rate, u, times=beta)
    if kind == "stochastic":
        return rounded_binomial(rate, _scalar(beta), u)
    if kind == "binomial":
        largest = rate.double().ceil()
        return binomial(largest, beta * rate / largest.clamp_min(1), u)
    raise AssertionError(f"no births called {kind}")


def bounded(
    rate: Float[Tensor, "n D"], x_t: Int64[Tensor, "n D"], bounds: Bounds
) -> Float[Tensor, "n D"]:
    """The rate within what it may be; warns where the guard has to step in."""
    peak = rate.max().item()  # NaN if any is
    if not isfinite(peak):
        raise FloatingPointError("the network gives rates that are not finite; train it again")
    if bounds.largest:
        return rate.minimum((bounds.largest - x_t).to(rate))
    if peak > bounds.guard:
        warnings.warn(
            f"the network expects {peak:.3g} missing units, which is cut off at the guard of "
            f"{bounds.guard:g}; it may be in states that it was not trained for",
            stacklevel=2,
        )
        return rate.clamp_max(bounds.guard)
    return rate


def _scalar(p: float) -> Float[Tensor, ""]:
    return torch.tensor(p, dtype=torch.float64)


# -- loop ------------------------------------------------------------------------------------------


def reverse(
    rate: Rate,
    x: Int64[Tensor, "n D"],
    plan: Sequence[Move],
    *,
    births: BirthLaw = "stochastic",
    bounds: Bounds = UNBOUNDED,
    chance: Chances,
) -> Iterator[Step[Tensor]]:
    """From the state x along the plan; x0 of a step is the guess E[x_0 | x_t]."""
    for i, move in enumerate(plan, start=1):
        change = reverse_step(rate, x, move, births=births, bounds=bounds, chance=chance)
        yield as_step(change, x, i, len(plan), move.s)
        x = change.x


def as_step(change: Change, x_t: Tensor, i: int, n: int, s: float) -> Step[Tensor]:
    """A finished change as a step of the stream."""
    seen = {"births": change.births, "deaths": change.deaths, "rate": change.rate}
    return Step("counts", i, n, s, change.x, x_t + change.rate, seen)
