"""Filling in on the page Counts: a digit, what is erased of it, draws, and how near they come."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from explorer.count_params import HAND, Params
from explorer.count_runs import SIDE, device, finished, now, watched, way
from explorer.eraser import unpack
from explorer.jobs import Tick
from explorer.models import Peer
from sed_core.chance import seeded, split
from sed_core.countsdiff import CountsDiff
from sed_core.domains import digits
from sed_core.domains.source import DataError
from sed_core.imputation import Summary, summary
from sed_core.limits import LAPTOP
from sed_core.masks import scattered
from sed_core.metrics import counts as metrics

TRUTH = {"steps": 50, "guidance": 2.0}  # how the digit to be erased is drawn
BLOCK = slice(SIDE // 4, SIDE - SIDE // 4)  # the middle, of rows and of columns


@dataclass(frozen=True, eq=False)
class Truth:
    """A whole digit of which a part is erased."""

    counts: Tensor  # (784,) int64
    label: int | None
    words: str
    key: tuple[Any, ...]  # what it depends on


def truth_key(params: Params, sha: str) -> tuple[Any, ...]:
    """What the digit to be erased depends on."""
    if params.source == "test":
        return ("test", params.number)
    return ("sample", params.label, params.number, sha)


def test_digits() -> digits.Digits | None:
    """Real digits that no model saw, where they are on this machine."""
    try:
        return digits.load("mnist", "test")
    except DataError:
        return None


def test_truth(params: Params, found: digits.Digits) -> Truth:
    """A real digit."""
    label = int(found.labels[params.number])
    words = f"Test digit {params.number} of MNIST, a {label}"
    return Truth(found.images[params.number].long(), label, words, truth_key(params, ""))


def draw_truth(peer: Peer, params: Params, tick: Tick) -> Truth:
    """A digit of the model: the second sample of its seed, so that no draw shares its chance."""
    chance = split(seeded(params.number), 2)[1:]
    with torch.inference_mode():
        steps = peer.model.stream(1, **TRUTH, label=params.label, generator=chance)
        x = finished(steps, tick, 0.0, 1.0)
    what = "any digit" if params.label is None else f"digit {params.label}"
    words = f"A sample of the model: {what}, the second of seed {params.number}"
    return Truth(x[0], params.label, words, truth_key(params, peer.sha))


def seen(params: Params) -> Tensor:
    """Which pixels the model sees."""
    if params.kind == HAND:
        return unpack(params.mask, SIDE**2)
    square = torch.ones(SIDE, SIDE, dtype=torch.bool)
    if params.kind == "scattered":
        return scattered(torch.tensor([[0.5]]), SIDE**2, generator=seeded(0))[0]
    if params.kind == "left":
        square[:, : SIDE // 2] = False
    elif params.kind == "lower":
        square[SIDE // 2 :] = False
    elif params.kind == "middle":
        square[BLOCK, BLOCK] = False
    elif params.kind == "all":
        square[:] = False
    return square.flatten()


@dataclass(frozen=True, eq=False)
class Filled:
    """Draws of what was erased."""

    params: Params
    sha: str
    truth: Truth
    observed: Tensor  # (784,) bool
    times: tuple[float, ...]  # of the states
    states: Tensor  # (steps, draws, 784) uint8
    seconds: float
    made: str
    device: str

    @property
    def draws(self) -> Tensor:
        """The finished draws, (M, 784)."""
        return self.states[-1].long()

    @property
    def erased(self) -> int:
        """Pixels that the model did not see."""
        return int((~self.observed).sum())

    @property
    def summary(self) -> Summary:
        """Mean, sd, median and quantiles of each pixel."""
        return summary(self.draws[:, None])

    @property
    def stamp(self) -> str:
        """The name of this result."""
        return self.params.stamp(self.sha)


@dataclass(frozen=True)
class Scores:
    """How near the draws come to the truth, over what was erased."""

    rmse: float  # of the mean
    rmse_zeros: float  # of filling with zeros
    inside: float  # share of the truth between the 5 % and the 95 % quantile of the draws
    ideal: float  # what that would be for an ideal model, were there no ties


def fill(peer: Peer, params: Params, truth: Truth, tick: Tick) -> Filled:
    """Draw what is erased, several times."""
    model: CountsDiff = peer.model
    rounds = params.rounds if params.method == "replace" else 1
    LAPTOP.check(rows=params.draws, steps=params.steps * rounds, seed=params.seed)
    observed, begun = seen(params), time.perf_counter()
    with torch.inference_mode():
        steps = model.impute_stream(
            truth.counts[None], observed[None], draws=params.draws, **way(params),
            method=params.method, rounds=params.rounds, jump=params.jump,  # pyright: ignore
            label=truth.label if params.known == "class" else None,
            generator=split(seeded(params.seed), 1),
        )  # fmt: skip
        kept = [(step.t, step.x.to(torch.uint8)) for step in watched(steps, tick, 0.0, 1.0)]
    seconds = time.perf_counter() - begun
    times, states = zip(*kept, strict=True)
    params = replace(params, label=truth.label)
    return Filled(params, peer.sha, truth, observed, times, torch.stack(states), seconds, now(),
                  device(model))  # fmt: skip


def scores(found: Filled) -> Scores | None:
    """Of what was erased; None where nothing was."""
    if not found.erased:
        return None
    told, ends = found.summary, {"truth": found.truth.counts[None], "target": ~found.observed[None]}
    low, high = told.quantile[:, 0, ~found.observed]
    true, m = found.truth.counts[~found.observed], len(found.draws)
    return Scores(
        metrics.rmse(told.mean, **ends), metrics.rmse(torch.zeros_like(told.mean), **ends),
        ((low <= true) & (true <= high)).double().mean().item(), 0.9 * (m - 1) / (m + 1),
    )  # fmt: skip
