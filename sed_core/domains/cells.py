"""Single cells: AnnData in, its genes in order, counts told from other values, labels, splits.

`setup_anndata` takes an AnnData, in memory or backed, or the path of an h5ad file. A large file is
read by rows where it lies, so that one larger than memory trains and samples. What models see are
`Cells`: pairs of (gene, count), library sizes, labels as numbers of a vocabulary that all splits
share. `cell_files` writes what they make.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from sed_core.chance import seeded
from sed_core.domains.cell_genes import highest, residual_variance
from sed_core.domains.cell_input import Given, Kind, few, opened, refuse_twins, tell
from sed_core.domains.cell_labels import Labels, read_labels
from sed_core.domains.cell_rows import (
    Ints,
    MemoryRows,
    RowSource,
    chunks,
    in_memory,
    open_rows,
    scan,
)
from sed_core.domains.source import DataError, in_folder, looked, read_known
from sed_core.sparse import Rows, SparseBatch

Names = NDArray[np.object_]

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
LARGEST_COUNT = 1 << 24  # every whole number up to here is a float32
MOST_LABELS = 1000
IN_MEMORY = 1 << 27  # stored values of a file up to which it is read whole: about 1 GB

PBMC3K = "pbmc3k.h5ad"
PBMC3K_TITLE = "PBMC3k"
PBMC3K_CREDIT = "10x Genomics, CC BY 4.0"
_PBMC3K_SHA256 = "0769bccd79d8dc8273e507ff15d345e0987cf0b44fecc7b4ed2e0e4174bd563b"

_h5: Any = h5py


@dataclass(frozen=True, eq=False)
class Cells:
    """Some cells of a matrix, and the genes of it that models see, in order.

    `library` is each cell's total over all genes of the matrix, whatever genes are chosen; `nnz`
    is how many of the chosen ones it expresses. `said` tells in a sentence what was found.
    """

    source: RowSource
    where: Ints  # rows of the source
    columns: Ints | None  # columns of the source; None for all of them
    genes: tuple[str, ...]
    names: Names
    kind: Kind
    said: str
    library: Float64[Tensor, " n"]
    nnz: Int64[Tensor, " n"]
    labels: Mapping[str, Labels]

    def __len__(self) -> int:
        return len(self.where)

    @property
    def dim(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def sparsity(self) -> float:
        """Share of exact zeros among all cells and genes."""
        return 1.0 - float(self.nnz.sum()) / max(1, len(self) * self.dim)

    def csr(self, rows: Rows | None = None) -> Any:
        """The cells asked for as a scipy CSR matrix, in the type that the source has."""
        return self._choose(self.source.csr(self.where[_positions(rows, len(self))]))

    def rows(self, rows: Rows | None = None) -> SparseBatch:
        """The (gene, value) pairs of the cells asked for; only these are read."""
        return SparseBatch.from_csr(self.csr(rows))

    def __getitem__(self, rows: Rows) -> SparseBatch:
        return self.rows(rows)

    def counts(self, rows: Rows | None = None) -> Int64[Tensor, "B D"]:
        """The cells asked for as dense counts.

        Raises:
            DataError: where the values are no counts.
        """
        if self.kind != "counts":
            raise DataError(f"raw counts were wanted; {self.said}")
        return torch.from_numpy(self.csr(rows).astype(np.int64).toarray())

    def part(self, rows: Rows) -> "Cells":
        """Some of the cells as a set of its own, with the same genes and vocabularies."""
        at = _positions(rows, len(self))
        chosen = torch.from_numpy(at)
        labels = {
            name: Labels(label.names, label.numbers[chosen]) for name, label in self.labels.items()
        }
        return replace(
            self,
            where=self.where[at],
            names=self.names[at],
            library=self.library[chosen],
            nnz=self.nnz[chosen],
            labels=labels,
        )

    def split(self, seed: int = 0, shares: Mapping[str, float] = SHARES) -> dict[str, "Cells"]:
        """Parts of the given shares, by the seed alone, each in the order of the file."""
        return {
            name: self.part(torch.from_numpy(rows))
            for name, rows in split_rows(len(self), seed, shares).items()
        }

    def with_genes(self, genes: Sequence[str]) -> "Cells":
        """The same cells with these genes, found by name, in this order; others are left out.

        Raises:
            DataError: naming the genes that are wanted and not there, or wanted twice.
        """
        if tuple(genes) == self.genes:
            return self
        refuse_twins(genes, "the genes asked for", "name each gene once")
        place = {gene: k for k, gene in enumerate(self.genes)}
        missing = [gene for gene in genes if gene not in place]
        if missing:
            raise DataError(_missing_genes(missing, genes, self.genes))
        at = np.array([place[gene] for gene in genes], np.int64)
        chosen = replace(
            self,
            columns=at if self.columns is None else self.columns[at],
            genes=tuple(genes),
        )
        nnz = np.zeros(len(self), np.int64)
        for rows, found in chunks(self.source, self.where):
            nnz[rows] = np.diff(chosen._choose(found).indptr)
        return replace(chosen, nnz=torch.from_numpy(nnz))

    def most_variable(self, n: int) -> "Cells":
        """The same cells with their n most variable genes by Pearson residuals, in file order.

        Ask this of the training cells, and give the genes to the others by `with_genes`.

        Raises:
            DataError: where the values are no counts, or fewer than n genes are expressed.
        """
        if self.kind != "counts":
            raise DataError(f"variable genes are chosen from raw counts; {self.said}")
        if self.columns is not None:
            raise DataError("variable genes are chosen once, from all genes; start from those")
        score = residual_variance(self.source, self.where)
        alive = int((score > 0).sum())
        if not 1 <= n <= alive:
            raise DataError(f"n must be 1 to {alive} genes that vary among these cells, got {n}")
        return self.with_genes([self.genes[int(k)] for k in highest(score, n)])

    def _choose(self, matrix: Any) -> Any:
        if self.columns is None:
            return matrix
        return matrix[:, self.columns].sorted_indices()


def _positions(rows: Rows | None, n: int) -> Ints:
    """Row numbers from 0 for a slice, a list or a tensor; all of them for None."""
    if rows is None or isinstance(rows, slice):
        return np.arange(n, dtype=np.int64)[rows if rows is not None else slice(None)]
    at = np.asarray(rows, dtype=np.int64)
    if len(at) and not (-n <= at.min() and at.max() < n):
        raise IndexError(f"rows must be 0 to {n - 1}, got {int(at.min())} to {int(at.max())}")
    return at % max(n, 1)


def split_rows(n: int, seed: int, shares: Mapping[str, float] = SHARES) -> dict[str, Ints]:
    """Row numbers of each part: a permutation by the seed, cut at the shares, each ascending.

    Raises:
        DataError: for shares that are not positive or sum to more than 1, or a part without a row.
    """
    if min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
        raise DataError(f"shares must be positive and sum to at most 1, got {dict(shares)}")
    order = torch.randperm(n, generator=seeded(seed)).numpy()
    cuts = np.round(np.cumsum([0.0, *shares.values()]) * n).astype(np.int64)
    ends = pairwise(cuts)
    parts = {name: np.sort(order[a:b]) for name, (a, b) in zip(shares, ends, strict=True)}
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        raise DataError(
            f"{n} cells are too few for the part {empty[0]!r}; give more or other shares"
        )
    return parts


def _missing_genes(missing: list[str], wanted: Sequence[str], there: Sequence[str]) -> str:
    if len(missing) == len(wanted):
        return (
            f"none of the {len(wanted):,} genes wanted is there: wanted such as {few(wanted, 3)}, "
            f"the file has such as {few(there, 3)}; name the column of var that holds the other "
            "names with genes="
        )
    return (
        f"{len(missing):,} of the {len(wanted):,} genes wanted are not in the file: "
        f"{few(missing, 10)}; add them, or train on the genes that both have"
    )


# AnnData in -------------------------------------------------------------------------------------


def setup_anndata(
    data: anndata.AnnData | str | Path | io.BytesIO,
    *,
    layer: str | None = None,
    label: str | Sequence[str] | None = None,
    genes: str | None = None,
    unknown: Sequence[str] = (),
    vocabularies: Mapping[str, Sequence[str]] | None = None,
    memory: bool | None = None,
) -> Cells:
    """Look at an AnnData, or an h5ad file, and take from it what models need.

    Args:
        data: an AnnData, in memory or backed; the path of an h5ad file, or its bytes.
        layer: name of the layer to read; X where it is left out.
        label: columns of obs that say what a cell is; None and NaN are unknown.
        genes: column of var with the names of genes; its index where it is left out.
        unknown: further values of labels that mean unknown, such as "unassigned".
        vocabularies: the names of each label where a model has learned them; others are unknown.
        memory: read all of a file into memory (True) or rows as needed (False); by its size where
            left out.

    Raises:
        DataError: in a sentence, for whatever we can't take.
    """
    given = opened(data)
    try:
        cells = _taken(given, layer, genes, memory)
        columns = (label,) if isinstance(label, str) else tuple(label or ())
        known = vocabularies or {}
        labels = {
            name: read_labels(given.column("obs", name), name, unknown, known.get(name))
            for name in columns
        }
    except BaseException:
        given.close()
        raise
    if isinstance(cells.source, MemoryRows):
        given.close()
    return replace(cells, labels=labels)


def _taken(given: Given, layer: str | None, genes: str | None, memory: bool | None) -> Cells:
    """All cells and genes of one matrix, without labels."""
    matrix, what = given.matrix(layer)
    source = open_rows(matrix, what)
    cell_names = given.index("obs")
    gene_names = given.index("var") if genes is None else _gene_column(given, genes)
    if source.shape != (len(cell_names), len(gene_names)):
        raise DataError(
            f"{what} is {source.shape[0]} x {source.shape[1]}, but there are {len(cell_names)} "
            f"cells and {len(gene_names)} genes; save the file again"
        )
    refuse_twins(gene_names, "the names of genes", "call adata.var_names_make_unique()")
    if given.on_disk and (memory or (memory is None and source.cost.sum() <= IN_MEMORY)):
        source = in_memory(source)
    found = scan(source, what)
    kind, said = tell(found, what, given, gene_names, layer)
    return Cells(
        source=source,
        where=np.arange(source.shape[0], dtype=np.int64),
        columns=None,
        genes=tuple(gene_names),
        names=np.array(cell_names, dtype=object),
        kind=kind,
        said=said,
        library=torch.from_numpy(found.library),
        nnz=torch.from_numpy(found.nnz),
        labels={},
    )


def _gene_column(given: Given, name: str) -> list[str]:
    return [str(gene) for gene in given.column("var", name)]


def load_pbmc3k(*, memory: bool = True) -> Cells:
    """2,700 blood cells x 13,714 genes, raw counts, labels `cell_type` and `cell_type_scanpy`.

    62 cells are "unassigned" in both: unknown. The names are those of Seurat's and of scanpy's
    tutorial.

    Raises:
        DataError: where the file is nowhere to be found, or is not the one we know.
    """
    file = in_folder(PBMC3K)
    if file is None:
        raise DataError(
            f"the PBMC3k cells are not on this machine: {looked(PBMC3K)}; set SED_DATA to the "
            f"folder with {PBMC3K}"
        )
    known = io.BytesIO(read_known(file, _PBMC3K_SHA256))
    return setup_anndata(
        known if memory else file,
        label=("cell_type", "cell_type_scanpy"),
        unknown=("unassigned",),
        memory=memory,
    )
