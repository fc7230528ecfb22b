"""How CountsDiff is trained on single cells: what fits the data, and the stages on each budget."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from sed_core.counts_networks import CellNetwork
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.domains.cells import Cells
from sed_core.keep import Plan, built, keep
from sed_core.stages import Run, Stage
from sed_core.training import Batches, Loss, Progress, shuffled
from sed_core.vocabulary import GeneVocabulary

AT_ONCE = 4_096  # cells read at a time for the gene means
LEAST_SEEN = 0.5  # counts that a gene which no training cell shows is taken to have in all of them

# On 2,000 genes: at most 40 minutes on one core; about 10 minutes on one data-centre GPU.
CELL_COUNTS_PLANS: Mapping[Literal["cpu", "gpu"], Plan] = {
    "cpu": {"counts": Stage(steps=12_000, rows=64, lr=3e-3)},
    "gpu": {"counts": Stage(steps=12_000, rows=256, lr=3e-3)},
}


def cell_counts_config(cells: Cells, *, label: str | None = None) -> CountsConfig:
    """A network for these genes, and for the types of a column of labels (the first if left out).

    Raises:
        DataError: where the values are no counts.
        ValueError: for a column that the cells do not have.
    """
    cells.counts([0])  # refuses values that are no counts
    names = cell_vocabulary(cells, label=label).labels
    return CountsConfig(
        dim=cells.dim,
        network="cells",
        width=192,
        layers=2,
        classes=len(names),
        class_names="\n".join(names),
        observed_rows=0.6,
        training="cosine",
    )


def cell_vocabulary(cells: Cells, *, label: str | None = None) -> GeneVocabulary:
    """The genes of these cells and the types of a column of labels, the first if left out.

    Raises:
        ValueError: for a column that the cells do not have.
    """
    column = _column(cells, label)
    if column is None:
        return GeneVocabulary(cells.genes)
    return GeneVocabulary(cells.genes, column, tuple(cells.labels[column].names))


def train_cell_counts(
    name: str, cells: Cells, plan: Plan, run: Run, command: str, *, label: str | None = None
) -> Iterator[Progress]:
    """CountsDiff on cells, which are read a batch at a time; a type that is unknown stays so."""
    config = cell_counts_config(cells, label=label)
    mean = gene_means(cells)

    def make() -> CountsDiff:
        model = CountsDiff(config)
        assert isinstance(model.network, CellNetwork)
        model.network.start_from(mean.float())
        return model

    model = built(make, run)
    yield from _train(model, cells, _column(cells, label), plan["counts"], run)
    keep(model, name, plan, run, command, vocabulary=cell_vocabulary(cells, label=label))


def gene_means(cells: Cells) -> Float64[Tensor, " D"]:
    """Mean count of each gene; one that no cell shows is taken to have half a count in all."""
    total = torch.zeros(cells.dim, dtype=torch.float64)
    for first in range(0, len(cells), AT_ONCE):
        sums = np.asarray(cells.csr(slice(first, first + AT_ONCE)).sum(0), np.float64)
        total += torch.from_numpy(sums.ravel())
    return total.clamp_min(LEAST_SEEN) / len(cells)


def _train(
    model: CountsDiff, cells: Cells, column: str | None, size: Stage, run: Run
) -> Iterator[Progress]:
    numbers = None if column is None else cells.labels[column].numbers

    def rows(chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        return cells.counts(chosen), None if numbers is None else numbers[chosen].to(run.device)

    def loss(batch: tuple[Tensor, Tensor | None], chance: torch.Generator) -> Loss:
        return model.loss(batch[0], label=batch[1], generator=chance)

    chosen = shuffled(len(cells), size=size.rows, steps=size.steps, seed=run.seed)
    yield from run.fit(model, Batches(chosen, rows), size, "counts", loss)


def _column(cells: Cells, label: str | None) -> str | None:
    """The column asked for, or the first there is."""
    if label is None:
        return next(iter(cells.labels), None)
    if label not in cells.labels:
        there = ", ".join(cells.labels) or "none"
        raise ValueError(
            f"there is no column of labels {label!r:.80}, only {there}; name it where the cells "
            "are read: setup_anndata(..., label=...)"
        )
    return label
