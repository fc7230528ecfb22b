"""What the app asks of a model: one sample with all a picture needs, and other ends of it."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from explorer.controls import Params, stamp
from explorer.kinds import MNIST, Kind
from explorer.scene import scene
from sed_core.chance import seeded, split
from sed_core.limits import LAPTOP
from sed_core.sed import SED
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, Trace, last

Tick = Callable[[float], None]
GUESSES = 25  # decoded guesses on the way; more cost more time than the sample itself
LATENT, PAIRS = 0.1, 0.5  # shares of the progress bar that are done when a stage ends
STAGES = {
    LATENT: "Noise to latent",
    PAIRS: "Latent to pairs",
    1.0: "Drawing the guesses on the way",
}


@dataclass(frozen=True)
class Run:
    """One sample: its trace, the guesses on the way, measured seconds.

    `chance` is the generator's state where the pairs began; `guesses` has a row for each latent
    step (see `_guesses`); `forks` are the (place, index) where another pair was chosen, in order.
    """

    params: Params
    sha: str
    trace: Trace[Any]
    guesses: SparseBatch
    chance: Tensor
    latent_seconds: float
    pairs_seconds: float
    made: str
    device: str
    forks: tuple[tuple[int, int], ...] = ()
    kind: Kind = MNIST

    @property
    def stamp(self) -> str:
        """The name of this result: its recipe's hash, with the fork where there is one."""
        forks = [f"-at{at}-{index}" for at, index in self.forks]
        return stamp(self.params, self.sha) + "".join(forks)

    @property
    def sample(self) -> SparseBatch:
        """The finished sample, one row."""
        return self.trace.x

    @property
    def latent_steps(self) -> tuple[Step[Tensor], ...]:
        """The way from noise to latent."""
        return tuple(step for step in self.trace.steps if step.stage == "latent")

    @property
    def pair_steps(self) -> tuple[Step[SparseBatch], ...]:
        """The way from latent to pairs."""
        return tuple(step for step in self.trace.steps if step.stage == "pairs")


def stage(fraction: float) -> str:
    """The words for how far a run is."""
    return next(words for end, words in STAGES.items() if fraction <= end)


def generate(model: SED, params: Params, sha: str, tick: Tick, kind: Kind = MNIST) -> Run:
    """Draw one sample and keep every step."""
    LAPTOP.check(
        rows=1,
        steps=params.steps,
        guidance=params.guidance,
        eta=params.eta,
        temperature=params.temperature,
        seed=params.seed,
    )
    with torch.inference_mode():
        chance = split(seeded(params.seed), 1)
        begun = time.perf_counter()
        latent = list(_watched(_diffuse(model, params, chance), tick, 0.0, LATENT))
        state, between = chance[0].get_state(), time.perf_counter()
        pairs = _decode(model, latent[-1].x, params, chance)
        pairs = list(_watched(pairs, tick, LATENT, PAIRS))
        ended = time.perf_counter()
        guesses = _guesses(model, latent, tick)
    tick(1.0)
    return Run(
        params,
        sha,
        Trace((*latent, *pairs)),
        guesses,
        state,
        between - begun,
        ended - between,
        _now(),
        _device(model),
        kind=kind,
    )


def fork(model: SED, run: Run, at: int, index: int, tick: Tick) -> Run:
    """The same sample up to pair `at` (from 0), then `index`, then on with the same noise."""
    steps = run.pair_steps
    if not 0 <= at < len(steps):
        raise ValueError(f"a sample of {len(steps)} steps has no step {at}")
    prefix = _first(run.sample, at)
    lowest = int(prefix.index[0, at - 1]) + 1 if at else 0
    if not lowest <= index <= run.sample.dim:
        raise ValueError(f"the next {run.kind.cell} must come from {lowest} on, got {index}")
    chance = torch.Generator()
    chance.set_state(run.chance)
    with torch.inference_mode():
        begun = time.perf_counter()
        rest = model.decode(
            run.latent_steps[-1].x,
            temperature=run.params.temperature,
            prefix=prefix,
            choose=torch.tensor([index]),
            generator=[chance],
        )
        rest = list(_watched(rest, tick, 0.0, 1.0))
        seconds = time.perf_counter() - begun
    kept: tuple[Step[Any], ...] = (*run.latent_steps, *steps[:at])
    trace = Trace((*kept, *rest))
    forks = (*(earlier for earlier in run.forks if earlier[0] < at), (at, index))
    return replace(run, trace=trace, pairs_seconds=seconds, made=_now(), forks=forks)


def _diffuse(model: SED, params: Params, chance: list[torch.Generator]) -> Iterator[Step[Tensor]]:
    return model.diffuse(
        1,
        steps=params.steps,
        sampler=params.sampler,  # pyright: ignore[reportArgumentType]
        eta=params.eta,
        label=params.label,
        guidance=params.guidance,
        generator=chance,
    )


def _decode(
    model: SED, z: Tensor, params: Params, chance: list[torch.Generator]
) -> Iterator[Step[SparseBatch]]:
    return model.decode(z, temperature=params.temperature, generator=chance)


def _guesses(model: SED, latent: list[Step[Tensor]], tick: Tick) -> SparseBatch:
    """What the latent guesses would become, decoded together without chance: a row a step.

    At most GUESSES of them are decoded; a step between two of these keeps the earlier picture.
    """
    count = min(GUESSES, len(latent))
    places = torch.linspace(0, len(latent) - 1, count).round().long()
    guesses = [step.x if step.x0 is None else step.x0 for step in latent]
    z0 = torch.cat([guesses[place] for place in places.tolist()])
    chance = split(seeded(0), count)
    steps = model.decode(z0, temperature=0, value_temperature=0, generator=chance, detail=False)
    decoded = last(_watched(steps, tick, PAIRS, 1.0))
    rows = torch.searchsorted(places, torch.arange(len(latent)), right=True) - 1
    return decoded[rows]


def _watched(
    steps: Iterator[Step[Any]], tick: Tick, start: float, end: float
) -> Iterator[Step[Any]]:
    """Pass steps on and say how far they are; `1 - t` is the share of the stage that is done."""
    for step in steps:
        tick(start + (end - start) * min(1.0, max(0.0, 1 - step.t)))
        yield step


def _first(batch: SparseBatch, n: int) -> SparseBatch:
    return SparseBatch(batch.index[:, :n], batch.value[:, :n], batch.mask[:, :n], batch.dim)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _device(model: SED) -> str:
    return str(next(model.parameters()).device)


@dataclass(frozen=True)
class Shown:
    """A result as the page keeps it: the run and the scene that the player plays."""

    run: Run
    scene: dict[str, Any]


def shown(run: Run, recipe: Mapping[str, Any], cloud: Mapping[str, Any] | None) -> Shown:
    """Make the player's scene of a run."""
    kind = run.kind
    picture = scene(
        run.trace,
        width=kind.side,
        height=kind.side,
        unit=kind.unit,
        cell=kind.cell,
        scale=kind.scale,
        top=kind.top,
        low=kind.low if kind.tone == "log" else None,
        tone=kind.tone,
        guesses=run.guesses,
        cloud=cloud,
        title="Your choice" if run.forks else "Original",
        fork={"at": run.forks[0][0], "index": run.forks[0][1]} if run.forks else None,
        seconds={"latent": run.latent_seconds, "pairs": run.pairs_seconds},
        recipe=recipe,
    )
    return Shown(run, picture)
