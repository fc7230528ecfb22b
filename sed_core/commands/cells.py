"""sed-core train, sample and impute on h5ad files: read and written in chunks, resumable."""

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sed_core.commands.telling import bar, clock, tell

if TYPE_CHECKING:
    from sed_core.cell_imputation import Known
    from sed_core.cell_model import CellModel
    from sed_core.domains.cell_files import CellFile
    from sed_core.domains.cells import Cells
    from sed_core.stream import Step

ENDING = ".h5ad"


def is_cells(file: Path | None) -> bool:
    """Whether a file is, or is to be, one of cells."""
    return file is not None and file.suffix == ENDING


# -- train -----------------------------------------------------------------------------------------


def train_on_file(
    family: str,
    data: Path,
    *,
    label: str | None,
    unknown: Sequence[str],
    layer: str | None,
    genes: int | None,
    minutes: float | None,
    steps: int | None,
    hold_out: float,
    out: Path,
    seed: int,
    device: str,
    command: str,
) -> Iterator[Any]:
    """Read an h5ad file, set aside what is held out, and train on the rest; yields progress."""
    from sed_core.cell_training import train_cells
    from sed_core.domains.cells import setup_anndata
    from sed_core.limits import real

    if family not in ("sed", "counts"):
        raise ValueError(f"--data is for 'train sed' and 'train counts', got {family!r:.60}")
    real("--hold-out", hold_out, 0, 0.9)
    cells = setup_anndata(data, layer=layer, label=label, unknown=unknown)
    print(cells.said, file=sys.stderr)
    if hold_out:
        parts = cells.split(seed, {"train": 1 - hold_out, "test": hold_out})
        cells, file = parts["train"], out / "test.h5ad"
        write_given(parts["test"], file, label, {"data": data.name, "seed": seed})
        print(f"{len(parts['test']):,} cells are held out, in {file}", file=sys.stderr)
    yield from train_cells(
        cells,
        family=family,
        label=label,
        genes=genes,
        minutes=minutes,
        steps=steps,
        out=out,
        seed=seed,
        device=device,
        name=out.name,
        command=command,
    )


def write_given(
    cells: "Cells", file: Path, label: str | None, recipe: Mapping[str, Any], size: int = 2_000
) -> None:
    """Some cells of a file as a file of their own, unless it is there."""
    from sed_core.domains.cell_files import CellFile

    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    own = cells.labels[label] if label else None
    names: dict[str, Any] = {"label": label, "vocabulary": own.names} if own else {}
    obs = {"sed_source": "held out"}
    with CellFile(file, genes=cells.genes, recipe=recipe, obs=obs, **names) as made:
        for first in range(made.cells, len(cells), size):
            rows = slice(first, first + size)
            numbers = own.numbers[rows] if own else None
            made.append(cells.csr(rows), labels=numbers, names=cells.names[rows].tolist())
        made.finish()


# -- sample ----------------------------------------------------------------------------------------


def sample_to_file(
    model: "CellModel",
    file: Path,
    n: int,
    *,
    label: str | None,
    seed: int,
    chunk: int | None,
    asked: Mapping[str, Any],
    as_json: bool,
) -> None:
    """n cells to an h5ad file, chunk by chunk; the same command goes on after a kill."""
    from sed_core.cell_model import CHUNK
    from sed_core.domains.cell_files import CellFile

    size, number = chunk or CHUNK, None if label is None else model.vocabulary.number(label)
    recipe = model.recipe(n=n, seed=seed, label=label, **asked)
    names: dict[str, Any] = {"label": model.label, "vocabulary": model.labels}
    started, nnz = time.monotonic(), 0
    with CellFile(file, genes=model.genes, recipe=recipe, **names) as out, bar() as show:
        begun = out.cells
        _tell_resumed(begun, n)
        watch = _watching(out, n, size, partial(show, "sampling"))
        with told_of_stopping(lambda: f"{out.cells:,} of {n:,} cells are kept, "):
            moves = model.chunks(
                n, label=number, seed=seed, first=begun, size=size, watch=watch, **asked
            )
            for found in moves:
                labels = None if number is None else [number] * len(found)
                out.append(found, labels=labels)
                nnz += int(found.nnz.sum())
            out.finish()
    seconds, made = time.monotonic() - started, max(1, n - begun)
    said = f"{n:,} cells x {len(model.genes):,} genes in {file}"
    more = f"; {nnz / made:.0f} expressed genes a cell, {seconds:.1f} s"
    result = {"out": str(file), "cells": n, "resumed_from": begun, "recipe": recipe}
    tell({**result, "seconds": round(seconds, 3)}, said + more, as_json)


def _watching(
    out: "CellFile", n: int, size: int, show: Callable[[float, str], None]
) -> "Callable[[Step[Any]], None]":
    """Tells of each step how far `n` cells are, and how fast those go that are made from here on.

    Args:
        size: cells of a chunk.
    """
    started, begun = time.monotonic(), out.cells

    def watch(step: "Step[Any]") -> None:
        part = out.cells + share_done(step) * min(size, n - out.cells)
        show(part / n, _speed(started, part - begun, n - part))

    return watch


def share_done(step: "Step[Any]") -> float:
    """How much of some samples is made; the latent of SED takes about a third of its time."""
    done = 1 - step.t
    return {"latent": 0.3 * done, "pairs": 0.3 + 0.7 * done}.get(step.stage, done)


# -- impute ----------------------------------------------------------------------------------------


def impute_file(
    model: "CellModel",
    data: Path,
    file: Path,
    *,
    layer: str | None,
    observed: str | None,
    hide: float | None,
    zeros_missing: bool,
    draws: int,
    label: str | None,
    seed: int,
    chunk: int | None,
    asked: Mapping[str, Any],
    as_json: bool,
) -> None:
    """The gaps of an h5ad file filled, to another one, chunk by chunk; resumable."""
    from sed_core.cell_imputation import LAYERS, Filled, rows_at_once
    from sed_core.cell_training import mark
    from sed_core.domains.cell_files import CellFile
    from sed_core.domains.source import DataError

    if file.absolute() == data.absolute():
        raise DataError(f"{file} is the file that is read; name another one with --out")
    known_by = _one_of(observed=observed, hide=hide, zeros_missing=zeros_missing or None)
    own = label is not None and label == model.label
    there = model.label if model.label in _columns(data) else None
    whole = model.whole(data, layer=layer, label=there is not None)
    if whole.kind != "counts":
        raise DataError(f"raw counts were wanted; {whole.said}")
    cells = whole.with_genes(model.genes)
    known = _known(known_by, data, model, cells)
    asked = {**asked, "label": "own" if own else label}
    recipe = model.recipe(draws=draws, seed=seed, missing=known_by, data=mark(cells), **asked)
    size = chunk or rows_at_once(draws, cells.dim)
    columns = model.columns(cells, model.filled_labels(cells, asked["label"]))
    numbers = columns.pop("labels", None)
    started, n, hidden = time.monotonic(), len(cells), 0
    if cells.dim < whole.dim:
        print(f"the model knows {cells.dim:,} of the {whole.dim:,} genes", file=sys.stderr)
    with (
        CellFile(
            file,
            genes=model.genes,
            recipe=recipe,
            obs={"sed_source": "imputed"},
            layers=LAYERS,
            **columns,
        ) as out,
        bar() as show,
    ):
        begun = out.cells
        _tell_resumed(begun, n)
        watch = _watching(out, n, size, partial(show, "imputing"))
        with told_of_stopping(lambda: f"{out.cells:,} of {n:,} cells are kept, "):
            moves = model.fill(
                cells, known, draws=draws, seed=seed, first=begun, size=size, watch=watch, **asked
            )
            one: Filled
            for one in moves:
                out.append(
                    one.counts,
                    labels=None if numbers is None else numbers[one.rows],
                    names=cells.names[one.rows].tolist(),
                    layers=one.layers,
                )
                hidden += one.hidden
            out.finish()
    seconds = time.monotonic() - started
    said = f"{n:,} cells x {cells.dim:,} genes, {draws} draws of each gap, in {file}"
    more = f"; {hidden:,} entries filled now, {seconds:.1f} s"
    result = {"out": str(file), "cells": n, "resumed_from": begun, "filled": hidden}
    tell({**result, "recipe": recipe, "seconds": round(seconds, 3)}, said + more, as_json)


def _one_of(**ways: Any) -> dict[str, Any]:
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            "say what is missing by one of --observed LAYER, --hide SHARE and --zeros-missing, got "
            f"{len(given)} of them"
        )
    return given


def _known(way: Mapping[str, Any], data: Path, model: "CellModel", cells: "Cells") -> "Known":
    from sed_core.cell_imputation import all_but, expressed, listed
    from sed_core.domains.cells import setup_anndata

    if "hide" in way:
        return all_but(way["hide"])
    if "observed" in way:
        return listed(setup_anndata(data, layer=way["observed"]), model.genes)
    return expressed


def _columns(data: Path) -> Sequence[str]:
    """Names of the columns of obs."""
    from sed_core.domains.cell_input import opened

    given = opened(data)
    try:
        return given.columns("obs")
    finally:
        given.close()


# -- while it runs ---------------------------------------------------------------------------------


@contextmanager
def told_of_stopping(kept: Callable[[], str]) -> Generator[None]:
    """Say that the work is not lost where Ctrl-C stops a run."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; {kept()}the same command goes on from here", file=sys.stderr)
        raise


def _tell_resumed(begun: int, n: int) -> None:
    if begun:
        print(f"going on behind the {begun:,} of {n:,} cells that are there", file=sys.stderr)


def _speed(started: float, done: float, rest: float) -> str:
    """Cells a second, and the time left."""
    seconds = time.monotonic() - started
    if done <= 0 or seconds < 1:
        return ""
    return f"{done / seconds:.1f} cells/s, {clock(seconds * rest / done)} left"
