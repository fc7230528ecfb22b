"""A visitor's own cells: what was found in the file, gaps filled in, a model trained on the spot.

The file is read by a process of its own (`explorer.uploads`) and kept in this process's memory for
as long as its page is open; nothing of it is stored.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from explorer import cell_reference, cell_runs, exports, models, uploads
from explorer.cell_exports import written
from explorer.cell_params import MODELS, Params
from explorer.cell_reference import Array, Reference
from explorer.cell_runs import Made
from explorer.controls import named
from explorer.count_runs import device, now
from explorer.jobs import Tick
from sed_core.cell_model import CellModel
from sed_core.cell_training import PLANS
from sed_core.chance import seeded, split
from sed_core.domains.cell_anndata import as_anndata
from sed_core.domains.cells import Cells, setup_anndata

LEAST_CELLS, LEAST_GENES = 20, 10  # to train on
MOST_GENES = 2_000  # of a quick model: those that vary most
MOST_CELLS = 5_000  # that it is trained on
QUICK: Mapping[str, int] = {"counts": 800, "sed": 300}  # steps, of all stages together
AT_ONCE = 128  # rows (cells times draws) that are filled in together
SEEN_BY, TRAINED_BY = 0.05, 0.8  # shares of the progress that are done then
POINT = 5  # steps whose mean loss is one point of the curve
Point = tuple[str, int, int, float]  # stage, step, steps, loss


@dataclass(frozen=True, eq=False)
class Own:
    """Counts out of a visitor's file."""

    name: str
    digest: str
    counts: Any  # CSR int64 (cells, genes)
    genes: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def zeros(self) -> float:
        """Share of exact zeros."""
        return 1 - self.counts.nnz / max(1, len(self.cells) * len(self.genes))

    def matched(self, genes: Sequence[str]) -> int:
        """How many of these genes are in the file, by name."""
        return len(set(genes) & set(self.genes))


def read(name: str, data: bytes) -> Own:
    """What a file holds.

    Raises:
        BadUpload: one sentence that says what is wrong with it and what to do.
    """
    with tempfile.TemporaryDirectory(prefix="own-") as folder:
        path = Path(folder) / "cells.h5ad"
        path.write_bytes(data)
        found = uploads.read_counts(path)
    return Own(name, sha256(data).hexdigest(), found.matrix, found.genes, found.cells)


# -- filling in ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Filled:
    """Entries of a visitor's cells that were hidden and drawn again, on the genes that match."""

    params: Params
    sha: str
    own: Own
    genes: tuple[str, ...]
    truth: Array  # (n, D)
    hidden: Array  # (n, D) bool
    draws: Array  # (M, n, D)
    panel: int  # genes that the model knows
    seconds: float
    made: str
    device: str

    @property
    def stamp(self) -> str:
        """The name of this result."""
        told = {**self.params.said_of_file(), "sha": self.sha, "file": self.own.digest}
        return named(told)


@dataclass(frozen=True)
class Scores:
    """How near the draws come to what was hidden."""

    rmse: float  # of the mean
    rmse_zeros: float  # of filling with zeros
    rmse_genes: float  # of filling with each gene's mean over the entries that were seen
    inside: float  # share of the truth between the 5 % and the 95 % quantile of the draws
    ideal: float  # what that would be for an ideal model, were there no ties
    entries: int


def fill(model: CellModel, sha: str, own: Own, params: Params, tick: Tick) -> Filled:
    """Hide a share of the entries of the first cells, and draw them again, several times.

    Genes that the model knows and the file lacks stay unknown to it.
    """
    begun, n = time.perf_counter(), min(params.rows, len(own.cells))
    place = {gene: k for k, gene in enumerate(own.genes)}
    known = [k for k, gene in enumerate(model.genes) if gene in place]
    genes = tuple(model.genes[k] for k in known)
    truth = own.counts[:n][:, [place[gene] for gene in genes]].toarray()
    chance, cells = seeded(params.seed), split(seeded(params.seed), n + 1)[:n]
    hidden = torch.rand(n, len(known), generator=chance) < params.share / 100
    x = torch.zeros(n, len(model.genes), dtype=torch.int64)
    x[:, known] = torch.from_numpy(truth).long()
    observed, wanted = (torch.zeros(x.shape, dtype=torch.bool) for _ in range(2))
    observed[:, known], wanted[:, known] = ~hidden, hidden
    size, parts = max(1, AT_ONCE // params.draws), list[Tensor]()
    for first in range(0, n, size):
        some = slice(first, min(first + size, n))
        share = lambda step, first=first, some=some: tick(  # noqa: E731
            (first + (some.stop - first) * step.i / step.n) / n
        )
        parts.append(
            _draws(model, x[some], observed[some], wanted[some], params, cells[some], share)
        )
    draws = torch.cat(parts, 1)[:, :, known].numpy()
    return Filled(
        params, sha, own, genes, truth, hidden.numpy(), draws, len(model.genes),
        time.perf_counter() - begun, now(), device(model.model),
    )  # fmt: skip


def _draws(
    model: CellModel, x: Tensor, observed: Tensor, wanted: Tensor, params: Params,
    chance: list[torch.Generator], watch: Any,
) -> Tensor:  # fmt: skip
    """(M, n, D) completions of some cells."""
    found: Any = model.model
    end = None
    with torch.inference_mode():
        for step in found.impute_stream(
            x, observed, wanted=wanted, draws=params.draws, steps=params.steps, generator=chance
        ):
            watch(step)
            end = step.x
    assert end is not None
    return end.reshape(params.draws, *x.shape)


def scores(found: Filled) -> Scores | None:
    """Over what was hidden; None where nothing was."""
    hidden = found.hidden
    if not hidden.any():
        return None
    truth, draws = found.truth[hidden].astype(float), found.draws[:, hidden]
    seen = np.where(hidden, 0, found.truth).sum(0) / np.maximum((~hidden).sum(0), 1)
    usual = np.broadcast_to(seen, hidden.shape)[hidden]
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    m = len(draws)
    root = lambda guess: float(np.sqrt(np.mean((guess - truth) ** 2)))  # noqa: E731
    return Scores(
        root(draws.mean(0)), root(0.0), root(usual),
        float(np.mean((low <= truth) & (truth <= high))), 0.9 * (m - 1) / (m + 1),
        int(hidden.sum()),
    )  # fmt: skip


def filled_recipe(found: Filled) -> dict[str, Any]:
    """Everything needed to make the same result again, but for the file, which stays yours."""
    return {
        "recipe": found.stamp, "model": MODELS["counts"], "model_sha256": found.sha,
        "file_sha256": found.own.digest, "parameters": found.params.said_of_file(),
        "genes_matched": len(found.genes), "genes_of_model": found.panel,
        "seconds": found.seconds, "device": found.device, "made": found.made,
        "versions": dict(exports.versions()),
    }  # fmt: skip


def filled_h5ad(found: Filled) -> bytes:
    """Seen entries as they are, hidden ones as the first draw; layers mean, sd, hidden, truth."""
    spread = found.draws.astype(np.float64)
    return written(
        as_anndata(
            torch.from_numpy(found.draws[0]), genes=found.genes, recipe=filled_recipe(found),
            names=found.own.cells[: len(found.truth)], obs={"sed_source": "imputed"},
            layers={"mean": spread.mean(0), "sd": spread.std(0, ddof=1),
                    "hidden": found.hidden.astype(float), "truth": found.truth.astype(float)},
        )
    )  # fmt: skip


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Trained:
    """A quick model of a visitor's cells, the statistics of these, and cells that it made."""

    own: Own
    asked: Params
    reference: Reference
    made: Made
    losses: tuple[Point, ...]
    cells: int
    seconds: float


def train(own: Own, params: Params, curve: list[Point], tick: Tick) -> Trained:
    """Train on the cells of a file for a minute or so, then make new ones.

    Raises:
        ValueError: where there are too few cells or genes.
    """
    begun, family = time.perf_counter(), params.learner
    cells = _chosen(own, params.seed)
    name = f"{len(cells):,} cells of your file"
    found = cell_reference.reference(cells.csr().astype(np.int64), cells.genes, name=name)
    tick(SEEN_BY)
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        moves = CellModel.training(
            cells, family=family,  # pyright: ignore[reportArgumentType]
            steps=QUICK[family], out=folder, seed=params.seed, device="cpu",
        )  # fmt: skip
        _follow(moves, family, curve, lambda share: tick(SEEN_BY + (TRAINED_BY - SEEN_BY) * share))
        checkpoint = Path(folder) / "checkpoint"
        model, sha = CellModel.load(checkpoint, device="cpu"), models.sha(checkpoint)
    seconds = time.perf_counter() - begun
    asked, params = params, replace(params, family=family, label=None, guidance=1.0)
    rest = lambda share: tick(TRAINED_BY + (1 - TRAINED_BY) * share)  # noqa: E731
    made = cell_runs.draw(model, params, found, rest, family=family, sha=sha)
    made = replace(made, model=f"{family} trained here", trained=_lines(own, params))
    return Trained(own, asked, found, made, tuple(curve), len(cells), seconds)


def _chosen(own: Own, seed: int) -> Cells:
    """At most MOST_CELLS cells that are not empty, and the MOST_GENES genes that vary most."""
    alive = np.flatnonzero(np.asarray(own.counts.sum(1)).ravel())
    if len(alive) > MOST_CELLS:
        order = torch.randperm(len(alive), generator=seeded(seed))[:MOST_CELLS]
        alive = alive[order.sort().values.numpy()]
    counts = own.counts[alive]
    seen = int((counts.getnnz(axis=0) > 0).sum())
    if len(alive) < LEAST_CELLS or seen < LEAST_GENES:
        raise ValueError(
            f"A model needs {LEAST_CELLS} cells and {LEAST_GENES} genes that are expressed; this "
            f"file has {len(alive)} and {seen}. Bring more."
        )
    names = [own.cells[k] for k in alive]
    data = anndata.AnnData(
        counts.astype(np.float32), var=pd.DataFrame(index=pd.Index(own.genes, dtype=object)),
        obs=pd.DataFrame(index=pd.Index(names, dtype=object)),
    )  # fmt: skip
    cells = setup_anndata(data)
    return cells if cells.dim <= MOST_GENES else cells.most_variable(min(MOST_GENES, seen))


def _follow(moves: Any, family: str, curve: list[Point], tick: Tick) -> None:
    """Run a training to its end; the curve grows on the way."""
    stages, some = list(PLANS[family]["cpu"]), list[float]()
    for move in moves:
        place = stages.index(move.stage) if move.stage in stages else 0
        tick((place + move.step / move.steps) / len(stages))
        some.append(move.total.item())
        if move.step % POINT == 0 or move.step == move.steps:
            curve.append((move.stage, move.step, move.steps, sum(some) / len(some)))
            some.clear()


def _lines(own: Own, params: Params) -> str:
    """The same from Python."""
    family = params.learner
    return (
        "from sed_core.cell_model import CellModel\n\n"
        f'moves = CellModel.training("your.h5ad", family="{family}", steps={QUICK[family]}, '
        f'out="run", seed={params.seed})\n'
        'list(moves)\nmodel = CellModel.load("run/checkpoint")'
    )
