"""Where cells are compared: counts as they come, log-normalised values, and their principal axes.

Cells are rows of a scipy CSR matrix or a SparseBatch and stay sparse: of D genes no more is made
dense than rows of K numbers. Everything is float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float64, Int64
from scipy.sparse import linalg
from torch import Tensor

from sed_core.sparse import SparseBatch

_sparse: Any = scipy.sparse  # whose own annotations say little
_linalg: Any = linalg
Counts = Any  # SparseBatch, or a scipy CSR matrix or array: cells x genes
PER_CELL = 1e4  # what normalised values of a cell sum to
SMALL = 2**21  # entries up to which a matrix is made dense for its singular values: 16 MB


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells with their counts, and the type of each where known; build it with `cells`."""

    counts: Any  # scipy CSR matrix, float64, at least one row
    label: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def __getitem__(self, rows: Sequence[int] | Int64[Tensor, " K"]) -> "Cells":
        chosen = [int(row) for row in rows]
        label = None if self.label is None else tuple(self.label[row] for row in chosen)
        return Cells(self.counts[chosen], label)

    @property
    def genes(self) -> int:
        """Number of genes of the panel."""
        return int(self.counts.shape[1])

    @cached_property
    def library(self) -> Float64[Tensor, " n"]:
        """Total count of each cell."""
        return _tensor(self.counts.sum(1))

    @cached_property
    def expression(self) -> Any:
        """Log-normalised values as CSR: log(1 + 10,000 x / library); an empty cell stays empty."""
        values: Any = self.normalised.copy()
        values.data = np.log1p(values.data)
        return values

    @cached_property
    def normalised(self) -> Any:
        """Counts per 10,000 of each cell, as CSR."""
        values: Any = self.counts.copy()
        library = self.library.numpy()
        scale = np.divide(PER_CELL, library, where=library > 0, out=np.zeros_like(library))
        values.data *= np.repeat(scale, np.diff(values.indptr))
        return values

    def of(self, label: str) -> Int64[Tensor, " K"]:
        """Rows of one type."""
        rows = [row for row, own in enumerate(self.label or ()) if own == label]
        return torch.tensor(rows, dtype=torch.int64)


def cells(counts: Counts, label: Sequence[str] | None = None) -> Cells:
    """Cells from a SparseBatch or a CSR matrix of counts, which is copied and never made dense.

    Raises:
        ValueError: for another kind of matrix, no cell, a value that is negative, NaN or infinite,
            and for another number of labels than of cells.
    """
    matrix = counts.to_csr() if isinstance(counts, SparseBatch) else counts
    if not _sparse.issparse(matrix) or matrix.format != "csr" or not matrix.shape[0]:
        what = f"{type(counts).__name__} {getattr(counts, 'shape', '')}".strip()
        raise ValueError(f"wanted at least one cell in a CSR matrix or a SparseBatch, got {what}")
    matrix = _sparse.csr_matrix(matrix, dtype=np.float64, copy=True)
    data = np.asarray(matrix.data)
    bad = np.flatnonzero(~np.isfinite(data) | (data < 0))
    if len(bad):
        row = int(matrix.tocoo().row[bad[0]])
        raise ValueError(f"cell {row} has a count that is negative, NaN or infinite; drop it")
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if label is not None and len(label) != matrix.shape[0]:
        raise ValueError(f"wanted a label for each of {matrix.shape[0]} cells, got {len(label)}")
    return Cells(matrix, None if label is None else tuple(str(name) for name in label))


def same_genes(*sets: Cells) -> int:
    """The number of genes that all sets have, which must be one and the same."""
    found = sorted({some.genes for some in sets})
    if len(found) > 1:
        raise ValueError(f"sets of cells are compared gene by gene, got panels of {found} genes")
    return found[0]


def stack(*sets: Cells) -> Cells:
    """All cells of several sets, without their labels."""
    same_genes(*sets)
    return Cells(_sparse.vstack([some.counts for some in sets], format="csr"))


def moments(rows: Any) -> tuple[Float64[Tensor, " D"], Float64[Tensor, " D"]]:
    """Mean and variance (of a sample: over n - 1) of every column of a CSR matrix."""
    n = rows.shape[0]
    if n < 2:
        raise ValueError(f"a variance needs two cells or more, got {n}")
    mean = _tensor(rows.mean(0))
    centre = mean.numpy()
    spread = rows.copy()  # of the stored values around the mean; the zeros add theirs below
    spread.data = (spread.data - centre[rows.indices]) ** 2
    zeros = _tensor(n - rows.getnnz(axis=0))
    return mean, (_tensor(spread.sum(0)) + zeros * mean.square()) / (n - 1)


# principal axes -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Axes:
    """Principal axes of the log-normalised values of a reference, and their centre."""

    centre: Float64[Tensor, " D"]
    directions: Float64[Tensor, "D K"]
    variance: Float64[Tensor, " K"]  # of the reference along each, falling
    reference: str  # which cells they were fitted on, to be told with every figure

    def project(self, some: Cells, *, most: int | None = None) -> Float64[Tensor, "n K"]:
        """Coordinates of cells on the first axes, all of them unless told otherwise."""
        directions = self.directions[:, :most]
        return _tensor(some.expression @ directions.numpy(), 2) - self.centre @ directions


def principal_axes(
    reference: Cells, *, axes: int = 50, name: str, generator: torch.Generator
) -> Axes:
    """The axes along which the log-normalised values of a reference vary most, genes not scaled.

    There are fewer than asked for where cells or genes are few. A large matrix stays sparse: the
    centre is taken off within its products (ARPACK, which starts from the generator).

    Args:
        name: which cells the reference is; it goes with the axes.
    """
    x, (n, dim) = reference.expression, reference.counts.shape
    if n < 2 or axes < 1:
        raise ValueError(f"axes need two cells and one axis at least, got {n} and {axes}")
    centre = np.asarray(x.mean(0)).ravel()
    count = min(axes, n - 1, dim)
    start = torch.randn(min(n, dim), generator=generator, dtype=torch.float64).numpy()
    if n * dim <= SMALL or count >= min(n, dim) - 1:
        dense = x.toarray() - centre
        _, values, right = np.linalg.svd(dense, full_matrices=False)
    else:
        _, values, right = _linalg.svds(_centred(x, centre), k=count, v0=start, solver="arpack")
    order = np.argsort(-values, kind="stable")[:count]
    right = right[order]
    largest = np.take_along_axis(right, np.abs(right).argmax(1)[:, None], 1)
    right = right * np.where(largest < 0, -1.0, 1.0)
    variance = _tensor(values[order] ** 2 / (n - 1))
    return Axes(_tensor(centre), _tensor(right.T, 2), variance, name)


def _centred(x: Any, centre: np.ndarray) -> Any:
    """x minus its centre as an operator, so that x stays sparse."""
    ones = np.ones(x.shape[0])
    turned = x.T.tocsr()

    def times(v: Any) -> Any:
        return x @ v - ones.reshape(-1, *[1] * (v.ndim - 1)) * (centre @ v)

    def turned_times(v: Any) -> Any:
        return turned @ v - (centre * v.sum() if v.ndim == 1 else np.outer(centre, v.sum(0)))

    options: dict[str, Any] = {"matvec": times, "rmatvec": turned_times}
    products: dict[str, Any] = {"matmat": times, "rmatmat": turned_times}
    return _linalg.LinearOperator(x.shape, dtype=np.float64, **options, **products)


def _tensor(x: Any, dims: int = 1) -> Tensor:
    """float64 numbers, in a vector unless two dimensions are asked for."""
    found = np.ascontiguousarray(x, dtype=np.float64)
    return torch.from_numpy(found.reshape(-1) if dims == 1 else found)
