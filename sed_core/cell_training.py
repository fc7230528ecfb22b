"""Training on cells that a user brings: which genes, how long, and going on after a kill."""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch

from sed_core import hub
from sed_core.cell_counts import CELL_COUNTS_PLANS, train_cell_counts
from sed_core.cell_sed import CELL_SED_PLANS, train_cell_sed
from sed_core.domains.cells import Cells
from sed_core.domains.source import DataError
from sed_core.files import replace_file
from sed_core.keep import Plan
from sed_core.limits import LARGEST_SEED, one_of, real, whole
from sed_core.stages import Run, Stage
from sed_core.training import Progress
from sed_core.vocabulary import GeneVocabulary

Family = Literal["sed", "counts"]
PANEL: Mapping[str, int] = {"counts": 2_000}  # genes of a family that computes on every one
PLANS: Mapping[str, Mapping[str, Plan]] = {
    "sed": {"cpu": CELL_SED_PLANS["cpu"], "cuda": CELL_SED_PLANS["gpu"]},
    "counts": {"cpu": CELL_COUNTS_PLANS["cpu"], "cuda": CELL_COUNTS_PLANS["gpu"]},
}
TRAINERS: Mapping[str, Callable[..., Iterator[Progress]]] = {
    "sed": train_cell_sed,
    "counts": train_cell_counts,
}
SETTINGS = "run.json"
TRIED_CELLS, TRIED_STEPS = 2_048, 8  # of each stage, to see how long a step takes


def train_cells(
    cells: Cells,
    *,
    family: Family,
    label: str | None = None,
    genes: int | None = None,
    plan: Plan | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    out: str | Path,
    seed: int = 0,
    device: str = "auto",
    name: str = "",
    command: str = "",
) -> Iterator[Progress]:
    """Train on these cells and write `out`/checkpoint; yields progress.

    Killed at any moment, the same call goes on where it stopped. Cells of a file that is larger
    than memory are read a batch at a time.

    Args:
        label: column of labels to condition on; none if left out.
        genes: how many, the most variable; all if left out, for CountsDiff at most 2,000.
        plan: size of each stage; the family's own if left out, or what fits into `minutes`, or
            `steps` of all stages together.
        name: of the model on its card; `command` is what made it.

    Raises:
        DataError: for values that are no counts, and labels or genes that are not there.
        ValueError: where `out` holds a run on other data or with other settings.
    """
    one_of("family", family, get_args(Family))
    whole("seed", seed, 0, LARGEST_SEED)
    run = Run(Path(out), seed, hub.place(device))
    chosen = chosen_cells(cells, family, label=label, genes=genes)
    asked = {"family": family, "label": label, "genes": genes, "seed": seed, "data": mark(chosen)}
    asked |= {"plan": None if plan is None else _as_json(plan), "minutes": minutes, "steps": steps}
    found = _stored(run.out, asked)
    if found is None:
        found = plan or _planned(chosen, family, label, minutes, steps, run)
        _store(run.out, asked, found)
    made = command or f"CellModel.training(family={family!r}, label={label!r}, seed={seed})"
    yield from TRAINERS[family](name or family, chosen, found, run, made, label=label)


def chosen_cells(
    cells: Cells, family: Family, *, label: str | None = None, genes: int | None = None
) -> Cells:
    """The cells with the genes that a family trains on, and with one label or none.

    Raises:
        DataError: for values that are no counts, and labels or genes that are not there.
    """
    if cells.kind != "counts":
        raise DataError(f"models of cells are trained on raw counts; {cells.said}")
    if label is not None and label not in cells.labels:
        there = ", ".join(cells.labels) or "none"
        raise DataError(f"the cells bring no label {label!r:.80} (there are: {there}); read it too")
    kept = {label: cells.labels[label]} if label else {}
    names = kept[label].names if label else ()
    GeneVocabulary(cells.genes, label, names)  # refuses names that could not be stored
    most = min(cells.dim, PANEL.get(family, cells.dim)) if genes is None else genes
    chosen = cells if most == cells.dim else cells.most_variable(most)
    return replace(chosen, labels=kept)


def mark(cells: Cells) -> str:
    """The same for the same genes, cells and totals."""
    digest = hashlib.sha256(json.dumps([cells.genes, cells.names.tolist()]).encode())
    digest.update(cells.library.numpy().tobytes() + cells.nnz.numpy().tobytes())
    for label in cells.labels.values():
        digest.update(label.numbers.numpy().tobytes())
    return digest.hexdigest()[:16]


# -- how long --------------------------------------------------------------------------------------


def sized(plan: Plan, steps: int) -> dict[str, Stage]:
    """The stages with `steps` in all, in the proportions that they have."""
    whole("steps", steps, len(plan), 10_000_000)
    total = sum(stage.steps for stage in plan.values())
    return {
        name: replace(stage, steps=max(1, round(stage.steps * steps / total)))
        for name, stage in plan.items()
    }


def timed(
    cells: Cells, family: Family, plan: Plan, minutes: float, *, label: str | None, run: Run
) -> dict[str, Stage]:
    """The stages with as many steps as fit into `minutes` here, by a trial of some of each."""
    real("minutes", minutes, 0.01, 100_000)
    some = torch.linspace(0, len(cells) - 1, min(len(cells), TRIED_CELLS)).round().long()
    tried = {name: replace(stage, steps=TRIED_STEPS) for name, stage in plan.items()}
    at: dict[str, list[float]] = {name: [] for name in plan}
    with TemporaryDirectory() as folder:
        trial = replace(run, out=Path(folder))
        moves = TRAINERS[family]("trial", cells.part(some), tried, trial, "", label=label)
        for move in moves:
            at[move.stage].append(time.monotonic())
            if min(map(len, at.values())) == TRIED_STEPS:
                break
    each = {name: statistics.median(b - a for a, b in pairwise(when)) for name, when in at.items()}
    whole_plan = sum(stage.steps * each[name] for name, stage in plan.items())
    total = sum(stage.steps for stage in plan.values())
    return sized(plan, max(len(plan), round(total * 60 * minutes / max(whole_plan, 1e-9))))


def _planned(
    cells: Cells,
    family: Family,
    label: str | None,
    minutes: float | None,
    steps: int | None,
    run: Run,
) -> Plan:
    usual = PLANS[family][run.device.type]
    if minutes is not None and steps is not None:
        raise ValueError(f"give minutes or steps, not both; got {minutes:g} and {steps}")
    if minutes is not None:
        return timed(cells, family, usual, minutes, label=label, run=run)
    return usual if steps is None else sized(usual, steps)


# -- going on --------------------------------------------------------------------------------------


def _stored(out: Path, asked: Mapping[str, Any]) -> dict[str, Stage] | None:
    """The plan of a run that was begun in this folder with the same settings."""
    file = out / SETTINGS
    if not file.exists():
        return None
    found: Any = json.loads(file.read_bytes())
    other = sorted(key for key in asked if found["asked"].get(key) != asked[key])
    if other:
        raise ValueError(
            f"{out} holds a run with another {' and '.join(other)}; choose another folder, or "
            "delete it"
        )
    return {name: Stage(**stage) for name, stage in found["plan"].items()}


def _store(out: Path, asked: Mapping[str, Any], plan: Plan) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {"asked": dict(asked), "plan": _as_json(plan)}
    replace_file(out / SETTINGS, json.dumps(content, indent=1).encode())


def _as_json(plan: Plan) -> dict[str, Any]:
    return {name: asdict(stage) for name, stage in plan.items()}
