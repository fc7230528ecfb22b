"""Whether made cells lie among real ones: MMD, LISI, a random forest, and copies of training cells.

Definitions are those of `sed.md` 6.2, after scDiffusion's notebooks, but for two choices of ours.
Principal axes are fitted on real cells, not on made and real ones together, so that every model is
seen in one space. LISI walks along distances; scib walks along the connectivities of its graph, by
which near neighbours are far.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float64, Int64
from scipy.sparse import csgraph
from torch import Tensor

from sed_core.metrics.cell_space import Axes, Cells, same_genes
from sed_core.metrics.distance import mmd, nearest

_sparse: Any = scipy.sparse  # whose own annotations say little
_graphs: Any = csgraph
BLOCK = 2**22  # numbers in a dense block: 32 MB
AXES = 20  # principal axes in which LISI looks for neighbours
GRAPH = 10  # neighbours of a cell in its graph
WALK = 90  # cells that LISI looks at, by the length of the way to them; its perplexity is a third


def cell_mmd(made: Cells, real: Cells, axes: Axes) -> float:
    """Squared MMD of five summed kernels on the principal axes: 0 to 10, diagonals included."""
    same_genes(made, real)
    return mmd(axes.project(made), axes.project(real))


# LISI ---------------------------------------------------------------------------------------------


def lisi(made: Cells, real: Cells, axes: Axes) -> float:
    """How well made and real cells mix, the median over cells: 0 apart, 1 as equal parts do.

    The local inverse Simpson index of the two sets (Korsunsky et al. 2019), minus 1, along a graph
    of 10 neighbours on 20 principal axes, at perplexity 30.
    """
    same_genes(made, real)
    points = torch.cat([axes.project(some, most=AXES) for some in (made, real)])
    own = torch.arange(len(points)) < len(made)
    return local_inverse_simpson(points, own.long()).median().item() - 1


def local_inverse_simpson(
    points: Float64[Tensor, "n K"],
    group: Int64[Tensor, " n"],
    *,
    graph: int = GRAPH,
    walk: int = WALK,
) -> Float64[Tensor, " n"]:
    """Effective number of groups around each point: 1 to the number of groups.

    Neighbours are the nearest along the edges of a graph; a point that reaches too few scores 1.
    """
    n = len(points)
    if n < 3 or len(group) != n:
        raise ValueError(f"LISI needs three points and a group for each, got {n} and {len(group)}")
    walk = min(walk, n - 1)
    edges = _graph(points, min(graph, n - 1))
    one_hot = torch.nn.functional.one_hot(group).double()
    scores = torch.ones(n, dtype=torch.float64)
    for rows in torch.split(torch.arange(n), max(1, BLOCK // n)):
        lengths = torch.from_numpy(_graphs.dijkstra(edges, directed=False, indices=rows.numpy()))
        lengths[torch.arange(len(rows)), rows] = math.inf  # a cell is no neighbour of its own
        length, index = lengths.sort(dim=1, stable=True)
        length, index = length[:, :walk], index[:, :walk]
        whole = length.isfinite().all(1)
        weight = perplexed(length[whole], max(1.0, walk // 3))
        share = torch.einsum("rk,rkg->rg", weight, one_hot[index[whole]])
        scores[rows[whole]] = 1 / share.square().sum(1)
    return scores


def _graph(points: Tensor, neighbours: int) -> Any:
    """Distances of each point to its nearest others; an edge may be walked both ways."""
    n, parts = len(points), list[tuple[Tensor, Tensor]]()
    for rows in torch.split(torch.arange(n), max(1, BLOCK // n)):
        away = torch.cdist(points[rows], points, compute_mode="donot_use_mm_for_euclid_dist")
        away[torch.arange(len(rows)), rows] = math.inf
        length, index = away.sort(dim=1, stable=True)
        parts.append((length[:, :neighbours], index[:, :neighbours]))
    length, index = (torch.cat(part) for part in zip(*parts, strict=True))
    start = torch.arange(n).repeat_interleave(neighbours).numpy()
    ends = (start, index.flatten().numpy())
    return _sparse.csr_matrix((length.flatten().numpy(), ends), shape=(n, n))


def perplexed(length: Float64[Tensor, "n k"], perplexity: float) -> Float64[Tensor, "n k"]:
    """Weights exp(-b length) of each row, normalised, with b such that their entropy is log of it.

    Where lengths are too alike for that, the weights are as even as they are.
    """
    length = length - length.amin(1, keepdim=True)
    scale = length.mean(1, keepdim=True)
    length = torch.where(scale > 0, length / scale, 0.0)
    low, high = torch.full_like(scale, -30.0), torch.full_like(scale, 30.0)  # log of b
    for _ in range(60):
        middle = (low + high) / 2
        weight = torch.softmax(-middle.exp() * length, 1)
        wide = -torch.xlogy(weight, weight).sum(1, keepdim=True) > math.log(perplexity)
        low, high = torch.where(wide, middle, low), torch.where(wide, high, middle)
    return torch.softmax(-((low + high) / 2).exp() * length, 1)


# a forest -----------------------------------------------------------------------------------------


def forest_auc(made: Cells, real: Cells, *, trees: int = 1000, generator: torch.Generator) -> float:
    """AUC with which a random forest tells made from real cells it has not seen: 0.5 is best.

    Depth 5, balanced classes, a quarter held out, on log-normalised values of all genes; needs
    scikit-learn, which comes with umap-learn.
    """
    same_genes(made, real)
    if min(len(made), len(real)) < 4:
        raise ValueError(f"a forest needs four cells a set, got {len(made)} and {len(real)}")
    seed, other = (int(k) for k in torch.randint(2**31 - 1, (2,), generator=generator))
    split, forests, scores = (
        import_module(f"sklearn.{name}")  # a second to import, so not before it is needed
        for name in ("model_selection", "ensemble", "metrics")
    )
    x = _sparse.vstack([made.expression, real.expression], format="csr").astype(np.float32)
    y = np.repeat([1, 0], [len(made), len(real)])
    halves = {"test_size": 0.25, "random_state": seed, "stratify": y}
    seen_x, held_x, seen_y, held_y = split.train_test_split(x, y, **halves)
    options = {"max_depth": 5, "class_weight": "balanced", "random_state": other}
    forest = forests.RandomForestClassifier(trees, **options).fit(seen_x.tocsc(), seen_y)
    return float(scores.roc_auc_score(held_y, forest.predict_proba(held_x)[:, 1]))


# memorisation -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memorisation:
    """Whether made cells are too near to the training cells, held-out cells telling what is near.

    Attributes:
        identical: share of made cells whose counts are those of a training cell.
        copies: share nearer to training than 99 % of the held-out cells are; 0.01 is expected.
        closer: chance that a made cell is nearer to training than a held-out one is; 0.5 is
            expected (Meehan et al. 2020). Cells that vary too little are near to all real ones:
            they raise copies and closer, but neither identical nor in_train.
        in_train: share of made cells whose nearest real cell is a training cell.
        expected: in_train of a sampler that knows no training cell from a held-out one.
    """

    identical: float
    copies: float
    closer: float
    in_train: float
    expected: float
    made: int
    train: int
    test: int


def memorisation(made: Cells, train: Cells, test: Cells, axes: Axes) -> Memorisation:
    """Nearest training cells of made ones, beside those of held-out ones, on the principal axes.

    The axes should be fitted on training and held-out cells alike, or on neither.
    """
    same_genes(made, train, test)
    m, seen, held = (axes.project(some) for some in (made, train, test))
    to_train, to_test, usual = nearest(m, seen), nearest(m, held), nearest(held, seen)
    below = torch.searchsorted(usual.sort().values, to_train)  # held-out cells that are nearer
    upto = torch.searchsorted(usual.sort().values, to_train, right=True)
    return Memorisation(
        identical=_identical(made, train),
        copies=(to_train < usual.quantile(0.01)).double().mean().item(),
        closer=1 - ((below + upto).double().mean() / (2 * len(test))).item(),
        in_train=_share(to_train < to_test) + _share(to_train == to_test) / 2,
        expected=len(train) / (len(train) + len(test)),
        made=len(made),
        train=len(train),
        test=len(test),
    )


def _share(yes: Tensor) -> float:
    return yes.double().mean().item()


def _identical(made: Cells, train: Cells) -> float:
    """Share of rows that are rows of the other set, entry by entry; empty ones do not count."""
    known = set(_keys(train))
    return sum(key in known and key != b"" for key in _keys(made)) / len(made)


def _keys(some: Cells) -> list[bytes]:
    """The pairs of each cell as bytes."""
    x = some.counts
    x.sort_indices()
    index = x.indices.astype(np.int64)
    return [index[a:b].tobytes() + x.data[a:b].tobytes() for a, b in pairwise(x.indptr)]
