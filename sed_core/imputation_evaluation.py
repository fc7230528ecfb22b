"""What filling in cells is worth: CountsDiff beside its peers, on the same hidden entries.

Entries of held-out cells are hidden anywhere (25 % and 50 %) and, as in dropout, the more often the
smaller the count (25 %). Every method is given the training cells whole, the types of all cells,
and what is observed. `sed_core.imputation_table` says what the figures are, and tells them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sed_core.baselines.binned import BinnedMasked, binned, train_binned
from sed_core.baselines.imputers import (
    Known,
    choose,
    gene_means,
    known,
    negative_binomial,
    scaled_means,
    type_means,
    zeros,
)
from sed_core.baselines.smoothing import LOW_RANKS, SMOOTHINGS, LowRank, Smoothing
from sed_core.births import BirthLaw, Chances
from sed_core.chance import seeded, split
from sed_core.countsdiff import CountsDiff
from sed_core.domains.cells import Cells
from sed_core.evaluation import machine
from sed_core.imputation import Method
from sed_core.imputation_table import OURS, Drawn, beaten, held_to, read, wins
from sed_core.masks import dropout, scattered
from sed_core.metrics.counts import coverage
from sed_core.training import Progress

DECAY = 0.5  # of dropout: a count larger by one is hidden 0.61 times as often
MASKS = ("25 % at random", "50 % at random", "25 %, small counts more often")
TUNED = MASKS[1]  # the share at which options of peers are chosen, on training cells
AT_ONCE = 256  # cells x draws that a network sees at once

Tell = Callable[[float], None]
Fill = Callable[[Known], Tensor]  # one number an entry (B, D)
Make = Callable[[Known, Tell], Tensor]  # the same, or draws (M, B, D)


@torch.no_grad()
def evaluate_imputation(
    model: CountsDiff,
    parts: Mapping[str, Cells],
    *,
    label: str = "cell_type",
    draws: int = 50,
    steps: int = 50,
    seed: int = 0,
    rows: int | None = None,
    births: BirthLaw = "stochastic",
    methods: Sequence[Method] = ("conditional",),
    masked: BinnedMasked | None = None,
    masked_steps: int = 1,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Figures of every method under every mask, who wins them, and the targets.

    Args:
        parts: "train" and "test" cells with the genes of the model, in its order.
        label: column of the cells' labels; the classes of the model, if it has any.
        draws: of each hidden entry; a 90 % interval of all but one of them needs 20.
        steps: of CountsDiff.
        rows: held-out cells, chosen by the seed; all of them if left out.
        births: "poisson" may be better below 100 steps.
        methods: of CountsDiff; the first is what the others are compared with.
        masked: the peer that `train_cell_masked` trains; left out if there is none.
        masked_steps: one draws each hidden entry from what the network says of it given all that is
            observed, and these figures look at no more; several draw them together.
        progress: called with the share of the work that is done, up to 1.

    Raises:
        ValueError: for cells that do not fit the model, and for too few draws or cells.
    """
    _check(model, parts, label, draws, rows)
    started, tell = time.perf_counter(), progress or _silent
    drawing = _Drawing(draws, seed)
    makers: dict[str, Make] = {
        **_ours(model, methods, drawing, steps, births),
        **_masked(masked, drawing, masked_steps),
        "negative binomial by type": drawing.negative_binomial,
    }
    asked, scores = tasks(parts, label, rows, seed), list[dict[str, Any]]()
    chosen = _chosen(asked[TUNED][1], seed)
    makers.update({what: _point(option.fill) for what, option in chosen.items()})
    makers.update(_PLAIN)
    for k, (name, (truth, given)) in enumerate(asked.items()):
        part = _part(tell, k, len(MASKS))
        scores += [{"mask": name, **one} for one in _read(truth, given, makers, seed, part)]
    tell(1.0)
    setting = {
        "seed": seed,
        "cells": rows or len(parts["test"]),
        "genes": parts["test"].dim,
        "train": len(parts["train"]),
        "draws": draws,
        "steps": steps,
        "births": births,
        "types": "given to all",
        "decay": DECAY,
        "masked_steps": masked_steps if masked else None,
        **machine(model),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return {
        "setting": setting,
        "scores": scores,
        "options": {what: asdict(option) for what, option in chosen.items()},
        "wins": wins(scores),
        "targets": held_to(scores),
    }


def _read(
    truth: Int64[Tensor, "B D"], given: Known, makers: Mapping[str, Make], seed: int, tell: Tell
) -> Iterator[dict[str, Any]]:
    """The figures of each method under one mask, CountsDiff first."""
    frequent, ours = given.train.mean(0) > 1, None
    for k, (name, make) in enumerate(makers.items()):
        clock = time.perf_counter()
        drawn = Drawn(make(given, _part(tell, k, len(makers))), truth, ~given.observed)
        seconds = round(time.perf_counter() - clock, 1)
        ours = ours or drawn
        above = beaten(drawn, ours, generator=seeded(seed))
        yield {"method": name, **read(drawn, frequent), "above_ours": above, "seconds": seconds}


def _silent(share: float) -> None:
    """Tell nobody."""


def _part(tell: Tell, k: int, n: int) -> Tell:
    """Tell of part k of n equal ones."""
    return lambda share: tell((k + share) / n)


def _check(
    model: CountsDiff, parts: Mapping[str, Cells], label: str, draws: int, rows: int | None
) -> None:
    """Refuse what would fail after minutes."""
    names, test = parts["train"].labels[label].names, parts["test"]
    if not parts["train"].genes == test.genes or test.dim != model.dim:
        raise ValueError(
            f"wanted training and test cells with the model's {model.dim} genes, got "
            f"{parts['train'].dim} and {test.dim}"
        )
    ours = model.config.vocabulary.names
    if model.classes and (model.classes != len(names) or (ours and ours != names)):
        raise ValueError(f"the model's classes are {ours or model.classes}, the labels {names}")
    if rows is not None and not 1 <= rows <= len(test):
        raise ValueError(f"rows must be from 1 to {len(test)} test cells, got {rows}")
    nothing = torch.zeros(draws - 1, 1, 1)  # one is put in the place of the truth
    coverage(nothing, truth=nothing[0], target=nothing[0] == 0)


# -- what is hidden --------------------------------------------------------------------------------


def tasks(
    parts: Mapping[str, Cells], label: str, rows: int | None, seed: int
) -> dict[str, tuple[Int64[Tensor, "B D"], Known]]:
    """For each mask the true counts, and what may be known of them."""
    train, test = parts["train"], parts["test"]
    order = torch.randperm(len(test), generator=seeded(seed))[: rows or len(test)]
    chosen = order.sort().values
    truth, types = test.counts(chosen), test.labels[label].numbers[chosen]
    counts, own = train.counts(), train.labels[label]
    return {
        name: (truth, known(counts, own.numbers, truth, seen, types, types=len(own.names)))
        for name, seen in masks(truth, seed).items()
    }


def masks(truth: Int64[Tensor, "B D"], seed: int) -> dict[str, Bool[Tensor, "B D"]]:
    """What is observed under each mask, each from its own chance."""
    chance = split(split(seeded(seed), 1)[0], len(MASKS))  # not that of the cells' draws
    share, dim = torch.ones(len(truth), 1), truth.shape[1]
    found = (
        scattered(0.75 * share, dim, generator=chance[0]),
        scattered(0.50 * share, dim, generator=chance[1]),
        dropout(truth, 0.25, decay=DECAY, generator=chance[2]),
    )
    return dict(zip(MASKS, found, strict=True))


# -- methods ---------------------------------------------------------------------------------------


def _point(fill: Fill) -> Make:
    return lambda given, tell: fill(given)


_PLAIN: Mapping[str, Make] = {
    "type mean x library": _point(scaled_means),
    "type mean": _point(type_means),
    "mean": _point(gene_means),
    "zero": _point(zeros),
}


def _chosen(given: Known, seed: int) -> dict[str, Smoothing | LowRank]:
    """The options that fill hidden entries of training cells best."""
    return {
        "kNN diffusion": choose(SMOOTHINGS, given, generator=seeded(seed))[0],
        "low rank": choose(LOW_RANKS, given, generator=seeded(seed))[0],
    }


@dataclass(frozen=True)
class _Drawing:
    """How many draws of each entry, and where chance starts."""

    draws: int
    seed: int

    def negative_binomial(self, given: Known, tell: Tell) -> Int64[Tensor, "M B D"]:
        return negative_binomial(given, draws=self.draws, generator=seeded(self.seed))

    def in_parts(
        self, draw: Callable[[Known, slice, Chances], Tensor], given: Known, tell: Tell
    ) -> Int64[Tensor, "M B D"]:
        """Draws of a few cells at a time; those of a cell are the same however many there are."""
        n, size, parts = len(given.seen), max(1, AT_ONCE // self.draws), list[Tensor]()
        chance = split(seeded(self.seed), n)
        for first in range(0, n, size):
            some = slice(first, first + size)
            parts.append(draw(given, some, chance[some]))
            tell(min(1.0, (first + size) / n))
        return torch.cat(parts, 1)


def _ours(
    model: CountsDiff, methods: Sequence[Method], drawing: _Drawing, steps: int, births: BirthLaw
) -> dict[str, Make]:
    def by(method: Method) -> Make:
        def draw(given: Known, some: slice, chance: Chances) -> Tensor:
            return model.impute(
                given.seen[some].long(),
                given.observed[some],
                draws=drawing.draws,
                method=method,
                steps=steps,
                births=births,
                label=given.type[some] if model.classes else None,
                generator=chance,
            )

        return lambda given, tell: drawing.in_parts(draw, given, tell)

    return {OURS if one == "conditional" else f"{OURS}, {one}": by(one) for one in methods}


def _masked(masked: BinnedMasked | None, drawing: _Drawing, steps: int) -> dict[str, Make]:
    if masked is None:
        return {}

    def draw(given: Known, some: slice, chance: Chances) -> Tensor:
        return masked.impute(
            given.seen[some].long(),
            given.observed[some],
            draws=drawing.draws,
            steps=steps,
            label=given.type[some] if masked.model.classes else None,
            generator=chance,
        )

    return {"masked diffusion": lambda given, tell: drawing.in_parts(draw, given, tell)}


# -- the peer that is trained on the spot ----------------------------------------------------------


def cell_masked(cells: Cells, *, label: str = "cell_type", seed: int) -> BinnedMasked:
    """The masked diffusion peer for these cells, to be trained by `train_cell_masked`."""
    return binned(cells.counts(), classes=len(cells.labels[label].names), seed=seed)


def train_cell_masked(
    peer: BinnedMasked, cells: Cells, *, label: str = "cell_type", steps: int = 1_000, seed: int
) -> Iterator[Progress]:
    """Train the masked diffusion peer in place."""
    return train_binned(peer, cells.counts(), cells.labels[label].numbers, steps=steps, seed=seed)
