"""The groups of an h5ad as anndata 0.8 and later write them, made empty and filled in blocks."""

from collections.abc import Sequence
from typing import Any

import anndata
import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

CHUNK = 1 << 15  # values that are compressed together

_h5: Any = h5py
_io: Any = anndata.io


def mark(item: Any, kind: str, version: str = "0.2.0") -> Any:
    """Say what a group or data set is, as anndata wants it said."""
    item.attrs.update({"encoding-type": kind, "encoding-version": version})
    return item


def dataset(group: Any, name: str, length: int, dtype: Any, fill: Any = None) -> Any:
    """A compressed data set of one axis."""
    size = min(CHUNK, length)
    return group.create_dataset(
        name, (length,), dtype, chunks=(size,) if size else None, compression="gzip" if size else
        None, compression_opts=1 if size else None, shuffle=bool(size), fillvalue=fill,
    )  # fmt: skip


def write(group: Any, name: str, element: Any) -> None:
    """A small element, as anndata writes it."""
    _io.write_elem(group, name, element)


def sparse(file: Any, name: str, shape: tuple[int, int]) -> Any:
    """The group of a CSR matrix, to be given data, indices and indptr."""
    group = mark(file.create_group(name), "csr_matrix", "0.1.0")
    group.attrs["shape"] = np.array(shape, np.int64)
    return group


def categorical(group: Any, name: str, names: Sequence[str]) -> Any:
    """The group of a column of categories, to be given codes."""
    made = mark(group.create_group(name), "categorical")
    made.attrs["ordered"] = False
    write(made, "categories", np.array(names, dtype=object))
    return made


def code_type(n: int) -> np.dtype[Any]:
    """The smallest integers that number n categories."""
    return np.dtype(next(kind for kind in (np.int8, np.int16, np.int32) if n <= np.iinfo(kind).max))


def frame(group: Any, order: Sequence[str]) -> None:
    """Make a group with an `_index` and columns the table that it is."""
    mark(group, "dataframe").attrs["_index"] = "_index"
    group.attrs.create("column-order", list(order), dtype=_h5.string_dtype())
