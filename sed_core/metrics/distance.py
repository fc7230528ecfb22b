"""How far two sets are apart, and how sure a mean is."""

from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def w1(a: Shaped[Tensor, " n"], b: Shaped[Tensor, " m"]) -> float:
    """Area between two empirical distribution functions: the W1 distance on a line."""
    if not len(a) or not len(b):
        raise ValueError(f"W1 needs two sets of numbers, got {len(a)} and {len(b)}")
    a, b = a.double().sort().values, b.double().sort().values
    line = torch.cat([a, b]).sort().values
    below_a = torch.searchsorted(a, line[:-1], right=True) / len(a)
    below_b = torch.searchsorted(b, line[:-1], right=True) / len(b)
    return ((below_a.double() - below_b.double()).abs() * line.diff()).sum().item()


def frechet(a: Float[Tensor, "n F"], b: Float[Tensor, "m F"]) -> float:
    """Frechet distance between Gaussians fitted to two sets of features, in float64."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two rows or more, got {len(a)} and {len(b)}")
    mean_a, mean_b = a.double().mean(0), b.double().mean(0)
    return frechet_gaussian(mean_a, _covariance(a), mean_b, _covariance(b))


def frechet_gaussian(
    mean_a: Float[Tensor, " F"],
    cov_a: Float[Tensor, "F F"],
    mean_b: Float[Tensor, " F"],
    cov_b: Float[Tensor, "F F"],
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two Gaussians.

    The last trace is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is
    symmetric: no general matrix square root, and singular covariances do no harm.
    """
    root = _root(cov_a.double())
    roots = _eigen(root @ cov_b.double() @ root)[0].clamp(min=0).sqrt()
    spread = cov_a.double().trace() + cov_b.double().trace() - 2 * roots.sum()
    distance = (mean_a.double() - mean_b.double()).square().sum() + spread
    return distance.clamp(min=0).item()


def _root(matrix: Float[Tensor, "F F"]) -> Float[Tensor, "F F"]:
    """The symmetric square root of a covariance; eigenvalues below zero are rounding."""
    value, vector = _eigen(matrix)
    return (vector * value.clamp(min=0).sqrt()) @ vector.T


def _eigen(matrix: Float[Tensor, "F F"]) -> tuple[Float[Tensor, " F"], Float[Tensor, "F F"]]:
    """Eigenvalues and eigenvectors of a symmetric matrix."""
    return cast("tuple[Tensor, Tensor]", torch.linalg.eigh(matrix))


def _covariance(features: Float[Tensor, "n F"]) -> Float[Tensor, "F F"]:
    centred = features.double() - features.double().mean(0)
    return centred.T @ centred / (len(features) - 1)


def nearest(
    a: Float[Tensor, "n D"], b: Shaped[Tensor, "m D"], *, batch: int = 4096
) -> Float[Tensor, " n"]:
    """Euclidean distance from each row of a to its nearest row of b; b of any type of number."""
    best = torch.full((len(a),), torch.inf)
    for part in torch.split(b, batch):
        best = torch.minimum(best, torch.cdist(a, part.to(a)).amin(1))
    return best


def interval(
    values: Float[Tensor, " n"],
    *,
    draws: int = 1000,
    level: float = 0.95,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Bootstrap interval of a mean: where it falls when the same many values are drawn again."""
    if not len(values):
        raise ValueError("an interval needs at least one value, got none")
    values, count = values.double(), len(values)
    sizes = [min(100, draws - first) for first in range(0, draws, 100)]  # bounds the memory
    rows = (torch.randint(count, (size, count), generator=generator) for size in sizes)
    means = torch.cat([values[row].mean(1) for row in rows])
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]).double())
    return low.item(), high.item()
