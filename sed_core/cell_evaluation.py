"""What models of cells are worth: every figure beside the floor of real cells, in one table.

panel        all methods on the genes that all of them have: of PBMC3k the 2,000 of its panel
all genes    those that have every gene of the real cells, once more
training     as many training cells against the same held-out ones: what a perfect model would get
independent  genes drawn one by one from a law for each type: what any model must beat

Of a user's file, one half of its cells stands for the training cells and the other is held out.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from sed_core import hub
from sed_core.cell_draws import (
    UNKNOWN,
    Made,
    Plan,
    Real,
    file_made,
    floor_made,
    model_made,
)
from sed_core.chance import seeded
from sed_core.evaluation import machine_of, plain_figure, target
from sed_core.metrics.cell_report import Figure, Report, compare
from sed_core.metrics.cell_space import Cells
from sed_core.metrics.cells import zero_share_of_cells

Progress = Callable[[float, str], None]

LEAST_GENES = 50  # that real and made cells must share
DENSE = ("GatedLogGaussian", "LogGaussian")  # the dense diffusion that others are held against
SCC_SHARE, ZEROS, SLOPE = 0.95, 1.0, 0.2  # targets
DRAWING = 0.8  # share of the time that drawing is thought to take


def evaluate_cells(
    refs: Sequence[str],
    real: Real,
    *,
    plan: Plan | None = None,
    device: str = "auto",
    network: bool = False,
    keep: Path | None = None,
    progress: Progress = lambda share, words: None,
) -> dict[str, Any]:
    """Figures of checkpoints, or of h5ad files of made cells, as JSON can hold them.

    Args:
        refs: checkpoints of cells and files that end in .h5ad, in the order of the table.
        keep: folder in which cells are kept, a batch at a time; an interrupted run goes on there.
        progress: called with the share of the work that is done, and what is being done.

    Raises:
        ValueError: where a checkpoint makes no cells, or too few genes are in common.
    """
    plan, started = plan or Plan(), time.perf_counter()
    if not refs or len(set(refs)) < len(refs):
        raise ValueError(f"wanted one or more different checkpoints, got {', '.join(refs)}")
    made: list[Made] = []
    for k, ref in enumerate(refs):
        tick = _ticker(progress, DRAWING * k / len(refs), DRAWING / len(refs), f"drawing {ref}")
        tick(0.0)
        if ref.endswith(".h5ad"):
            made.append(file_made(Path(ref), label=real.label, most=plan.samples))
            continue
        options: dict[str, Any] = {"device": device, "network": network, "keep": keep}
        made += model_made(ref, real, plan, **options, tick=tick)
    found, spaces = _spaces(real, made), list[dict[str, Any]]()
    for k, space in enumerate(found):
        width = (1 - DRAWING) / len(found)
        tick = _ticker(progress, DRAWING + k * width, width, f"measuring on {space.name}")
        spaces.append(_measured(space, real, plan, tick))
    progress(1.0, "done")
    return {
        "format": "sed-cells",
        "version": 1,
        "title": real.title,
        "setting": _setting(real, plan, device, time.perf_counter() - started),
        "spaces": spaces,
        "targets": [row for space in spaces for row in _targets(space)],
    }


def of_checkpoint(result: Mapping[str, Any], ref: str) -> dict[str, Any]:
    """What one checkpoint's metrics.json keeps of a table: its rows, its targets, both floors."""
    spaces = [
        {**space, "methods": [m for m in space["methods"] if m["checkpoint"] in (ref, "")]}
        for space in result["spaces"]
    ]
    own = [space for space in spaces if any(m["checkpoint"] == ref for m in space["methods"])]
    targets = [t for t in result["targets"] if t["checkpoint"] == ref]
    first = next(m for m in own[0]["methods"] if m["checkpoint"] == ref)
    told = {key: result[key] for key in ("format", "version", "title")}
    kept = {"setting": result["setting"], "figures": first["figures"], "targets": targets}
    kept["cells"] = {**told, "spaces": own}
    filled = result.get("imputation", {})
    if filled.get("checkpoint") == ref:
        kept |= {"imputation": filled, "targets": [*targets, *filled["targets"]]}
    return kept


def _ticker(progress: Progress, start: float, width: float, words: str) -> Callable[[float], None]:
    return lambda share: progress(min(0.99, start + width * share), words)


# genes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Space:
    name: str
    genes: tuple[str, ...]
    methods: Sequence[Made]


def _spaces(real: Real, made: Sequence[Made]) -> list[_Space]:
    """The genes that all methods have, and all genes with the methods that have them."""
    sets = [set(some.genes) for some in made]
    common = tuple(gene for gene in real.panel if all(gene in own for own in sets))
    if len(common) < LEAST_GENES:
        theirs = ", ".join(sorted(sets[0].intersection(*sets[1:]))[:3]) or "none in common"
        raise ValueError(
            f"{len(common)} of the {len(real.panel):,} genes of {real.title} are among those of "
            f"the cells to compare ({theirs}); {LEAST_GENES} are wanted: name genes alike, or "
            "compare cells of one kind"
        )
    whole = [some for some, own in zip(made, sets, strict=True) if own.issuperset(real.test.genes)]
    found = [_Space(f"{len(common):,} genes", common, made)]
    if whole and len(common) < real.test.dim:
        found.append(_Space(f"all {real.test.dim:,} genes", real.test.genes, whole))
    return found


# measuring ----------------------------------------------------------------------------------------


def _measured(
    space: _Space, real: Real, plan: Plan, tick: Callable[[float], None]
) -> dict[str, Any]:
    """All methods and the independent floor on one choice of genes."""
    genes, made = space.genes, space.methods
    train, test = (real.on(part, genes) for part in (real.train, real.test))
    most = max(len(some) for some in made)
    every = [*made, floor_made(real, genes, most, plan.seed)]
    methods: list[dict[str, Any]] = []
    report: Report | None = None
    for k, some in enumerate(every):
        tick(k / len(every))
        own = some.on(genes)
        n = min(len(own), len(test), len(train))
        known = _alike(report, n, max(1, min(plan.sets, len(own) // n)))
        report = compare(
            own, test, train, sets=plan.sets, trees=plan.trees, leave_out=[UNKNOWN],
            known=known, generator=seeded(plan.seed),
        )  # fmt: skip
        methods.append(_method(some, own, test, report, learned=real.learned))
    assert report is not None
    return {
        "name": space.name,
        "genes": len(genes),
        "space": report.space,
        "held_out": _zero_figure(test),
        "methods": methods,
    }


def _alike(report: Report | None, n: int, sets: int) -> Report | None:
    """An earlier report, if its floor is of as many sets of as many cells."""
    return report if report and (report.n, report.sets) == (n, sets) else None


def _method(
    made: Made, own: Cells, test: Cells, report: Report, *, learned: bool
) -> dict[str, Any]:
    """One row of the table, as JSON holds it."""
    held = zero_share_of_cells(test).mean().item()
    copies = asdict(report.memorisation)
    kept = copies if learned else {key: copies[key] for key in ("identical", "made", "train")}
    rows = {"recovery": report.recovery, "recovery_of_training": report.floor_of_recovery}
    return {
        "name": made.name,
        "checkpoint": made.checkpoint,
        "family": made.family,
        "rule": made.rule,
        "n": report.n,
        "sets": report.sets,
        "setting": dict(made.setting),
        "figures": {
            "zero_share": plain_figure(
                zero_share_of_cells(own).mean().item(), len(own), floor=held
            ),
            **{figure.name: _figure(figure, report.n) for figure in report.figures},
        },
        "memorisation": {key: _rounded(value) for key, value in kept.items()},
        **{key: [_told(asdict(one)) for one in found] for key, found in rows.items()},
        "left_out": list(report.left_out),
        "notes": list(made.notes),
    }


def _figure(figure: Figure, n: int) -> dict[str, Any]:
    """A figure with what training cells get, and the sd of both over sets of n cells."""
    parts = {"real": figure.floor, "sd": figure.sd, "real_sd": figure.floor_sd}
    known = {key: _rounded(part) for key, part in parts.items() if part is not None}
    return {**plain_figure(figure.value, n), "sets": figure.sets, **known}


def _zero_figure(test: Cells) -> dict[str, Any]:
    return {"zero_share": plain_figure(zero_share_of_cells(test).mean().item(), len(test))}


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _rounded(value) for key, value in row.items()}


def _rounded(value: Any) -> Any:
    """Floats at six digits, None for NaN, lists for tuples: what JSON gives back."""
    if isinstance(value, tuple):
        return list(cast("tuple[Any, ...]", value))
    if not isinstance(value, float):
        return value
    return None if value != value else round(value, 6)


# targets ------------------------------------------------------------------------------------------


def _targets(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What every method of a table is held to."""
    methods: Sequence[Mapping[str, Any]] = space["methods"]
    floor = next(m for m in methods if m["family"] == "Independent")
    dense = next((m for m in methods if m["family"] in DENSE), None)
    for m in methods:
        if m is floor:
            continue
        rivals = [("the independent genes", floor)]
        rivals += [("the dense DDPM", dense)] if dense is not None and dense is not m else []
        for row in _wanted(m["figures"], rivals):
            told = f"{m['name']}, {space['name']}: {row[0]}"
            yield {**target(told, *row[1:]), "checkpoint": m["checkpoint"]}


def _wanted(
    figures: Mapping[str, Any], rivals: Sequence[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, str, float, float]]:
    """Name, sign, bound and what came."""
    got = {name: figure["value"] for name, figure in figures.items()}
    for words, rival in rivals:
        for name, what in BEATEN:
            yield f"{what}, that of {words}", "<=", rival["figures"][name]["value"], got[name]
    scc = figures["scc"]
    yield "SCC over that of training cells", ">=", SCC_SHARE, scc["value"] / scc["real"]
    zeros = abs(got["zero_difference"])
    yield "zeros off those of held-out cells (percentage points)", "<=", ZEROS, zeros
    if got.get("de_slope") is not None:
        yield "slope of log-fold changes off 1", "<=", SLOPE, abs(got["de_slope"] - 1)


BEATEN = (
    ("mmd", "MMD"),
    ("correlation_error", "gene-gene correlation error"),
    ("correlation_excess", "gene-gene correlation error beyond noise"),
)


# telling ------------------------------------------------------------------------------------------


def _setting(real: Real, plan: Plan, device: str, seconds: float) -> dict[str, Any]:
    return {
        "data": real.title,
        "train": len(real.train),
        "test": len(real.test),
        "seed": plan.seed,
        "guidance": plan.guidance,
        "sets": plan.sets,
        "trees": plan.trees,
        **machine_of(hub.place(device)),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }
