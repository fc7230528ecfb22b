"""What the page Cells knows of real cells: statistics of a reference, and no matrix of counts.

Of every type and gene a histogram of counts, of every cell a type, a library size and coordinates
on principal axes; from these follow means, variances, zeros and correlations of any mix of types.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from sed_core.chance import seeded
from sed_core.metrics import cell_space
from sed_core.metrics.cell_space import Axes, Cells

AXES, VARIABLE = 30, 60  # principal axes; genes whose correlations are kept
UNKNOWN = "unknown"
Array = NDArray[Any]
_sparse: Any = scipy.sparse


@dataclass(frozen=True, eq=False)
class Marginals:
    """Histograms of the counts of every gene in every type: pairs (count, cells), zeros left out.

    Those of gene g and type t are `value[start[g * T + t] : start[g * T + t + 1]]`.
    """

    start: Array  # (D T + 1,)
    value: Array  # (K,) counts above zero
    cells: Array  # (K,) how many cells have that count


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of some real cells; the last of `types` is that of cells whose type is unknown.

    `pcs` are coordinates of the cells on `axes`, `held` those of cells that no model saw, `layout`
    a stored two-dimensional map of the cells where there is one. `first` and `second` are the
    moments of log-normalised values of the genes `variable` in each type.
    """

    name: str
    genes: tuple[str, ...]
    types: tuple[str, ...]
    kind: Array  # (n,) number of the type of each cell
    library: Array  # (n,) total over these genes
    axes: Axes
    pcs: Array  # (n, K)
    held: Array  # (m, K)
    layout: Array | None  # (n, 2)
    marginals: Marginals
    variable: Array  # (G,) places among the genes
    first: Array  # (T, G)
    second: Array  # (T, G, G)

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def sizes(self) -> Array:
        """Cells of each type, (T,)."""
        return np.bincount(self.kind, minlength=len(self.types))

    @cached_property
    def place(self) -> Mapping[str, int]:
        """Where each gene stands."""
        return {gene: k for k, gene in enumerate(self.genes)}

    @property
    def usual(self) -> Array:
        """The mix of types as it is, (T,)."""
        return self.sizes / len(self)

    def mix(self, names: Sequence[str]) -> Array:
        """The mix of types of some cells, (T,); as it is where none of them is known here."""
        number = {name: k for k, name in enumerate(self.types[:-1]) if self.sizes[k]}
        found = [number[name] for name in names if name in number]
        if not found:
            return self.usual
        return np.bincount(found, minlength=len(self.types)) / len(found)

    def histogram(self, gene: int, mix: Array) -> Array:
        """Share of the cells at 0, 1, ... counts of a gene."""
        types, parts = len(self.types), self.marginals
        begin = parts.start[gene * types : gene * types + types + 1]
        most = int(parts.value[begin[0] : begin[-1]].max(initial=0))
        shares = np.zeros(most + 1)
        for t in np.flatnonzero(mix):
            some = slice(begin[t], begin[t + 1])
            here = np.zeros(most + 1)
            here[parts.value[some]] = parts.cells[some]
            here[0] = self.sizes[t] - here.sum()
            shares += mix[t] * here / self.sizes[t]
        return shares

    @cached_property
    def _moments(self) -> tuple[Array, Array, Array]:
        """Mean, mean square and share of zeros of each gene in each type, (T, D) each."""
        parts, n = self.marginals, np.maximum(self.sizes, 1)[:, None]
        value, cells = parts.value.astype(np.float64), parts.cells.astype(np.float64)
        sums = [np.concatenate([[0.0], np.cumsum(x)])
                for x in (value * cells, value**2 * cells, cells)]  # fmt: skip
        mean, square, alive = (
            np.diff(total[parts.start]).reshape(len(self.genes), -1).T / n for total in sums
        )
        return mean, square, 1 - alive

    def moments(self, mix: Array) -> tuple[Array, Array, Array]:
        """Mean and variance of the counts of each gene, and its share of zeros, (D,) each."""
        mean, square, zeros = (mix @ part for part in self._moments)
        return mean, square - mean**2, zeros

    def correlations(self, mix: Array) -> Array:
        """Pearson correlations of the variable genes, (G, G); 0 where one never varies."""
        first = mix @ self.first
        return correlated(first, np.einsum("t,tgh->gh", mix, self.second))

    def weights(self, mix: Array) -> Array:
        """What each cell counts for, so that types are mixed so, (n,); they sum to 1."""
        return (mix / np.maximum(self.sizes, 1))[self.kind]

    # -- other cells in this space ---------------------------------------------------------------

    def project(self, counts: Any) -> Array:
        """Coordinates of cells, rows of a CSR matrix on these genes, on the axes: (n, K)."""
        return self.axes.project(cell_space.cells(counts)).float().numpy()

    def on_panel(self, counts: Any, genes: Sequence[str]) -> Any:
        """Counts of these genes out of counts of others, as CSR; a gene that is not there is 0."""
        if tuple(genes) == self.genes:
            return counts
        place = {gene: k for k, gene in enumerate(genes)}
        there = [k for k, gene in enumerate(self.genes) if gene in place]
        chosen = counts.tocsc()[:, [place[self.genes[k]] for k in there]].tocoo()
        columns = np.array(there, dtype=np.int64)[chosen.col]
        shape = (counts.shape[0], len(self.genes))
        return _sparse.csr_matrix((chosen.data, (chosen.row, columns)), shape=shape)


def correlated(first: Array, second: Array) -> Array:
    """Correlations out of first and second moments."""
    covariance = second - np.outer(first, first)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0))
    scale = np.divide(1, spread, where=spread > 1e-9, out=np.zeros_like(spread))
    return np.clip(covariance * np.outer(scale, scale), -1, 1)


def normalised(counts: Any, places: Array) -> Array:
    """log(1 + 10,000 x / library) of some genes, dense (n, G)."""
    return cell_space.cells(counts).expression[:, places].toarray()


# -- making one ------------------------------------------------------------------------------------


def reference(
    counts: Any,
    genes: Sequence[str],
    *,
    name: str,
    types: Sequence[str] = (),
    kind: Sequence[int] | None = None,
    held: Any = None,
    seed: int = 0,
) -> Reference:
    """The statistics of cells, rows of a CSR matrix; axes are fitted on them and on held-out ones.

    Args:
        name: which cells these are, for captions.
        types, kind: names of types, and the number of each cell's; len(types) is unknown.
        held: cells that no model saw, in the same genes.
    """
    some = cell_space.cells(counts)
    number = np.full(len(some), len(types)) if kind is None else np.asarray(kind)
    every = some if held is None else cell_space.stack(some, cell_space.cells(held))
    axes = _rounded(cell_space.principal_axes(every, axes=AXES, name=name, generator=seeded(seed)))
    variable = most_variable(some)
    values = some.expression[:, variable].toarray()
    moments = [_moments(values[number == t]) for t in range(len(types) + 1)]
    return Reference(
        name=name, genes=tuple(genes), types=(*types, UNKNOWN), kind=number.astype(np.uint8),
        library=some.library.long().numpy(), axes=axes, pcs=_half(axes.project(some)),
        held=_half(axes.project(cell_space.cells(held))) if held is not None
        else np.zeros((0, axes.directions.shape[1]), np.float32),
        layout=None, marginals=marginals(counts, number, len(types) + 1), variable=variable,
        first=np.stack([first for first, _ in moments]),
        second=np.stack([second for _, second in moments]),
    )  # fmt: skip


def most_variable(some: Cells) -> Array:
    """Places of the genes whose log-normalised values vary most, in the order of the genes."""
    variance = cell_space.moments(some.expression)[1]
    most = variance.sort(descending=True, stable=True).indices[:VARIABLE]
    return np.sort(most.numpy())


def marginals(counts: Any, kind: Array, types: int) -> Marginals:
    """Histograms of every gene in every type."""
    entries = counts.tocoo()
    dim, most = counts.shape[1], int(entries.data.max(initial=0)) + 1
    code = (entries.col.astype(np.int64) * types + kind[entries.row]) * most
    code += entries.data.astype(np.int64)
    found, cells = np.unique(code[entries.data > 0], return_counts=True)
    start = np.searchsorted(found, np.arange(dim * types + 1) * most)
    return Marginals(start, found % most, cells)


def _moments(values: Array) -> tuple[Array, Array]:
    n = max(1, len(values))
    return values.sum(0) / n, values.T @ values / n


def _rounded(axes: Axes) -> Axes:
    """As they are stored, so that coordinates made now and later are the same."""
    half = [part.half().double() for part in (axes.centre, axes.directions)]
    return Axes(half[0], half[1], axes.variance, axes.reference)


def _half(x: torch.Tensor) -> Array:
    return x.half().float().numpy()


# -- the file --------------------------------------------------------------------------------------


def pack(found: Reference) -> bytes:
    """A reference as safetensors in gzip: half precision and the smallest whole numbers."""
    triangle = np.triu_indices(len(found.variable))
    words = {"name": found.name, "genes": found.genes, "types": found.types}
    parts = {
        "words": np.frombuffer(json.dumps(words).encode(), np.uint8), "kind": found.kind,
        "library": found.library.astype(np.uint16 if found.library.max() < 2**16 else np.int32),
        "centre": found.axes.centre.half().numpy(),
        "directions": found.axes.directions.half().numpy(),
        "variance": found.axes.variance.float().numpy(),
        "pcs": found.pcs.astype(np.float16), "held": found.held.astype(np.float16),
        "start": found.marginals.start.astype(np.int32),
        "value": found.marginals.value.astype(np.uint16),
        "cells": found.marginals.cells.astype(np.uint16),
        "variable": found.variable.astype(np.int32), "first": found.first.astype(np.float32),
        "second": found.second[:, *triangle].astype(np.float32),
    }  # fmt: skip
    if found.layout is not None:
        parts["layout"] = found.layout.astype(np.float16)
    tight = {key: np.ascontiguousarray(part) for key, part in parts.items()}
    return gzip.compress(save(tight), 9, mtime=0)


def unpack(data: bytes) -> Reference:
    """What `pack` packed."""
    p = load(gzip.decompress(data))
    words = json.loads(bytes(p["words"]))
    centre, directions, variance = (
        torch.from_numpy(p[key].astype(np.float64)) for key in ("centre", "directions", "variance")
    )
    axes = Axes(centre, directions, variance, words["name"])
    g = len(p["variable"])
    second = np.zeros((len(p["second"]), g, g))
    upper = np.triu_indices(g)
    second[:, *upper] = p["second"]
    second[:, upper[1], upper[0]] = p["second"]
    return Reference(
        name=words["name"], genes=tuple(words["genes"]), types=tuple(words["types"]),
        kind=p["kind"], library=p["library"].astype(np.int64), axes=axes,
        pcs=p["pcs"].astype(np.float32), held=p["held"].astype(np.float32),
        layout=p["layout"].astype(np.float32) if "layout" in p else None,
        marginals=Marginals(*(p[key].astype(np.int64) for key in ("start", "value", "cells"))),
        variable=p["variable"].astype(np.int64), first=p["first"].astype(np.float64),
        second=second,
    )  # fmt: skip


def read(path: Path) -> Reference:
    """The reference in a file."""
    return unpack(path.read_bytes())
