"""Cells with gaps, filled in chunk by chunk: which entries are known, and what their draws say.

Chance is one generator a cell, so what is drawn for a cell does not depend on its chunk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sed_core.chance import seeded, split, uniform
from sed_core.domains.cells import Cells
from sed_core.domains.source import DataError
from sed_core.imputation import summary
from sed_core.limits import real
from sed_core.sparse import SparseBatch
from sed_core.stream import Step

ENTRIES = 1 << 22  # counts of all draws that are held at once: 32 MB, and what is made of them
MOST_ROWS = 256  # cells x draws that the network sees at once
INTERVAL = (0.05, 0.95)
LAYERS = ("mean", "sd", "lower", "upper", "observed")

Masks = list[torch.Generator]
# (which cells, their counts, a generator for each) -> which entries are known
Known = Callable[[slice, Int64[Tensor, "B D"], Masks], Bool[Tensor, "B D"]]
Watch = Callable[[Step[Any]], None]


@dataclass(frozen=True, eq=False)
class Filled:
    """Some cells: observed counts as they are, gaps from the first draw; and layers over all draws.

    mean, sd, lower and upper (5 % and 95 %) are those of the draws; at observed entries they are
    the count, 0, the count and the count. `observed` is 1 where an entry was known.
    """

    rows: slice
    counts: Int64[Tensor, "B D"]
    layers: Mapping[str, SparseBatch]
    hidden: int  # entries that were drawn


# -- which entries are known -----------------------------------------------------------------------


def expressed(rows: slice, counts: Int64[Tensor, "B D"], chance: Masks) -> Bool[Tensor, "B D"]:
    """All but the zeros."""
    return counts > 0


def all_but(share: float) -> Known:
    """All but a share of the entries, drawn at random.

    Raises:
        ValueError: for what is no share.
    """
    real("share", share, 0, 1)
    return lambda rows, counts, chance: uniform(chance, counts.shape[1]) >= share


def listed(layer: Cells, genes: Sequence[str]) -> Known:
    """What is not zero in a layer of the same file."""
    chosen = layer.with_genes(genes)
    return lambda rows, counts, chance: _dense(chosen.csr(rows) != 0)


def not_hidden(hidden: Any, cells: Cells, genes: Sequence[str]) -> Known:
    """All but the True entries of a matrix that has the shape of `cells`.

    Raises:
        DataError: for a matrix of another shape.
    """
    mask = hidden if scipy.sparse.issparse(hidden) else np.asarray(hidden)
    if mask.shape != (len(cells), cells.dim):
        raise DataError(
            f"hidden has one entry for each cell and gene of the data: wanted "
            f"{(len(cells), cells.dim)}, got {tuple(mask.shape)}"
        )
    mask = scipy.sparse.csr_matrix(mask)
    place = {gene: k for k, gene in enumerate(cells.genes)}
    columns = [place[gene] for gene in genes]
    return lambda rows, counts, chance: ~_dense(mask[rows][:, columns] != 0)


def _dense(mask: Any) -> Bool[Tensor, "B D"]:
    return torch.from_numpy(np.asarray(mask.toarray(), bool))


# -- filling ---------------------------------------------------------------------------------------


def fill(
    model: Any,
    cells: Cells,
    known: Known,
    *,
    draws: int,
    label: Int64[Tensor, " n"] | None,
    seed: int,
    first: int = 0,
    size: int | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Iterator[Filled]:
    """Cells from number `first` on, `size` at a time, each gap drawn `draws` times.

    Args:
        model: one that imputes, with the genes of `cells`.
        label: of each cell; None where no label is to be used.
        watch: called after each step of the sampler.
        options: of the model's `impute_stream`.
    """
    size = size or rows_at_once(draws, cells.dim)
    masks, chance = split(seeded(seed), 2)
    for master in (masks, chance):
        split(master, first)  # those of the cells before
    for start in range(first, len(cells), size):
        rows = slice(start, min(start + size, len(cells)))
        counts, n = cells.counts(rows), rows.stop - rows.start
        observed = known(rows, counts, split(masks, n))
        moves = model.impute_stream(
            counts,
            observed,
            draws=draws,
            label=None if label is None else label[rows],
            generator=split(chance, n),
            **options,
        )
        yield _filled(rows, _walked(moves, watch).reshape(draws, n, -1), observed)


def rows_at_once(draws: int, dim: int) -> int:
    """How many cells are filled at once in bounded memory."""
    return max(1, min(MOST_ROWS // draws, ENTRIES // (draws * dim)))


def _walked(moves: Iterator[Step[Tensor]], watch: Watch | None) -> Tensor:
    step = None
    for step in moves:
        if watch is not None:
            watch(step)
    assert step is not None
    return step.x.cpu()


def _filled(rows: slice, found: Int64[Tensor, "M B D"], observed: Tensor) -> Filled:
    said = summary(found, INTERVAL)
    lower, upper = said.quantile
    dense = dict(zip(LAYERS, (said.mean, said.sd, lower, upper, observed), strict=True))
    layers = {name: SparseBatch.from_dense(part.float()) for name, part in dense.items()}
    return Filled(rows, found[0], layers, int((~observed).sum()))
