"""Samples of any family drawn here, a few at a time, so that progress shows and Stop is heard."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from explorer import models
from explorer.compared import Array
from explorer.controls import Params, stamp
from explorer.jobs import Tick
from explorer.models import Peer
from sed_core.chance import seeded, split
from sed_core.limits import LAPTOP
from sed_core.sparse import SparseBatch

ROWS = 25  # samples drawn at once
Asked = tuple[str, Peer, Params]


@dataclass(frozen=True, eq=False)
class Live:
    """Samples of one method that were made here."""

    key: str
    params: Params
    sha: str
    values: Array  # (n, D) in data units
    seconds: float
    made: str
    device: str

    @property
    def recipe(self) -> str:
        """The name of this result."""
        return stamp(self.params, self.sha)


def peers(wanted: Mapping[str, str], params: Params) -> list[Asked]:
    """Models by column, loaded, and what each is asked for."""
    found = [(key, models.peer(name), replace(params, model=name)) for key, name in wanted.items()]
    return [
        (key, peer, params if peer.model.classes else replace(params, label=None))
        for key, peer, params in found
    ]


def draw_each(data: str, asked: Sequence[Asked], n: int, tick: Tick) -> tuple[str, dict[str, Live]]:
    """Draw n samples of each; `tick` between steps."""
    made = {}
    for place, (key, peer, params) in enumerate(asked):
        begun = time.perf_counter()
        part = lambda done, place=place: tick((place + done) / len(asked))  # noqa: E731
        values = draw(peer.model, params, n, part)
        seconds, now = time.perf_counter() - begun, datetime.now(UTC).isoformat(timespec="seconds")
        made[key] = Live(key, params, peer.sha, values, seconds, now, _device(peer.model))
    return data, made


def stage(fraction: float, names: Sequence[str]) -> str:
    """Which of several methods is drawing, and how far it is."""
    done = min(fraction, 0.999999) * len(names)
    return f"{names[int(done)]}: {100 * (done % 1):.0f} %"


def draw(model: Any, params: Params, n: int, tick: Tick) -> Array:
    """n samples of one model in data units, a few at a time."""
    LAPTOP.check(rows=n, steps=params.steps, guidance=params.guidance, seed=params.seed)
    chance, parts = split(seeded(params.seed), n), []
    for first in range(0, n, ROWS):
        some = chance[first : first + ROWS]
        with torch.inference_mode():
            x = None
            for step in model.stream(
                len(some), steps=params.steps, sampler=params.sampler, eta=params.eta,
                label=params.label, guidance=params.guidance, generator=some,
            ):  # fmt: skip
                tick((first + len(some) * _done(step)) / n)
                x = step.x
        assert x is not None
        parts.append((x.to_dense() if isinstance(x, SparseBatch) else x).cpu().numpy())
    return np.concatenate(parts)


def _done(step: Any) -> float:
    """Share of the way to a sample; the latent is the smaller part of it."""
    share = step.i / max(1, step.n) if step.stage != "pairs" else min(1.0, max(0.0, 1 - step.t))
    return {"latent": 0.3 * share, "pairs": 0.3 + 0.7 * share}.get(step.stage, share)


def _device(model: Any) -> str:
    return str(next(model.parameters()).device)
