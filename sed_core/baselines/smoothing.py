"""Peers of imputation that look at similar cells, or at the few directions in which cells differ.

Smoothing   counts diffuse over a graph of neighbours among the training cells, in the spirit of
            MAGIC (van Dijk et al. 2018): Gaussian kernel with the width of each cell's own
            neighbourhood, made symmetric, walked several times
LowRank     iterative SVD (Mazumder et al. 2010): hidden entries are filled from the leading
            directions of all cells, which are then found again

Both work on counts per 10,000 (as they are, their roots or logarithms), and what they find is
brought back to the scale of the cell. `imputers.choose` tries the options at the end of this file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, cast, get_args

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float64
from torch import Tensor

from sed_core.baselines.imputers import Known
from sed_core.limits import one_of

_sparse: Any = scipy.sparse  # whose own annotations say little

Values = Literal["log", "root", "linear"]
_Way = Callable[[Tensor], Tensor]
_WAYS: Mapping[str, tuple[_Way, _Way]] = {
    "log": (torch.log1p, torch.expm1),
    "root": (torch.sqrt, torch.square),
    "linear": (torch.clone, torch.clone),
}


# -- neighbours ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Smoothing:
    """Weighted means of training cells that a few random steps from a cell lead to."""

    neighbours: int = 30
    rounds: int = 3
    values: Values = "log"

    def __post_init__(self) -> None:
        one_of("values", self.values, get_args(Values))
        if self.neighbours < 1 or self.rounds < 1:
            raise ValueError(f"neighbours and rounds are at least 1, got {self}")

    def fill(self, known: Known) -> Float64[Tensor, "B D"]:
        """The smoothed counts of hidden entries, and the observed ones as they are."""
        to, back = _WAYS[self.values]
        found, width = known.space, min(self.neighbours, len(known.train))
        among = kernel(found.train, found.train, width)
        walk = even(among + among.T)
        weight = even(kernel(found.given, found.train, width))
        for _ in range(self.rounds - 1):
            weight = weight @ walk
        mixed = weight @ to(known.normalised[0]).numpy()
        return known.counts(back(torch.from_numpy(np.asarray(mixed)).clamp_min(0)))


def kernel(a: Float64[Tensor, "n K"], b: Float64[Tensor, "m K"], neighbours: int) -> Any:
    """exp(-(d / w)^2) to each row's neighbours, w the distance of a near one of them, as CSR."""
    distance, column = torch.cdist(a, b).topk(neighbours, largest=False)
    width = distance[:, min(neighbours // 3, neighbours - 1)].unsqueeze(1).clamp_min(1e-9)
    weight = (-(distance / width).square()).exp()
    start = np.arange(0, weight.numel() + 1, neighbours)
    parts = (weight.flatten().numpy(), column.flatten().numpy(), start)
    return _sparse.csr_matrix(parts, shape=(len(a), len(b)))


def even(weight: Any) -> Any:
    """The same weights, those of each row summing to 1."""
    total = np.asarray(weight.sum(1)).ravel()
    return _sparse.diags(1 / np.maximum(total, 1e-300)) @ weight


# -- directions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LowRank:
    """Hidden entries from `rank` directions, found again `rounds` times."""

    rank: int = 30
    rounds: int = 3
    values: Values = "log"

    def __post_init__(self) -> None:
        one_of("values", self.values, get_args(Values))
        if self.rank < 1 or self.rounds < 1:
            raise ValueError(f"rank and rounds are at least 1, got {self}")

    def fill(self, known: Known) -> Float64[Tensor, "B D"]:
        """The low-rank counts of hidden entries, and the observed ones as they are."""
        to, back = _WAYS[self.values]
        train, given = (to(part) for part in known.normalised)
        mean, n = train.mean(0), len(train)
        both = torch.cat([train - mean, torch.where(known.observed, given - mean, 0.0)])
        axes, low = known.space.axes[:, : self.rank], torch.zeros_like(given)
        for _ in range(self.rounds):
            axes = orthogonal(both.T @ (both @ axes))
            low = (both[n:] @ axes) @ axes.T
            both[n:] = torch.where(known.observed, both[n:], low)
        return known.counts(back((low + mean).clamp_min(0)))


def orthogonal(x: Float64[Tensor, "D K"]) -> Float64[Tensor, "D K"]:
    """Orthonormal columns that span the same directions."""
    return cast("tuple[Tensor, Tensor]", torch.linalg.qr(x))[0]


# -- options ---------------------------------------------------------------------------------------

SMOOTHINGS = tuple(Smoothing(*one) for one in product((10, 30), (1, 2, 3), ("log", "linear")))
LOW_RANKS = tuple(LowRank(*one) for one in product((10, 20, 30), (3, 10), ("log", "root")))
