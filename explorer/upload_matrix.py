"""The counts of a visitor's file, as rows of checked entries, whichever way they are stored.

Runs in the reading process only, never in the app's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5a, h5t  # pyright: ignore[reportAttributeAccessIssue]

from explorer.upload_account import Refused, Source, damaged, encoding

LARGEST = 2**24  # the largest count: all smaller ones are exact in a float32
BLOCK = 1 << 18  # entries looked at together

Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # line, place in the line, value of each entry


def matrix(source: Source, layer: str | None) -> tuple[Any, int, int, str]:
    """X, or a named layer: (its parts, cells, genes, encoding), looked at and accounted for."""
    where, name, what = source.root, "X", "the matrix X"
    if layer is not None:
        where, name, what = (
            source.group(where, "layers", "the group layers"),
            layer,
            "the layer asked for",
        )
    found = source.child(where, name, what)
    if isinstance(found, h5py.Dataset):
        encoding(found, what, {"array"}, "array")
        if found.shape is None or len(found.shape) != 2:
            raise damaged(f"{what} does not have two dimensions")
        n, g = grid(source, found.shape[0], found.shape[1], what)
        source.account(counts_of(found, what), (n, g), what)
        return found, n, g, "array"
    kind = encoding(found, what, {"csr_matrix", "csc_matrix"}, "none")
    if kind == "none":
        raise damaged(f"{what} does not say how it is stored")
    n, g = grid(source, *declared_shape(found, what), what)
    return sparse_parts(source, found, n if kind == "csr_matrix" else g, what), n, g, kind


def grid(source: Source, n: int, g: int, what: str) -> tuple[int, int]:
    """A matrix's shape, if it is neither empty nor beyond the limits."""
    fewer = {"cells": "upload a smaller part of it", "genes": "keep its most variable genes"}
    for count, thing in ((n, "cells"), (g, "genes")):
        if count < 1:
            raise Refused(f"{what} has no {thing}; please upload a file that holds some.")
        if count > source.limits[thing]:
            raise Refused(
                f"{what} declares {count:,} {thing} and the limit here is "
                f"{source.limits[thing]:,}; please {fewer[thing]}."
            )
    return n, g


def declared_shape(group: h5py.Group, what: str) -> tuple[int, int]:
    """The shape that a sparse matrix is said to have."""
    if not h5a.exists(group.id, b"shape"):
        raise damaged(f"{what} does not say its shape")
    held = h5a.open(group.id, b"shape")
    if held.shape != (2,) or held.get_type().get_class() != h5t.INTEGER:
        raise damaged(f"{what} does not say its shape")
    n, g = np.asarray(group.attrs["shape"]).tolist()
    return n, g


def sparse_parts(
    source: Source, group: h5py.Group, lines: int, what: str
) -> dict[str, h5py.Dataset]:
    """data, indices and indptr of a sparse matrix, of the lengths that its shape implies."""
    names = ("data", "indices", "indptr")
    parts = {name: source.array(group, name, f"the {name} of {what}") for name in names}
    if len(group) != len(names):
        raise damaged(f"{what} holds parts that do not belong to a sparse matrix")
    counts_of(parts["data"], what)
    if any(parts[name].dtype.kind not in "iu" for name in ("indices", "indptr")):
        raise damaged(f"the positions of {what} are not whole numbers")
    stored = parts["data"].shape
    if stored is None or len(stored) != 1:
        raise damaged(f"{what} does not hold a list of values")
    if stored[0] > source.limits["nonzeros"]:
        raise too_full(stored[0], source.limits["nonzeros"])
    for name, length in (("data", stored[0]), ("indices", stored[0]), ("indptr", lines + 1)):
        source.account(parts[name], (length,), f"the {name} of {what}")
    return parts


def counts_of(array: h5py.Dataset, what: str) -> h5py.Dataset:
    """The array itself, if its type is one that counts can have."""
    kind = array.id.get_type()
    number = kind.get_class() in (h5t.INTEGER, h5t.FLOAT) and array.dtype.kind in "iuf"
    if not number and array.dtype.kind != "b":
        raise Refused(
            f"{what} does not hold real numbers; please upload counts as integers or as floats."
        )
    return array


def too_full(nnz: int, most: int) -> Refused:
    """A refusal of more non-zeros than the limit."""
    return Refused(
        f"The matrix holds {nnz:,} non-zero values or more and the limit here is {most:,}; please "
        "upload fewer cells."
    )


def dense_blocks(source: Source, array: h5py.Dataset, what: str) -> Iterator[Block]:
    """Rows of a dense matrix, as (row, column, value) of what is not zero."""
    n, g = array.shape
    band = array.chunks[0] if array.chunks else 1
    rows = max(1, BLOCK // (band * g)) * band  # whole chunks: each is unpacked once
    few = max(1, BLOCK // g)
    for top in range(0, n, rows):
        read = array[top : top + rows]
        for k in range(0, len(read), few):
            values = whole(read[k : k + few], what)
            row, column = np.nonzero(values)
            yield top + k + row, column, values[row, column]


def sparse_blocks(
    source: Source, parts: dict[str, h5py.Dataset], lines: int, places: int, what: str
) -> Iterator[Block]:
    """Lines (rows of CSR, columns of CSC) of a sparse matrix, each entry checked, in order."""
    ends = pointers(parts["indptr"], len(parts["data"]), places, what)
    chunks = [parts[name].chunks for name in ("data", "indices")]
    block = max([BLOCK, *(chunk[0] for chunk in chunks if chunk)])  # each is unpacked twice at most
    top = 0
    while top < lines:
        after = max(top + 1, int(np.searchsorted(ends, ends[top] + block, side="right")) - 1)
        a, b = int(ends[top]), int(ends[after])
        place = parts["indices"][a:b]
        if place.size and (int(place.min()) < 0 or int(place.max()) >= places):
            raise damaged(f"{what} has entries out of the range of its shape")
        line = np.repeat(np.arange(top, after), np.diff(ends[top : after + 1]))
        value = whole(parts["data"][a:b], what)
        yield ordered(line, place.astype(np.int64), value, places, what)
        top = after


def pointers(array: h5py.Dataset, stored: int, places: int, what: str) -> np.ndarray:
    """The line pointers of a sparse matrix as int64 (lines + 1,), checked in their own type."""
    ends = array[:]
    rising = bool((ends[1:] >= ends[:-1]).all())
    if not rising or int(ends[0]) != 0 or int(ends[-1]) != stored:
        raise damaged(f"the pointers of {what} do not fit what it stores")
    ends = ends.astype(np.int64)
    if int(np.diff(ends).max()) > places:
        raise damaged(f"{what} stores more entries in a line than the line has places")
    return ends


def ordered(
    line: np.ndarray, place: np.ndarray, value: np.ndarray, places: int, what: str
) -> Block:
    """Entries in ascending order without stored zeros; the same entry twice is refused."""
    key = line * places + place
    if (np.diff(key) <= 0).any():
        order = np.argsort(key, kind="stable")
        key, line, place, value = key[order], line[order], place[order], value[order]
        if (np.diff(key) == 0).any():
            raise damaged(f"{what} stores the same entry twice")
    if not value.all():
        keep = np.flatnonzero(value)
        line, place, value = line[keep], place[keep], value[keep]
    return line, place, value


def whole(values: np.ndarray, what: str) -> np.ndarray:
    """Values as int32 (E,), if each is a count: finite, not negative, whole, at most 2**24.

    Checked in the type of the file: a cast before the check would make counts of anything.
    """
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
        if values.size and values.max() > 1:
            raise damaged(f"{what} holds truth values that are neither 0 nor 1")
    if values.dtype.kind == "f":
        _whole_floats(values, what)
    if values.size and values.min() < 0:
        raise Refused(f"{what} holds negative values; please upload raw counts, not scaled ones.")
    if values.size and values.max() > LARGEST:
        raise Refused(
            f"{what} holds values above {LARGEST:,}, which are no counts of molecules; please "
            "upload raw counts."
        )
    return values.astype(np.int32)


def _whole_floats(values: np.ndarray, what: str) -> None:
    """Refuse NaN, infinite values and fractions."""
    if np.isnan(values).any():
        raise Refused(f"{what} holds NaN (missing values); please fill or remove them first.")
    if np.isinf(values).any():
        raise Refused(f"{what} holds infinite values; please upload raw counts.")
    if (values < 0).any():
        raise Refused(f"{what} holds negative values; please upload raw counts, not scaled ones.")
    if (values != np.floor(values)).any():
        raise Refused(
            f"{what} holds fractions, so it looks normalised; please upload raw counts, which are "
            "whole numbers, or name the layer that holds them."
        )


@dataclass
class Rows:
    """A matrix as it grows: places and values of each block, entries of each of its n lines."""

    n: int
    places: int
    most: int
    columns: Iterable[np.ndarray] = ()
    values: Iterable[np.ndarray] = ()
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    nnz: int = 0
    total: int = 0

    def take(self, blocks: Iterator[Block]) -> "Rows":
        """Take blocks of whole lines in ascending order."""
        self.columns, self.values = columns, values = [], []
        self.lengths = np.zeros(self.n, np.int64)
        for line, place, value in blocks:
            self.nnz += value.size
            if self.nnz > self.most:
                raise too_full(self.nnz, self.most)
            self.total += int(value.sum(dtype=np.int64))
            self.lengths += np.bincount(line, minlength=self.n)
            columns.append(place.astype(smallest(self.places)))
            values.append(value)
        return self

    def flipped(self) -> "Rows":
        """The transpose; its entries stay in ascending order. Empties this one."""
        place, self.columns = np.concatenate([*self.columns]), ()
        value, self.values = np.concatenate([*self.values]), ()
        lengths = np.bincount(place, minlength=self.places)
        order = np.argsort(place, kind="stable")  # of 16 bits: a radix sort
        line = np.repeat(np.arange(self.n, dtype=smallest(self.n)), self.lengths)
        parts = [slice(a, a + BLOCK) for a in range(0, self.nnz, BLOCK)]
        return Rows(
            self.places,
            self.n,
            self.most,
            (line[order[part]] for part in parts),
            (value[order[part]] for part in parts),
            lengths,
            self.nnz,
            self.total,
        )

    def write(self, out: dict[str, BinaryIO]) -> None:
        """Write data (int64), indices (int32) and indptr (int64) as .npy files."""
        save(out["data.npy"], "<i8", self.nnz, self.values)
        save(out["indices.npy"], "<i4", self.nnz, self.columns)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        save(out["indptr.npy"], "<i8", self.n + 1, [ends])


def smallest(places: int) -> type[np.integer]:
    """The smallest of two types that can number so many places."""
    return np.uint16 if places <= 2**16 else np.int32


def save(file: BinaryIO, kind: str, length: int, parts: Iterable[np.ndarray]) -> None:
    """One .npy file of a vector that comes in parts."""
    head = {"descr": kind, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, head)
    for part in parts:
        file.write(part.astype(kind).data)
    file.flush()


def entries(source: Source, parts: Any, n: int, g: int, kind: str) -> Rows:
    """All non-zero entries of the matrix, by row."""
    what, most = "the matrix", source.limits["nonzeros"]
    if kind == "array":
        return Rows(n, g, most).take(dense_blocks(source, parts, what))
    if kind == "csr_matrix":
        return Rows(n, g, most).take(sparse_blocks(source, parts, n, g, what))
    columns = Rows(g, n, most).take(sparse_blocks(source, parts, g, n, what))
    return columns.flipped() if columns.nnz else columns
