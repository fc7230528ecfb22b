"""Rows of a matrix of cells by genes, read when asked for: from memory, or from a larger file.

A file is never held whole: what is kept of it is one pointer a row. Rows of CSR and of dense
matrices are read where they lie; CSC is written anew by rows, once, to a temporary file.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sed_core.domains.source import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ENTRIES = 1 << 20  # stored values that a pass holds at once: about 80 MB with what is made of them
TURNED = 1 << 23  # of a CSC file, while it is written anew by rows

_h5: Any = h5py
_sp: Any = scipy.sparse


@dataclass(frozen=True, eq=False)
class MemoryRows:
    """A CSR matrix in memory."""

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def cost(self) -> Ints:
        return np.diff(self.matrix.indptr).astype(np.int64)

    def csr(self, rows: Ints) -> Any:
        return tidy(self.matrix[rows])


@dataclass(frozen=True, eq=False)
class DenseRows:
    """A dense matrix, in memory or in a file."""

    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    @property
    def cost(self) -> Ints:
        return np.full(self.shape[0], self.shape[1], np.int64)

    def csr(self, rows: Ints) -> Any:
        if not isinstance(self.array, _h5.Dataset):
            return tidy(scipy.sparse.csr_matrix(self.array[rows]))
        wanted, back = np.unique(rows, return_inverse=True)
        parts = [scipy.sparse.csr_matrix(self.array[a:b]) for a, b in _runs(wanted)]
        if not parts:
            return scipy.sparse.csr_matrix((0, self.shape[1]), dtype=self.array.dtype)
        return tidy(_sp.vstack(parts, format="csr")[back])


@dataclass(frozen=True, eq=False)
class FileRows:
    """A CSR matrix in an HDF5 file, of which only the row pointers are in memory."""

    data: Any
    indices: Any
    indptr: Ints
    shape: tuple[int, int]

    @property
    def cost(self) -> Ints:
        return np.diff(self.indptr)

    def csr(self, rows: Ints) -> Any:
        wanted, back = np.unique(rows, return_inverse=True)
        spans = [(self.indptr[a], self.indptr[b]) for a, b in _runs(wanted)]
        data = _joined([self.data[a:b] for a, b in spans], self.data.dtype)
        indices = _joined([self.indices[a:b] for a, b in spans], self.indices.dtype)
        _check_indices(indices, self.shape[1])
        indptr = np.concatenate([[0], np.cumsum(self.cost[wanted])])
        found = scipy.sparse.csr_matrix((data, indices, indptr), (len(wanted), self.shape[1]))
        same = len(back) == len(wanted) and bool((back == np.arange(len(back))).all())
        return tidy(found if same else found[back])


# A matrix of which rows can be had, in the order asked for, as CSR with ascending indices and no
# stored zeros; `cost` is how many values are read for each.
RowSource = MemoryRows | DenseRows | FileRows


def tidy(matrix: Any) -> Any:
    """The same CSR matrix with ascending indices and without stored zeros; gaps stay gaps."""
    if not matrix.has_sorted_indices:
        matrix = matrix.sorted_indices()
    if matrix.nnz and not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix


def _joined(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _runs(rows: Ints) -> list[tuple[int, int]]:
    """First and one past the last of each run of neighbours among ascending rows."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    firsts, lasts = rows[np.r_[0, cuts]], rows[np.r_[cuts - 1, len(rows) - 1]]
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]


# a source from what is given --------------------------------------------------------------------


def open_rows(matrix: Any, what: str) -> RowSource:
    """Rows of a numpy array, a scipy matrix, an HDF5 data set or group, or a backed `.X`.

    Args:
        what: its name in errors, such as "X" or "layer 'counts'".

    Raises:
        DataError: for anything else, and for matrices without cells, genes or numbers.
    """
    matrix = getattr(matrix, "group", matrix)  # anndata's backed sparse data sets
    if isinstance(matrix, _h5.Group):
        return _from_group(matrix, what)
    if scipy.sparse.issparse(matrix):
        _check(matrix.shape, matrix.dtype, what)
        found = matrix.tocsr()
        _check_pointers(np.asarray(found.indptr), len(found.indices), found.shape[0], what)
        _check_indices(found.indices, found.shape[1])
        return MemoryRows(found)
    if isinstance(matrix, np.ndarray | _h5.Dataset):
        _check(matrix.shape, matrix.dtype, what)
        return DenseRows(matrix)
    raise DataError(
        f"{what} is a {type(matrix).__name__}; give a numpy array, a scipy sparse matrix or an "
        "h5ad file"
    )


def in_memory(source: RowSource) -> RowSource:
    """The same rows, all of them in memory."""
    return MemoryRows(source.csr(np.arange(source.shape[0], dtype=np.int64)))


def _from_group(group: Any, what: str) -> RowSource:
    kind = str(group.attrs.get("encoding-type", "")).removesuffix("_matrix")
    parts = [group.get(name) for name in ("data", "indices", "indptr")]
    shape = tuple(int(side) for side in group.attrs.get("shape", ()))
    if kind not in ("csr", "csc") or not all(isinstance(part, _h5.Dataset) for part in parts):
        raise DataError(
            f"{what} is stored in a way we do not read (wanted csr, csc or dense, got "
            f"{kind or 'nothing that says'}); open it with anndata and save it again"
        )
    data, indices, pointers = parts
    _check(shape, data.dtype, what)
    indptr = pointers[:].astype(np.int64)
    _check_pointers(indptr, len(indices), shape[kind == "csc"], what)
    if len(data) != len(indices):
        raise DataError(f"{what} has {len(indices)} indices but {len(data)} values; it is damaged")
    if kind == "csr":
        return FileRows(data, indices, indptr, (shape[0], shape[1]))
    return _turned(data, indices, indptr, (shape[0], shape[1]))


def _check(shape: tuple[int, ...], dtype: Any, what: str) -> None:
    if len(shape) != 2 or not shape[0] or not shape[1]:
        raise DataError(
            f"{what} must be cells by genes, at least one of each; its shape is {shape}"
        )
    if dtype.kind not in "iufb":
        raise DataError(f"{what} must hold numbers, got {dtype}; save the counts as int or float")


def _check_pointers(indptr: NDArray[Any], entries: int, rows: int, what: str) -> None:
    fits = len(indptr) == rows + 1 and indptr[0] == 0 and indptr[-1] == entries
    if not fits or (np.diff(indptr) < 0).any():
        raise DataError(f"the pointers of {what} do not fit its values; the file is damaged")


def _check_indices(indices: NDArray[Any], width: int) -> None:
    if len(indices) and not (indices.min() >= 0 and indices.max() < width):
        raise DataError(f"the matrix lists a gene or cell outside 0..{width - 1}; it is damaged")


# CSC, written anew by rows ----------------------------------------------------------------------


def _turned(data: Any, indices: Any, indptr: Ints, shape: tuple[int, int]) -> FileRows:
    """A CSC matrix by rows, in a temporary file that goes when the source does.

    The file is read once for every `TURNED` values: time for memory.
    """
    sizes = np.zeros(shape[0], np.int64)
    for a in range(0, len(indices), ENTRIES):
        part = indices[a : a + ENTRIES]
        _check_indices(part, shape[0])
        sizes += np.bincount(part, minlength=shape[0])
    pointers = np.concatenate([[0], np.cumsum(sizes)])
    handle, name = tempfile.mkstemp(suffix=".h5", prefix="sed-rows-")
    os.close(handle)
    file = _h5.File(name, "w")
    out = {"data": data.dtype, "indices": np.dtype(np.int32)}
    stored = {key: file.create_dataset(key, (len(indices),), dtype) for key, dtype in out.items()}
    for first, last in spans(sizes, TURNED):
        block = _row_block(data, indices, indptr, (first, last), sizes[first:last])
        place = slice(int(pointers[first]), int(pointers[last]))
        stored["data"][place], stored["indices"][place] = block
    found = FileRows(stored["data"], stored["indices"], pointers, shape)
    weakref.finalize(found, _remove, file, name)
    return found


def _row_block(
    data: Any, indices: Any, indptr: Ints, rows: tuple[int, int], sizes: Ints
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Values and columns of rows first to last of a CSC matrix, row after row.

    `sizes` says how many entries each of these rows has.
    """
    first, last = rows
    ends = np.concatenate([[0], np.cumsum(sizes)])
    column, value = np.empty(ends[-1], np.int32), np.empty(ends[-1], data.dtype)
    place = ends[:-1].copy()  # of the next entry of each row
    for a in range(0, len(indices), ENTRIES):
        part = indices[a : a + ENTRIES]
        inside = np.flatnonzero((part >= first) & (part < last))
        inside = inside[np.argsort(part[inside], kind="stable")]  # columns ascend, twins stay
        row = part[inside] - first
        here = np.bincount(row, minlength=last - first)
        to = np.repeat(place - (np.cumsum(here) - here), here) + np.arange(len(row))
        column[to] = np.searchsorted(indptr, a + inside, side="right") - 1
        value[to] = data[a : a + ENTRIES][inside]
        place += here
    return value, column


def _remove(file: Any, name: str) -> None:
    with suppress(Exception):  # HDF5 may have been shut down before us
        file.close()
    with suppress(OSError):
        os.unlink(name)


# passes over all rows ---------------------------------------------------------------------------


def spans(cost: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Neighbouring rows (first, one past the last) that cost at most `most`, or one row."""
    ends, first = np.cumsum(cost), 0
    while first < len(cost):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        yield first, last
        first = last


def chunks(source: RowSource, where: Ints) -> Iterator[tuple[slice, Any]]:
    """All rows of `where` in order, some at a time: which of them, and their CSR."""
    for first, last in spans(source.cost[where], ENTRIES):
        yield slice(first, last), source.csr(where[first:last])


class Odd(NamedTuple):
    """One value that tells something about its matrix."""

    row: int
    column: int
    value: float


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass over a matrix finds."""

    library: Floats  # sum of each row
    nnz: Ints  # values other than zero of each row
    total: Floats  # sum of each column
    largest: float
    fraction: Odd | None  # the first value that is no whole number


def scan(source: RowSource, what: str) -> Scan:
    """Sums, largest value and the first fraction, of all rows.

    Raises:
        DataError: naming the first value that is NaN, infinite or negative, and the first cell
            that lists a gene twice.
    """
    rows, columns = source.shape
    library, nnz, total = np.zeros(rows), np.zeros(rows, np.int64), np.zeros(columns)
    largest, fraction = 0.0, None
    for place, part in chunks(source, np.arange(rows, dtype=np.int64)):
        _refuse(part, place.start, what)
        values = part.data.astype(np.float64)
        nnz[place] = np.diff(part.indptr)
        library[place] = np.bincount(row_numbers(part), values, minlength=part.shape[0])
        total += np.bincount(part.indices, values, minlength=columns)
        largest = max(largest, values.max(initial=0.0))
        fraction = fraction or _first(part, values != np.floor(values), place.start)
    return Scan(library, nnz, total, float(largest), fraction)


def row_numbers(part: Any) -> Ints:
    """The row of each stored value."""
    return np.repeat(np.arange(part.shape[0], dtype=np.int64), np.diff(part.indptr))


def _refuse(part: Any, start: int, what: str) -> None:
    odd = _first(part, ~np.isfinite(part.data), start)
    if odd:
        raise DataError(
            f"{what} has a value that is NaN or infinite (cell {odd.row}, gene {odd.column}, from "
            "0); counts were wanted, so take such cells out or save the counts anew"
        )
    odd = _first(part, part.data < 0, start)
    if odd:
        raise DataError(
            f"{what} has a negative value ({odd.value:.4g} at cell {odd.row}, gene {odd.column}, "
            "from 0), as scaled or centred data has; give the raw counts, or name their layer"
        )
    row = row_numbers(part)
    twice = np.zeros(part.nnz, bool)
    twice[1:] = (np.diff(part.indices) == 0) & (np.diff(row) == 0)
    odd = _first(part, twice, start)
    if odd:
        raise DataError(
            f"{what} lists gene {odd.column} of cell {odd.row} (from 0) twice; call "
            "sum_duplicates() and save it again"
        )


def _first(part: Any, bad: NDArray[np.bool_], start: int) -> Odd | None:
    """Where the first of the stored values is bad, if any is."""
    if not bad.any():
        return None
    k = int(bad.argmax())
    row = int(np.searchsorted(part.indptr, k, side="right")) - 1
    return Odd(start + row, int(part.indices[k]), float(part.data[k]))
