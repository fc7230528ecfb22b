"""Cells to an h5ad on disk, chunk by chunk, in constant memory, to be gone on with after a kill.

Each chunk goes to plain files in a folder beside, whose journal then says how far they are whole.
A writer that was killed goes on behind the last chunk that the journal knows; at the end the h5ad
is put together in blocks and renamed into place. It holds what `cell_anndata.as_anndata` makes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import pandas as pd
from jaxtyping import Num
from numpy.typing import NDArray
from torch import Tensor

from sed_core.domains.cell_anndata import (
    COUNTS,
    GENERATED,
    LIBRARY,
    RECIPE,
    Matrix,
    cell_names,
    codes_of,
    counts_of,
    floats_of,
    library_of,
    recipe_text,
)  # fmt: skip
from sed_core.domains.cell_input import refuse_twins
from sed_core.domains.cell_layout import categorical, code_type, dataset, frame, mark, sparse, write
from sed_core.domains.source import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_BLOCK = 1 << 18  # values copied at once when the h5ad is put together
_INT32, _INT64, _FLOAT32 = (np.dtype(kind) for kind in (np.int32, np.int64, np.float32))

_h5: Any = h5py


class CellFile:
    """An h5ad that is written chunk by chunk; `cells` says how many are safe already.

    with CellFile(path, genes=genes, recipe=recipe) as file:
        for first in range(file.cells, n, 256):
            file.append(model.sample(...))
        file.finish()

    The same call after a kill goes on where it was. The arguments are those of `as_anndata`;
    `layers` names the further matrices that every chunk will bring.

    Raises:
        DataError: where another writer is at work, or unfinished cells of another recipe are there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        genes: Sequence[str],
        recipe: Mapping[str, Any],
        label: str | None = None,
        vocabulary: Sequence[str] = (),
        obs: Mapping[str, str | int] = GENERATED,
        layers: Sequence[str] = (),
    ) -> None:
        self.path = Path(path).absolute()
        if self.path.suffix != ".h5ad" or not self.path.parent.is_dir():
            raise DataError(f"cells go to an .h5ad file in a folder that is there, got {path}")
        refuse_twins(genes, "the names of genes", "name each gene once")
        self.genes, self.recipe, self.label = tuple(genes), dict(recipe), label
        taken = [label, *obs, *layers]
        if any(name is not None and "/" in name for name in taken):
            raise DataError(f"names of columns and layers have no /, got {taken}; rename them")
        self.vocabulary, self.obs, self.layers = tuple(vocabulary), dict(obs), tuple(layers)
        self._folder = self.path.with_name(f".{self.path.name}.part")
        self._folder.mkdir(exist_ok=True)
        self._lock = _locked(self._folder / "lock", self.path.name)
        try:
            self.cells, self._lengths = self._resumed()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> "CellFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; what is written stays and can be gone on with."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def append(
        self,
        counts: Matrix,
        *,
        labels: Sequence[int] | Num[Tensor, " B"] | None = None,
        names: Sequence[str] | None = None,
        layers: Mapping[str, Matrix] | None = None,
    ) -> None:
        """Put some cells behind those that are there: all of them, or none if we are killed."""
        whole = counts_of(counts, len(self.genes))
        given = layers or {}
        if set(given) != set(self.layers):
            raise DataError(f"layers {sorted(self.layers)} were announced, got {sorted(given)}")
        parts: dict[str, bytes] = _flat(0, whole)
        for k, name in enumerate(self.layers):
            parts |= _flat(k + 1, floats_of(given[name], whole.shape, name))
        n = whole.shape[0]
        names = cell_names(self.recipe, self.cells, n) if names is None else names
        if len(names) != n:
            raise DataError(f"there are {n} cells but {len(names)} names; give one a cell")
        parts["names"] = "".join(json.dumps(name) + "\n" for name in names).encode()
        parts["labels"] = codes_of(labels, n, len(self.vocabulary)).tobytes()
        parts["library"] = library_of(whole).tobytes()
        self._store(parts, n)

    def finish(self) -> Path:
        """Put the h5ad together, rename it into place, and remove the folder beside."""
        if not self.cells:
            raise DataError(f"no cell was written to {self.path.name}; append some first")
        self._refuse_twins()
        whole = self._folder / "whole.h5ad"
        with _h5.File(whole, "w") as file:
            self._assemble(file)
        _sync(whole)
        os.replace(whole, self.path)
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return self.path

    # -- the folder beside -----------------------------------------------------------------------

    def _identity(self) -> str:
        """What chunks must share to be one file."""
        same = [self.genes, recipe_text(self.recipe), self.label, self.vocabulary, self.layers]
        text = json.dumps([*same, sorted(self.obs.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    def _resumed(self) -> tuple[int, dict[str, int]]:
        """Cells and bytes that the journal knows; whatever stands behind them is cut off."""
        journal = self._folder / "journal.json"
        if not journal.exists():
            return 0, {}
        found: Any = json.loads(journal.read_bytes())
        if found["identity"] != self._identity():
            raise DataError(
                f"{self._folder} holds unfinished cells of another recipe or other genes; delete "
                "it, or choose another name"
            )
        lengths: dict[str, int] = found["lengths"]
        for name, length in lengths.items():
            file = self._folder / name
            if not file.exists() or file.stat().st_size < length:
                raise DataError(f"{self._folder} is damaged ({name} is short); delete it")
            os.truncate(file, length)
        return int(found["cells"]), lengths

    def _store(self, parts: Mapping[str, bytes], n: int) -> None:
        """Append to every file, then say so in the journal: that rename is the moment it counts."""
        lengths = dict(self._lengths)
        for name, content in parts.items():
            with (self._folder / name).open("ab") as file:
                file.truncate(lengths.get(name, 0))  # a chunk that failed half-way
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            lengths[name] = lengths.get(name, 0) + len(content)
        journal = {"identity": self._identity(), "cells": self.cells + n, "lengths": lengths}
        beside = self._folder / "journal.tmp"
        beside.write_text(json.dumps(journal))
        _sync(beside)
        os.replace(beside, self._folder / "journal.json")
        _sync(self._folder)
        self.cells, self._lengths = self.cells + n, lengths

    # -- the h5ad --------------------------------------------------------------------------------

    def _assemble(self, file: Any) -> None:
        """The whole file, in blocks. Indices of X and of the counts are stored once and linked."""
        mark(file, "anndata", "0.1.0")
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            write(file, name, {})
        write(file, "uns", {RECIPE: recipe_text(self.recipe)})
        write(file, "var", pd.DataFrame(index=pd.Index(self.genes, dtype=object)))
        x = self._matrix(file, "X", 0, _INT32)
        counts = sparse(file, f"layers/{COUNTS}", (self.cells, len(self.genes)))
        for name in ("indices", "indptr"):
            counts[name] = x[name]
        self._copy(counts, "data", "0.data", _INT32, _INT32)
        for k, name in enumerate(self.layers):
            self._matrix(file, f"layers/{name}", k + 1, _FLOAT32)
        self._obs(file.create_group("obs"))

    def _matrix(self, file: Any, name: str, k: int, stored: np.dtype[Any]) -> Any:
        """Matrix number k as float32."""
        group = sparse(file, name, (self.cells, len(self.genes)))
        self._copy(group, "data", f"{k}.data", stored, _FLOAT32)
        self._copy(group, "indices", f"{k}.indices", _INT32, _INT32)
        few = self._lengths[f"{k}.indices"] // 4 < 2**31
        pointers = dataset(group, "indptr", self.cells + 1, np.int32 if few else np.int64)
        place, done = 1, 0
        for sizes in self._blocks(f"{k}.sizes", _INT64):
            pointers[place : place + len(sizes)] = done + np.cumsum(sizes)
            place, done = place + len(sizes), done + int(sizes.sum())
        return group

    def _obs(self, group: Any) -> None:
        order = [LIBRARY, *self.obs]
        if self.label is not None:
            codes = categorical(group, self.label, self.vocabulary)
            self._copy(codes, "codes", "labels", _INT32, code_type(len(self.vocabulary)))
            order = [self.label, *order]
        mark(self._copy(group, LIBRARY, "library", _INT64, _INT64), "array")
        for name, value in self.obs.items():
            if isinstance(value, str):
                codes = categorical(group, name, (value,))
                mark(dataset(codes, "codes", self.cells, np.int8), "array")
            else:
                mark(dataset(group, name, self.cells, np.int64, fill=value), "array")
        names, place = dataset(group, "_index", self.cells, _h5.string_dtype()), 0
        for block in self._name_blocks():
            names[place : place + len(block)] = block
            place += len(block)
        mark(names, "string-array")
        frame(group, order)

    def _name_blocks(self) -> Iterator[list[str]]:
        with (self._folder / "names").open(encoding="utf-8") as file:
            while lines := file.readlines(_BLOCK):
                yield [json.loads(line) for line in lines]

    def _refuse_twins(self) -> None:
        """Eight bytes a name are held to tell twins."""
        marks = b"".join(
            hashlib.blake2b(name.encode(), digest_size=8).digest()
            for block in self._name_blocks()
            for name in block
        )
        if len(np.unique(np.frombuffer(marks, np.uint64))) != self.cells:
            raise DataError(
                f"two cells of {self.path.name} have one name; call obs_names_make_unique() on "
                "the AnnData they come from"
            )

    def _copy(self, group: Any, name: str, file: str, stored: np.dtype[Any], kind: Any) -> Any:
        """A data set with the numbers of one of our files."""
        made, place = dataset(group, name, self._lengths[file] // stored.itemsize, kind), 0
        for block in self._blocks(file, stored):
            made[place : place + len(block)] = block.astype(kind)
            place += len(block)
        return mark(made, "array")

    def _blocks(self, name: str, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        with (self._folder / name).open("rb") as file:
            while content := file.read(_BLOCK * dtype.itemsize):
                yield np.frombuffer(content, dtype)


def _flat(k: int, matrix: Any) -> dict[str, bytes]:
    """The arrays of matrix number k as they are appended to."""
    return {
        f"{k}.data": matrix.data.tobytes(),
        f"{k}.indices": matrix.indices.astype(np.int32).tobytes(),
        f"{k}.sizes": np.diff(matrix.indptr).astype(np.int64).tobytes(),
    }


def _locked(file: Path, name: str) -> int:
    """A lock that the system takes back when its holder dies; where there is none, no lock."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise DataError(
                f"{name} is being written by someone else; wait, or stop that"
            ) from error
    return handle


def _sync(path: Path) -> None:
    """Have the system write a file or folder out."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
