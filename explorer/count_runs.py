"""What the view Watch of the page Counts asks of a model: a life, its schedule, rows of values."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from explorer.count_params import OWN, Params
from explorer.counts_scene import Life, scene
from explorer.jobs import Tick
from explorer.models import Peer
from sed_core.births import Move, moves, reverse_step
from sed_core.chance import seeded, split
from sed_core.countsdiff import CountsDiff, guided
from sed_core.domains.toy import TOY
from sed_core.limits import LAPTOP
from sed_core.stream import Step, Trace
from sed_core.thinning import death_rate, log_odds, survival, survival_schedule, transition

SIDE, LARGEST = 28, 255


def now() -> str:
    """The time, for a recipe."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def way(params: Params) -> dict[str, Any]:
    """The options of a CountsDiff's stream that say how it goes."""
    schedule = None if params.schedule == OWN else params.schedule
    return {
        "steps": params.steps, "schedule": schedule, "spacing": params.spacing,
        "attrition": params.attrition, "strength": params.strength, "births": params.births,
    }  # fmt: skip


def plan(params: Params, own: str) -> list[Move]:
    """The steps that these settings mean for a model whose own schedule is known."""
    schedule = survival_schedule(own if params.schedule == OWN else params.schedule)
    strength = params.strength if params.attrition not in ("none", "max") else 0.0
    return moves(
        schedule, params.steps, spacing=params.spacing,  # pyright: ignore[reportArgumentType]
        attrition=params.attrition, strength=strength,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def watched(steps: Iterable[Step[Any]], tick: Tick, first: float, end: float) -> Iterator[Step]:
    """Pass steps on and say how far they are."""
    for step in steps:
        tick(first + (end - first) * step.i / step.n)
        yield step


# -- the schedule ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A survival schedule at many times, and where the steps of a sampler fall."""

    t: list[float]
    alive: list[float]
    odds: list[float]
    edges: list[float]
    alive_at: list[float]
    odds_at: list[float]
    death: list[float]  # -p'(t), the share of all units that dies per unit of time


def curve(params: Params, own: str) -> Curve:
    """What the chosen schedule does, and where the chosen steps fall."""
    schedule = survival_schedule(own if params.schedule == OWN else params.schedule)
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    p, edges = schedule(t), edges_of(plan(params, own))
    p_at = torch.tensor([survival(schedule, at) for at in edges], dtype=torch.float64)
    rate = death_rate(schedule, t[1:-1])
    return Curve(
        t.tolist(), p.tolist(), log_odds(p).tolist(), edges, p_at.tolist(),
        log_odds(p_at).tolist(), [float("nan"), *rate.tolist(), float("nan")],
    )  # fmt: skip


def edges_of(steps: Sequence[Move]) -> list[float]:
    """Times between the steps, from 0 to 1."""
    return [0.0, *(move.t for move in reversed(steps))]


# -- watch -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Watched:
    """One row dying forward and another being born in reverse."""

    params: Params
    sha: str
    times: tuple[float, ...]
    alive: tuple[float, ...]
    deaths: Tensor  # (N + 1, D), at those times
    births: Trace[Tensor]  # of one row
    seconds: float
    made: str
    device: str

    @property
    def stamp(self) -> str:
        """The name of this result."""
        return self.params.stamp(self.sha)

    @property
    def counts(self) -> Tensor:
        """What was born, (1, D)."""
        return self.births.x


def watch(peer: Peer, params: Params, own: str, tick: Tick) -> Watched:
    """Draw one row with all its steps, and let another one die."""
    model: CountsDiff = peer.model
    ours = _asked(params) if model.classes else {}
    LAPTOP.check(rows=2, steps=params.steps, seed=params.seed)
    first, second, thinning = split(seeded(params.seed), 3)
    half = 0.5 if model.classes else 1.0
    with torch.inference_mode():
        begun = time.perf_counter()
        steps = model.stream(1, **way(params), **ours, generator=[first])
        births = Trace(tuple(watched(steps, tick, 0.0, half)))
        seconds = time.perf_counter() - begun
        dying = (
            finished(model.stream(1, **way(params), **ours, generator=[second]), tick, half, 1.0)
            if model.classes else TOY.sample(1, generator=[second])
        )  # fmt: skip
    times, alive, deaths = die(dying, plan(params, own), thinning)
    return Watched(params, peer.sha, times, alive, deaths, births, seconds, now(), device(model))


def _asked(params: Params) -> dict[str, Any]:
    """Class and guidance; guidance 0 is without a class."""
    return {"label": params.label if params.guidance else None, "guidance": params.guidance}


def die(
    x: Tensor, steps: Sequence[Move], chance: torch.Generator
) -> tuple[tuple[float, ...], tuple[float, ...], Tensor]:
    """Times, shares alive and states of a row whose units die one by one."""
    states, alive = [x], [1.0]
    for move in reversed(steps):
        states.append(transition(states[-1], move.p_s, move.p_t, generator=[chance]))
        alive.append(move.p_t)
    return tuple(edges_of(steps)), tuple(alive), torch.cat(states)


def life(found: Watched) -> dict[str, Any]:
    """The scene that the player plays."""
    is_digit = found.counts.shape[1] == SIDE**2
    largest = max(int(found.deaths.max()), *(int(step.x.max()) for step in found.births.steps))
    return scene(
        Life(
            title="A digit" if is_digit else "Ten counts",
            names=() if is_digit else names(), side=SIDE if is_digit else 0,
            largest=LARGEST if is_digit else largest, deaths=found.deaths.unbind(0),
            times=found.times, survival=found.alive, births=found.births.steps, ident=found.stamp,
        )
    )  # fmt: skip


def names() -> tuple[str, ...]:
    """What the toy's dimensions are called."""
    return tuple(str(j + 1) for j in range(len(TOY.mean)))


def finished(steps: Iterable[Step[Tensor]], tick: Tick, first: float, end: float) -> Tensor:
    """The last state of a stream."""
    x = None
    for step in watched(steps, tick, first, end):
        x = step.x
    assert x is not None
    return x


def device(model: Any) -> str:
    """Where a model runs."""
    return str(next(model.parameters()).device)


# -- what each value does --------------------------------------------------------------------------

GUIDANCES = (0.0, 1.0, 2.0, 4.0, 8.0)
ATTRITIONS = (("none", 0.02), ("rescaled", 0.02), ("rescaled", 0.2), ("rate", 5.0), ("max", 0.02))


@dataclass(frozen=True, eq=False)
class Strip:
    """The same seed under other values: `guidance` and `attrition` hold value, row."""

    params: Params
    sha: str
    guidance: tuple[tuple[str, Tensor, bool], ...]  # words, counts (D,), whether it is as set
    attrition: tuple[tuple[str, Tensor, bool], ...]
    seconds: float


def strip(peer: Peer, params: Params, own: str, tick: Tick) -> Strip:
    """Draw the same start under all values, all rows in one network call a step."""
    variants = [replace(params, guidance=guidance) for guidance in GUIDANCES]
    others = [replace(params, attrition=kind, strength=much) for kind, much in ATTRITIONS]
    if not any(_attrition(one) == _attrition(params) for one in others):
        others.append(params)
    begun = time.perf_counter()
    rows = _together(peer.model, [*variants, *others], own, tick)
    shown = [(f"{one.guidance:g}", row, one.guidance == params.guidance)
             for one, row in zip(variants, rows, strict=False)]  # fmt: skip
    rest = [(_attrition(one), row, _attrition(one) == _attrition(params))
            for one, row in zip(others, rows[len(variants):], strict=True)]  # fmt: skip
    return Strip(params, peer.sha, tuple(shown), tuple(rest), time.perf_counter() - begun)


def _attrition(params: Params) -> str:
    bare = params.attrition in ("none", "max")
    return params.attrition if bare else f"{params.attrition} {params.strength:g}"


def _together(model: CountsDiff, variants: Sequence[Params], own: str, tick: Tick) -> list[Tensor]:
    """One row of each variant; they share time and network calls, and chance starts the same."""
    plans = [plan(one, own) for one in variants]
    chances = [split(seeded(one.seed), 1) for one in variants]
    x = torch.zeros(len(variants), model.dim, dtype=torch.int64)
    for i, together in enumerate(zip(*plans, strict=True), start=1):
        rates = _rates(model, variants, x, together[0].p_t)
        changed = [
            reverse_step(
                lambda _, __, row=rate: row, x[k : k + 1], move,
                births=variants[k].births,  # pyright: ignore[reportArgumentType]
                bounds=model.bounds, chance=chances[k],
            ).x
            for k, (move, rate) in enumerate(zip(together, rates, strict=True))
        ]  # fmt: skip
        x = torch.cat(changed)
        tick(i / len(plans[0]))
    return list(x)


@torch.no_grad()
def _rates(model: CountsDiff, variants: Sequence[Params], x: Tensor, p: float) -> list[Tensor]:
    """E[x_0 - x_t | x_t] of each row, (1, D), with its own guidance."""
    n, where = len(x), model.device
    label = torch.full((n,), variants[0].label if variants[0].label is not None else model.classes)
    both = torch.cat([label, torch.full((n,), model.classes)]).to(where)
    share = torch.full((2 * n,), p, dtype=torch.float64, device=where)
    noised = torch.zeros(2 * n, x.shape[1], device=where)
    told, plain = model.log_rate(x.repeat(2, 1).to(where), share, both, noised).cpu().chunk(2)
    return [
        guided(told[k : k + 1], plain[k : k + 1], one.guidance).exp()
        for k, one in enumerate(variants)
    ]
