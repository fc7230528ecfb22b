"""Imputation of counts: draws of the missing entries of a row, given the observed ones.

conditional  the network sees observed entries clean, as in training: p(missing | observed)
replace      any network; at every step observed entries are thinned afresh (RePaint, Lugmayr et al.
             2022). At high noise they are hidden, too, so their pull on the rest is too weak:
             the imputed mean of the toy follows them at a slope of 0.7, where 1 is right

Several draws say how sure one is: `summary` for one entry, `pool` (Rubin 1987) for an estimate.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from sed_core.births import (
    UNBOUNDED,
    BirthLaw,
    Bounds,
    Chances,
    Change,
    Drawing,
    Move,
    Rate,
    as_step,
    reverse_step,
)
from sed_core.chance import offspring
from sed_core.stream import Step
from sed_core.thinning import thin, transition

Method = Literal["conditional", "replace"]


def conditional(
    rate: Rate,
    x: Int64[Tensor, "n D"],
    observed: Bool[Tensor, "n D"],
    plan: Sequence[Move],
    *,
    births: BirthLaw = "stochastic",
    bounds: Bounds = UNBOUNDED,
    chance: Chances,
) -> Iterator[Step[Tensor]]:
    """The reverse process of the missing entries; observed ones stand in the state as they are."""
    x_t = torch.where(observed, x, 0)
    for i, move in enumerate(plan, start=1):
        change = reverse_step(rate, x_t, move, births=births, bounds=bounds, chance=chance)
        change = _held(change, x_t, observed)
        yield as_step(change, x_t, i, len(plan), move.s)
        x_t = change.x


def replace(
    rate: Rate,
    x: Int64[Tensor, "n D"],
    observed: Bool[Tensor, "n D"],
    plan: Sequence[Move],
    *,
    rounds: int = 1,
    jump: int = 10,
    births: BirthLaw = "stochastic",
    bounds: Bounds = UNBOUNDED,
    chance: Chances,
) -> Iterator[Step[Tensor]]:
    """The reverse process of all entries, observed ones replaced by x thinned afresh at each step.

    Every `jump` steps are walked `rounds` times, with noise in between, so that both parts can come
    to terms (RePaint); this takes rounds * steps network evaluations.
    """
    _check_rounds(rounds, jump, len(plan))
    order = repaint(plan, rounds, jump)
    return _replace(rate, x, observed, order, births=births, bounds=bounds, chance=chance)


def _replace(
    rate: Rate,
    x: Tensor,
    observed: Tensor,
    order: Sequence[tuple[Move, float | None]],
    **law: Unpack[Drawing],
) -> Iterator[Step[Tensor]]:
    seen, aside = torch.where(observed, x, 0), [offspring(g, 1)[0] for g in law["chance"]]
    x_t = torch.zeros_like(x)
    for i, (move, back) in enumerate(order, start=1):
        change = reverse_step(rate, x_t, move, **law)
        x_s = torch.where(observed, thin(seen, move.p_s, generator=aside), change.x)
        yield as_step(_replaced(change, x_t, x_s, observed), x_t, i, len(order), move.s)
        if back is not None:
            forgotten = transition(x_s, move.p_s, back, generator=aside)
            x_s = torch.where(observed, thin(seen, back, generator=aside), forgotten)
        x_t = x_s


def repaint(plan: Sequence[Move], rounds: int, jump: int) -> list[tuple[Move, float | None]]:
    """Moves in the order of RePaint, each with the survival that noise brings back after it."""
    order: list[tuple[Move, float | None]] = []
    for first in range(0, len(plan), jump):
        group = plan[first : first + jump]
        for turn in range(1, rounds + 1):
            order += [(move, None) for move in group[:-1]]
            order.append((group[-1], group[0].p_t if turn < rounds else None))
    return order


def _check_rounds(rounds: int, jump: int, steps: int) -> None:
    """Refuse what is no RePaint, and warn where it comes to nothing."""
    if rounds < 1 or jump < 1:
        raise ValueError(f"rounds and jump are at least 1, got {rounds} and {jump}")
    if rounds > 1 and jump >= steps:
        warnings.warn(
            f"a jump of {jump} over {steps} steps goes back to the empty state, so only the last "
            f"of {rounds} rounds counts; take a jump below the number of steps",
            stacklevel=3,
        )


def _held(change: Change, x_t: Tensor, fixed: Tensor) -> Change:
    """A change that leaves some entries as they are."""
    x = torch.where(fixed, x_t, change.x)
    births, deaths = (part.masked_fill(fixed, 0) for part in (change.births, change.deaths))
    return Change(x, births, deaths, change.rate.masked_fill(fixed, 0))


def _replaced(change: Change, x_t: Tensor, x_s: Tensor, observed: Tensor) -> Change:
    """A change to x_s, whose births and deaths at observed entries are what became of them."""
    gained = x_s - x_t
    births = torch.where(observed, gained.clamp_min(0), change.births)
    deaths = torch.where(observed, (-gained).clamp_min(0), change.deaths)
    return Change(x_s, births, deaths, change.rate)


# -- what several draws say ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Summary:
    """Of every entry, over the draws; `quantile` has one row for each level asked for."""

    mean: Float[Tensor, "B D"]
    sd: Float[Tensor, "B D"]
    median: Float[Tensor, "B D"]
    quantile: Float[Tensor, "Q B D"]


def summary(draws: Num[Tensor, "M B D"], levels: Sequence[float] = (0.05, 0.95)) -> Summary:
    """Mean, sd (over M - 1; 0 for one draw), median and quantiles of each entry."""
    if not len(draws):
        raise ValueError("a summary needs at least one draw, got none")
    x, asked = draws.double(), torch.tensor(levels, dtype=torch.float64)
    sd = x.std(0) if len(x) > 1 else torch.zeros_like(x[0])
    return Summary(x.mean(0), sd, x.quantile(0.5, 0), x.quantile(asked, 0))


@dataclass(frozen=True, eq=False)
class Pooled:
    """An estimate over several imputations, with how much of its variance they are to blame for."""

    estimate: Float[Tensor, "*X"]
    variance: Float[Tensor, "*X"]  # total
    within: Float[Tensor, "*X"]
    between: Float[Tensor, "*X"]
    freedom: Float[Tensor, "*X"]  # degrees of freedom of the t interval
    missing: Float[Tensor, "*X"]  # share of the variance that is due to what is missing


def pool(estimates: Num[Tensor, "M ..."], variances: Num[Tensor, "M ..."]) -> Pooled:
    """Rubin's rules: one estimate and its sampling variance from each of M completed data sets.

    T = W + (1 + 1/M) B,   degrees of freedom (M - 1) (T / ((1 + 1/M) B))^2

    Raises:
        ValueError: for fewer than two imputations, which say nothing of the variance between them.
    """
    m = len(estimates)
    if m < 2:
        raise ValueError(f"Rubin's rules need at least two imputations, got {m}")
    if variances.shape != estimates.shape or bool((variances < 0).any()):
        raise ValueError("each estimate needs one variance, which is not negative")
    estimate, within = estimates.double().mean(0), variances.double().mean(0)
    between = estimates.double().var(0)
    extra = (1 + 1 / m) * between
    total = within + extra
    missing = torch.where(total > 0, extra / total, 0.0)
    return Pooled(estimate, total, within, between, (m - 1) / missing.square(), missing)
