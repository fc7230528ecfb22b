"""What an AnnData or an h5ad file holds, looked at without reading more than is asked for."""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anndata
import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import scipy.sparse

from sed_core.domains.cell_rows import Odd, Scan
from sed_core.domains.source import DataError

Kind = Literal["counts", "normalised"]

LARGEST_COUNT = 1 << 24  # every whole number up to here is a float32

_h5: Any = h5py
_io: Any = anndata.io


@dataclass(frozen=True, eq=False)
class Given:
    """An AnnData, or the open h5ad file of one."""

    holder: Any
    on_disk: bool

    def close(self) -> None:
        """Close a file that nothing will be read from any more."""
        if self.on_disk:
            self.holder.close()

    def index(self, table: str) -> list[str]:
        """The names of cells (obs) or of genes (var)."""
        frame: Any = self._table(table)
        if not isinstance(frame, _h5.Group):
            return [str(name) for name in frame.index]
        key = frame.attrs.get("_index", "_index")
        if key not in frame:
            raise DataError(f"{table} has no names; open the file with anndata and save it again")
        return [str(name) for name in _io.read_elem(frame[key])]

    def columns(self, table: str) -> list[str]:
        """Names of the columns of obs or var."""
        frame: Any = self._table(table)
        grouped = isinstance(frame, _h5.Group)
        index = frame.attrs.get("_index", "_index") if grouped else None
        return [str(key) for key in frame if key != index]

    def column(self, table: str, name: str) -> Any:
        """A column of obs or var."""
        there = self.columns(table)
        if name not in there:
            raise DataError(f"{table} has no column {name!r}; it has {few(there, 10) or 'none'}")
        frame: Any = self._table(table)
        return _io.read_elem(frame[name]) if isinstance(frame, _h5.Group) else frame[name]

    def layers(self) -> list[str]:
        """Names of the layers."""
        return list(self.holder.get("layers", ()) if self.on_disk else self.holder.layers)

    def matrix(self, layer: str | None) -> tuple[Any, str]:
        """X or a layer, and how to call it."""
        there = few(self.layers(), 10) or "none"
        if layer is None:
            x = self.holder.get("X") if self.on_disk else self.holder.X
            if x is None:
                raise DataError(f"there is no X; name a layer with layer= (there are: {there})")
            return x, "X"
        if layer not in self.layers():
            raise DataError(f"there is no layer {layer!r}; there are: {there}")
        layers = self.holder["layers"] if self.on_disk else self.holder.layers
        return layers[layer], f"layer {layer!r}"

    def _table(self, name: str) -> Any:
        """obs or var: as a table, or as a group of a file from which single columns are read."""
        if not self.on_disk:
            return getattr(self.holder, name)
        group = self.holder[name]
        if group.attrs.get("encoding-version") == "0.2.0":
            return group
        with warnings.catch_warnings():  # categories of older files lie beside their columns
            warnings.simplefilter("ignore", anndata.OldFormatWarning)
            return _io.read_elem(group)


def opened(data: anndata.AnnData | str | Path | io.BytesIO) -> Given:
    """An AnnData, or the h5ad file of that path or of these bytes, opened for reading."""
    if isinstance(data, anndata.AnnData):
        if data.isbacked and data.is_view:
            raise DataError(
                "this is a view of a backed AnnData, which would be read whole; give the AnnData "
                "itself and take part(...) of what comes back"
            )
        return Given(data, on_disk=False)
    if not isinstance(data, io.BytesIO):
        data = Path(data).expanduser()
        if not data.is_file():
            raise DataError(f"there is no file {data}; check the path")
    name = "the file" if isinstance(data, io.BytesIO) else data.name
    try:
        file = _h5.File(data, "r")
    except OSError as error:
        raise DataError(
            f"{name} can't be opened as an h5ad file; it is damaged, unfinished or of another kind"
        ) from error
    if not all(isinstance(file.get(table), _h5.Group) for table in ("obs", "var")):
        raise DataError(
            f"{name} has no obs and var as anndata writes them since 0.7; open it with anndata and "
            "save it again"
        )
    return Given(file, on_disk=True)


# counts told from other values ------------------------------------------------------------------


def tell(
    found: Scan, what: str, given: Given, genes: Sequence[str], layer: str | None
) -> tuple[Kind, str]:
    """What the values are, and a sentence that says so."""
    if not found.nnz.any():
        raise DataError(f"{what} holds zeros only; name the layer with the counts")
    zeros = 1 - found.nnz.sum() / (len(found.nnz) * len(genes))
    size = f"{len(found.nnz):,} cells x {len(genes):,} genes, {zeros:.1%} zeros"
    if found.fraction:
        where = _at(found.fraction, given.index("obs"), genes)
        better = [name for name in given.layers() if name != layer and _whole(given, name)]
        if layer is not None and _whole(given, None):
            better.append("X (leave layer out)")
        remedy = f"counts may be in {few(better, 5)}" if better else "no layer holds raw counts"
        return "normalised", f"{what} holds normalised values ({size}): {where}; {remedy}"
    if found.largest > LARGEST_COUNT:
        raise DataError(
            f"{what} holds a count of {found.largest:,.0f}; counts up to {LARGEST_COUNT:,} are "
            "taken, look at how it was made"
        )
    empty = int((found.nnz == 0).sum())
    more = f"; {empty:,} cells express nothing" if empty else ""
    return "counts", f"{what} holds raw counts ({size}), up to {found.largest:,.0f}{more}"


def _at(odd: Odd, cells: Sequence[str], genes: Sequence[str]) -> str:
    return f"{odd.value:.4g} in cell {cells[odd.row]}, gene {genes[odd.column]}"


def _whole(given: Given, layer: str | None, cells: int = 100) -> bool:
    """Whether the first cells of X or a layer hold whole numbers from 0 up."""
    try:
        matrix, _ = given.matrix(layer)
        matrix = getattr(matrix, "group", matrix)
        if isinstance(matrix, _h5.Group):
            values = matrix["data"][: cells * 100]
        elif scipy.sparse.issparse(matrix):
            values = matrix[:cells].data
        else:
            values = np.asarray(matrix[:cells])
        numbers = values.dtype.kind in "iufb" and values.any()
        return bool(numbers and (values >= 0).all() and (values == np.floor(values)).all())
    except (DataError, KeyError, TypeError, ValueError):
        return False


# names ------------------------------------------------------------------------------------------


def few(names: Sequence[str], most: int) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def refuse_twins(names: Sequence[str], what: str, remedy: str) -> None:
    """Refuse names of which some stand twice."""
    if len(set(names)) < len(names):
        twins = [name for name, times in Counter(names).items() if times > 1]
        raise DataError(f"{what} hold {few(twins, 5)} more than once; {remedy}")
