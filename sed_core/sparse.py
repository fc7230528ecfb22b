"""Rows of (dimension, value) pairs: what is stored of sparse data, and nothing else.

A dimension that is not listed is an exact zero. There is no tolerance anywhere: 0.0 and -0.0 are
zeros, the smallest subnormal is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rows = slice | Sequence[int] | Int[Tensor, " K"]


@dataclass(frozen=True, eq=False)
class SparseBatch:
    """B rows of up to N pairs in ascending dimension; padding has index 0, value 0, mask False.

    Raises:
        ValueError: naming the first bad row, where a pair is NaN, infinite, zero, out of range, or
            not in strictly ascending order, or where padding stands before a pair.
    """

    index: Int[Tensor, "B N"]
    value: Float[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]
    dim: int

    def __post_init__(self) -> None:
        if not (self.index.shape == self.value.shape == self.mask.shape) or self.index.ndim != 2:
            shapes = [tuple(part.shape) for part in (self.index, self.value, self.mask)]
            raise ValueError(f"index, value and mask must share one (B, N) shape, got {shapes}")
        _refuse(~self.value.isfinite() & self.mask, "a value that is NaN or infinite")
        _refuse((self.value == 0) & self.mask, "a listed value that is zero; leave zeros out")
        outside = (self.index < 0) | (self.index >= self.dim)
        _refuse(outside & self.mask, f"an index outside 0..{self.dim - 1}")
        _refuse(self.mask[:, 1:] & ~self.mask[:, :-1], "padding before a pair")
        not_ascending = self.mask[:, 1:] & (self.index[:, 1:] <= self.index[:, :-1])
        _refuse(not_ascending, "duplicate or unsorted indices; sort them and merge twins")
        _refuse(((self.index != 0) | (self.value != 0)) & ~self.mask, "padding that is not zero")

    # -- in and out ------------------------------------------------------------------------------

    @classmethod
    def from_dense(cls, x: Float[Tensor, "B D"]) -> "SparseBatch":
        """The Non-Zero Extractor: list every entry that is not exactly zero."""
        _refuse(~x.isfinite(), "a value that is NaN or infinite")
        row, index = x.nonzero(as_tuple=True)
        return _from_coo(row, index, x[row, index], rows=x.shape[0], dim=x.shape[1])

    def to_dense(self) -> Float[Tensor, "B D"]:
        """The rows as a dense matrix, exact zeros everywhere else."""
        dense = self.value.new_zeros(len(self), self.dim)
        row, column = self.mask.nonzero(as_tuple=True)
        dense[row, self.index[row, column]] = self.value[row, column]
        return dense

    @classmethod
    def from_csr(cls, matrix: Any) -> "SparseBatch":
        """From a scipy CSR matrix or array, without making it dense; stored zeros are dropped.

        Raises:
            ValueError: where the structure is broken or a value is NaN or infinite.
        """
        if not scipy.sparse.issparse(matrix) or matrix.format != "csr":
            raise ValueError(f"from_csr needs a scipy CSR matrix, got {type(matrix).__name__}")
        _check_csr(matrix)
        counts = torch.from_numpy(np.diff(matrix.indptr).astype(np.int64))
        row = torch.arange(matrix.shape[0]).repeat_interleave(counts)
        index = torch.from_numpy(matrix.indices.astype(np.int64))
        value = torch.from_numpy(matrix.data.astype(np.float32))
        stored = value.isnan() | (value != 0)
        return _from_coo(row[stored], index[stored], value[stored], *matrix.shape)

    def to_csr(self) -> Any:
        """The rows as a scipy CSR matrix (float32), without making them dense."""
        indptr = np.concatenate([[0], self.nnz.cumsum(0).cpu().numpy()])
        data = self.value[self.mask].cpu().numpy().astype(np.float32)
        indices = self.index[self.mask].cpu().numpy().astype(np.int64)
        return scipy.sparse.csr_matrix((data, indices, indptr), shape=(len(self), self.dim))

    # -- counts and views ------------------------------------------------------------------------

    @property
    def nnz(self) -> Int[Tensor, " B"]:
        """Number of pairs of each row."""
        return self.mask.sum(1)

    @property
    def sparsity(self) -> float:
        """Share of exact zeros among all B x D entries."""
        return 1.0 - self.mask.sum().item() / max(1, len(self) * self.dim)

    def __len__(self) -> int:
        return self.index.shape[0]

    def __getitem__(self, rows: Rows) -> "SparseBatch":
        chosen = rows if isinstance(rows, slice | Tensor) else torch.tensor(list(rows)).long()
        mask = self.mask[chosen]
        width = int(mask.sum(1).max()) if mask.shape[0] else 0
        return trusted(
            self.index[chosen, :width], self.value[chosen, :width], mask[:, :width], self.dim
        )

    def pairs(self, row: int) -> tuple[Int[Tensor, " L"], Float[Tensor, " L"]]:
        """The indices and values of one row."""
        return self.index[row][self.mask[row]], self.value[row][self.mask[row]]

    def to(self, device: torch.device | str) -> "SparseBatch":
        """The same rows on another device."""
        index, value, mask = self.index.to(device), self.value.to(device), self.mask.to(device)
        return trusted(index, value, mask, self.dim)

    @staticmethod
    def concat(batches: Sequence["SparseBatch"]) -> "SparseBatch":
        """All rows of several batches of one dimension, in order."""
        dims = {batch.dim for batch in batches}
        if len(dims) != 1:
            raise ValueError(f"concat needs batches of one dimension, got {sorted(dims)}")
        width = max(batch.index.shape[1] for batch in batches)
        parts = [[_widen(part, width) for part in (b.index, b.value, b.mask)] for b in batches]
        index, value, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        return trusted(index, value, mask, dims.pop())


def trusted(index: Tensor, value: Tensor, mask: Tensor, dim: int) -> SparseBatch:
    """A SparseBatch whose pairs are valid by construction, made without checking them again."""
    batch = object.__new__(SparseBatch)
    for name, part in (("index", index), ("value", value), ("mask", mask), ("dim", dim)):
        object.__setattr__(batch, name, part)
    return batch


def _from_coo(row: Tensor, index: Tensor, value: Tensor, rows: int, dim: int) -> SparseBatch:
    """Pack sorted coordinates into padded rows."""
    counts = torch.bincount(row, minlength=rows)
    width = int(counts.max()) if rows else 0
    mask = torch.arange(width, device=row.device) < counts[:, None]
    padded_index = torch.zeros(rows, width, dtype=torch.int64, device=row.device)
    padded_value = torch.zeros(rows, width, dtype=torch.float32, device=row.device)
    padded_index[mask] = index
    padded_value[mask] = value.float()
    return SparseBatch(padded_index, padded_value, mask, dim)


def _check_csr(matrix: Any) -> None:
    """Refuse a broken CSR structure before anything indexes with it (scipy does not)."""
    indptr = np.asarray(matrix.indptr)
    if len(indptr) != matrix.shape[0] + 1 or indptr[0] != 0 or indptr[-1] != len(matrix.indices):
        raise ValueError("the CSR row pointers do not fit the matrix; the file is damaged")
    fall = np.flatnonzero(np.diff(indptr) < 0)
    if len(fall):
        raise ValueError(f"row {fall[0]} has a decreasing CSR row pointer; the file is damaged")
    if len(matrix.data) != len(matrix.indices):
        raise ValueError(
            f"the CSR matrix has {len(matrix.indices)} indices but {len(matrix.data)} values"
        )


def _widen(part: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, width - part.shape[1]))


def _refuse(bad: Bool[Tensor, "B N"], what: str) -> None:
    if bad.any():
        raise ValueError(f"row {int(bad.any(1).nonzero()[0])} has {what}")
