"""Cells as an AnnData: counts, labels and library sizes, the genes in order, and the recipe."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch
from jaxtyping import Num
from numpy.typing import NDArray
from torch import Tensor

from sed_core.domains.cell_input import LARGEST_COUNT, refuse_twins
from sed_core.domains.cell_rows import tidy
from sed_core.domains.source import DataError
from sed_core.sparse import SparseBatch

COUNTS = "counts"
SOURCE = "sed_source"
LIBRARY = "library_size"
RECIPE = "sed_recipe"
GENERATED: Mapping[str, str | int] = {SOURCE: "generated"}

Matrix = SparseBatch | Num[Tensor, "B D"] | Any


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """The recipe as JSON, the same for the same recipe."""
    return json.dumps(recipe, sort_keys=True)


def cell_names(recipe: Mapping[str, Any], first: int, n: int) -> list[str]:
    """Names of generated cells first to first + n - 1 (from 0): gen-<recipe>-000001 and on."""
    mark = hashlib.sha256(recipe_text(recipe).encode()).hexdigest()[:8]
    return [f"gen-{mark}-{first + k + 1:06d}" for k in range(n)]


def as_anndata(
    counts: Matrix,
    *,
    genes: Sequence[str],
    recipe: Mapping[str, Any],
    label: str | None = None,
    vocabulary: Sequence[str] = (),
    labels: Sequence[int] | Num[Tensor, " B"] | None = None,
    names: Sequence[str] | None = None,
    obs: Mapping[str, str | int] = GENERATED,
    layers: Mapping[str, Matrix] | None = None,
) -> anndata.AnnData:
    """Cells as an AnnData: X the counts as float32 CSR, layers["counts"] the same as int32.

    Args:
        label: name of the column of obs for `labels`, numbers of `vocabulary`; len(vocabulary) and
            above mean unknown.
        names: of the cells; those of `cell_names` where left out.
        obs: further columns, one value for all cells.
        layers: further matrices, such as the mean of several draws; float32 CSR.
    """
    refuse_twins(genes, "the names of genes", "name each gene once")
    whole = counts_of(counts, len(genes))
    n = whole.shape[0]
    refuse_twins(names or (), "the names of cells", "call adata.obs_names_make_unique()")
    columns: dict[str, Any] = {}
    if label is not None:
        codes = codes_of(labels, n, len(vocabulary))
        columns[label] = pd.Categorical.from_codes(
            codes.tolist(), categories=pd.Index(vocabulary, dtype=object)
        )
    columns[LIBRARY] = library_of(whole)
    for name, value in obs.items():
        columns[name] = pd.Categorical([value] * n) if isinstance(value, str) else [value] * n
    index = pd.Index(names or cell_names(recipe, 0, n), dtype=object)
    return anndata.AnnData(
        whole.astype(np.float32),
        obs=pd.DataFrame(columns, index=index),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        uns={RECIPE: recipe_text(recipe)},
        layers={
            COUNTS: whole,
            **{name: floats_of(layer, whole.shape, name) for name, layer in (layers or {}).items()},
        },
    )


def counts_of(counts: Matrix, width: int) -> Any:
    """Counts as int32 CSR with int32 indices."""
    found = _csr(counts)
    if found.shape[1] != width:
        raise DataError(f"the cells have {found.shape[1]} genes, but {width} names were given")
    values = found.data
    bad = ~np.isfinite(values) | (values < 0) | (values != np.floor(values))
    bad = bad | (values > LARGEST_COUNT)
    if bad.any():
        raise DataError(
            f"counts are whole numbers from 0 to {LARGEST_COUNT:,}, got {values[bad.argmax()]:.4g}"
        )
    return found.astype(np.int32)


def floats_of(layer: Matrix, shape: tuple[int, int], name: str) -> Any:
    found = _csr(layer).astype(np.float32)
    if found.shape != shape:
        raise DataError(f"layer {name!r} is {found.shape}, the counts are {shape}; give equal ones")
    if not np.isfinite(found.data).all():
        raise DataError(f"layer {name!r} has a value that is NaN or infinite; mend what made it")
    return found


def _csr(matrix: Matrix) -> Any:
    if isinstance(matrix, SparseBatch):
        return matrix.to_csr()
    if isinstance(matrix, torch.Tensor):
        matrix = matrix.detach().cpu().numpy()
    return tidy(scipy.sparse.csr_matrix(matrix))


def codes_of(labels: Any, n: int, unknown: int) -> NDArray[np.int32]:
    """Category codes: the number of each label, -1 where it is unknown."""
    codes = np.full(n, -1) if labels is None else np.asarray(labels).astype(np.int64)
    if codes.shape != (n,):
        raise DataError(f"there are {n} cells but labels of shape {codes.shape}; give one a cell")
    return np.where((codes < 0) | (codes >= unknown), -1, codes).astype(np.int32)


def library_of(counts: Any) -> NDArray[np.int64]:
    return np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
