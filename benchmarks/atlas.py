"""A synthetic atlas: an h5ad of raw counts of any size, written block by block.

    python -m benchmarks.atlas atlas.h5ad [--cells 200000] [--genes 20000] [--share 0.03]

Counts are Poisson. Of real tissue they have three things: few genes are everywhere and most are
rare, cells differ in depth, and types differ in genes. No block of cells depends on another, so the
first thousand cells are the same in an atlas of any size.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.sparse
import torch
import typer
from torch import Tensor

from sed_core.chance import seeded
from sed_core.domains.cell_layout import CHUNK, categorical, dataset, frame, mark, sparse, write

CELLS, GENES, SHARE = 200_000, 20_000, 0.03
LABEL, TYPES = "cell_type", 8
BLOCK = 250  # cells made at once
SPREAD, DEPTHS, APART = 2.0, 0.4, 1.0  # sd of log rates, log depths, and log folds of a type
OWN = 0.2  # share of the genes in which a type is apart

_h5: Any = h5py


class Law(NamedTuple):
    """Mean count of each gene in each type, at depth 1."""

    rate: Tensor
    seed: int


def law(genes: int, share: float, seed: int) -> Law:
    """Rates at which a cell of depth 1 expresses this share of the genes.

    Raises:
        ValueError: for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share of the genes must be between 0 and 1, got {share}")
    chance = seeded(seed)
    shape = (SPREAD * torch.randn(genes, generator=chance)).exp()
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        found = -torch.expm1(-math.exp(middle) * shape).mean().item()
        low, high = (middle, high) if found < share else (low, middle)
    fold = (APART * torch.randn(TYPES, genes, generator=chance)).exp()
    own = torch.rand(TYPES, genes, generator=chance) < OWN
    return Law(math.exp(high) * shape * torch.where(own, fold, 1.0), seed)


def block(law: Law, first: int, n: int) -> tuple[Any, Tensor]:
    """Cells first to first + n - 1 as CSR counts, and their types."""
    chance = seeded(law.seed * 1_000_003 + first + 1)
    kind = torch.randint(TYPES, (n,), generator=chance)
    depth = (DEPTHS * torch.randn(n, 1, generator=chance)).exp()
    mean = law.rate[kind] * depth
    arrival = torch.rand(mean.shape, generator=chance)  # exp(- time of the first molecule)
    row, gene = (arrival > torch.exp(-mean)).nonzero(as_tuple=True)
    left = (mean[row, gene] + arrival[row, gene].log()).clamp_min(0.0)
    count = 1 + torch.poisson(left, generator=chance)
    place = (row.numpy(), gene.numpy().astype(np.int32))
    return scipy.sparse.csr_matrix((count.numpy(), place), mean.shape), kind


def blocks(law: Law, cells: int) -> Iterator[tuple[Any, Tensor]]:
    """All cells in order; memory does not depend on how many."""
    for first in range(0, cells, BLOCK):
        yield block(law, first, min(BLOCK, cells - first))


def write_atlas(
    path: Path,
    *,
    cells: int = CELLS,
    genes: int = GENES,
    share: float = SHARE,
    seed: int = 0,
    show: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the h5ad, in constant memory; returns how many counts it stores.

    A file that is killed half-way never has the name asked for.
    """
    beside, pointers, kinds = path.with_name(f".{path.name}.part"), [0], list[Tensor]()
    with _h5.File(beside, "w") as file:
        mark(file, "anndata", "0.1.0")
        for name in ("uns", "obsm", "varm", "obsp", "varp", "layers"):
            write(file, name, {})
        names = pd.Index([f"SYN{k + 1:06d}" for k in range(genes)], dtype=object)
        write(file, "var", pd.DataFrame(index=names))
        x = sparse(file, "X", (cells, genes))
        data, indices = _growing(x, "data", np.float32), _growing(x, "indices", np.int32)
        for part, kind in blocks(law(genes, share, seed), cells):
            start, end = pointers[-1], pointers[-1] + part.nnz
            for stored, new in ((data, part.data), (indices, part.indices)):
                stored.resize((end,))
                stored[start:end] = new
            pointers += (start + part.indptr[1:].astype(np.int64)).tolist()
            kinds.append(kind)
            show(f"synthetic atlas: {len(pointers) - 1:,} of {cells:,} cells")
        dataset(x, "indptr", cells + 1, np.int64)[:] = np.array(pointers, np.int64)
        mark(x["indptr"], "array")
        _obs(file.create_group("obs"), torch.cat(kinds).numpy())
    beside.replace(path)
    return pointers[-1]


def _growing(group: Any, name: str, kind: Any) -> Any:
    """A compressed data set of one axis that is made longer block by block."""
    made = group.create_dataset(
        name, (0,), kind, maxshape=(None,), chunks=(CHUNK,), compression="gzip",
        compression_opts=1, shuffle=True,
    )  # fmt: skip
    return mark(made, "array")


def _obs(group: Any, kinds: Any) -> None:
    codes = dataset(
        categorical(group, LABEL, [f"type {k + 1}" for k in range(TYPES)]),
        "codes",
        len(kinds),
        np.int8,
    )
    codes[:] = kinds
    mark(codes, "array")
    names = dataset(group, "_index", len(kinds), _h5.string_dtype())
    for first in range(0, len(kinds), CHUNK):
        last = min(first + CHUNK, len(kinds))
        names[first:last] = [f"cell-{k + 1:07d}" for k in range(first, last)]
    mark(names, "string-array")
    frame(group, [LABEL])


def main(
    path: Annotated[Path, typer.Argument(help="The h5ad to write.")],
    cells: Annotated[int, typer.Option(help="How many cells.")] = CELLS,
    genes: Annotated[int, typer.Option(help="How many genes.")] = GENES,
    share: Annotated[float, typer.Option(help="Of the genes that a cell expresses.")] = SHARE,
    seed: Annotated[int, typer.Option(help="Where chance starts.")] = 0,
) -> None:
    """Write a synthetic atlas."""
    stored = write_atlas(path, cells=cells, genes=genes, share=share, seed=seed)
    told = f"{cells:,} cells x {genes:,} genes, {stored / (cells * genes):.2%} non-zeros"
    print(f"{path}: {told}, {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
