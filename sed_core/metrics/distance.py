"""How far two sets are apart, and how sure a mean is."""

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def w1(a: Shaped[Tensor, " n"], b: Shaped[Tensor, " m"]) -> float:
    """Area between two empirical distribution functions: the W1 distance on a line."""
    if not len(a) or not len(b):
        raise ValueError(f"W1 needs two sets of numbers, got {len(a)} and {len(b)}")
    gap, width = _gaps(a.double(), b.double())
    return (gap.abs() * width).sum().item()


def _gaps(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> tuple[Tensor, Tensor]:
    """Difference of two empirical distribution functions between neighbouring numbers, and widths.

    It is taken of whole numbers, so that sets of one law differ by 0 and not by a rounding.
    """
    a, b = a.sort().values, b.sort().values
    line = torch.cat([a, b]).sort().values
    below_a = torch.searchsorted(a, line[:-1], right=True)
    below_b = torch.searchsorted(b, line[:-1], right=True)
    gap = (below_a * len(b) - below_b * len(a)).double() / (len(a) * len(b))
    return gap, line.diff()


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


def energy_distance(a: Shaped[Tensor, "n ..."], b: Shaped[Tensor, "m ..."]) -> float:
    """Root of 2 E|X - Y| - E|X - X'| - E|Y - Y'|, of numbers or of rows, equal ones included.

    For numbers it is scipy.stats.energy_distance, and millions of them are sorted within seconds.
    """
    a, b = _two_sets(a, b, "energy distance")
    if a.shape[1] == 1:  # 2 int (F - G)^2, Szekely and Rizzo 2013
        gap, width = _gaps(a[:, 0], b[:, 0])
        return math.sqrt(2 * (gap.square() * width).sum().item())
    across, within_a, within_b = (_mean(_apart(x, y)) for x, y in ((a, b), (a, a), (b, b)))
    return math.sqrt(max(0.0, 2 * across - within_a - within_b))


def _apart(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    return (squares.sqrt_() for squares in _squares(a, b))


def mmd(a: Shaped[Tensor, "n ..."], b: Shaped[Tensor, "m ..."]) -> float:
    """Squared maximum mean discrepancy, biased, of five Gaussian kernels that are summed: 0 to 10.

    The kernels are exp(-D / b_i) of squared distances D, b_i = b_0 / 4 * 2^i, where b_0 is the mean
    D of all pairs of rows of both sets, so that the scale of the data does not matter. Distances of
    a row to itself count in the three means. Any projection of the data comes before.
    Source: scDiffusion's notebooks, as in `sed.md` 6.2.
    """
    a, b = _two_sets(a, b, "MMD")
    count = len(a) + len(b)
    # the sum of D over ordered pairs is 2 N sum |x|^2, because the rows of both have mean 0
    bandwidth = 2 * (a.square().sum() + b.square().sum()).item() / max(1, count - 1)
    if bandwidth == 0:  # all rows are one and the same
        return 0.0
    return _discrepancy(lambda x, y: _kernels(x, y, 1 / (4 * bandwidth)), a, b)


def gaussian_mmd(
    a: Shaped[Tensor, "n ..."], b: Shaped[Tensor, "m ..."], *, gamma: float, kernels: int = 1
) -> float:
    """Squared maximum mean discrepancy, biased, with the mean of exp(-gamma 2^i D) over i: 0 to 2.

    D is the squared distance of two rows, i = 0 .. kernels - 1; gamma is the widest kernel's.
    """
    if not gamma > 0 or kernels < 1:
        raise ValueError(
            f"MMD needs gamma above 0 and at least one kernel, got {gamma} and {kernels}"
        )
    a, b = _two_sets(a, b, "MMD")
    return _discrepancy(lambda x, y: _kernels(x, y, gamma, kernels), a, b) / kernels


def _discrepancy(
    kernel: Callable[[Tensor, Tensor], Iterator[Tensor]], a: Tensor, b: Tensor
) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y), equal rows included; below 0 is rounding."""
    across, within_a, within_b = (_mean(kernel(x, y)) for x, y in ((a, b), (a, a), (b, b)))
    return max(0.0, within_a + within_b - 2 * across)


def _kernels(a: Tensor, b: Tensor, gamma: float, kernels: int = 5) -> Iterator[Tensor]:
    """The sum of the kernels, block by block, widest first: each is the square of the last."""
    for squares in _squares(a, b):
        kernel = squares.mul_(-gamma).exp_()
        total = kernel.clone()
        for _ in range(kernels - 1):
            total += kernel.square_()
        yield total


def sliced_w2(
    a: Shaped[Tensor, "n ..."],
    b: Shaped[Tensor, "m ..."],
    *,
    projections: int = 128,
    generator: torch.Generator,
) -> float:
    """Root of the mean square W2 distance of both sets seen along random directions.

    The same generator looks along the same directions; the sets may have different sizes.
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    a, b = _two_sets(a, b, "sliced W2")
    shape = (projections, a.shape[1])
    directions = torch.randn(shape, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1).to(a.device)
    parts = torch.split(directions, max(1, _BLOCK // (len(a) + len(b))))
    total = sum(_squared_w2(a @ part.T, b @ part.T).sum().item() for part in parts)
    return math.sqrt(total / projections)


def _squared_w2(a: Float[Tensor, "n P"], b: Float[Tensor, "m P"]) -> Float[Tensor, " P"]:
    """Squared W2 of each pair of columns: the area between their quantile functions, squared.

    These are steps at multiples of 1 / n and 1 / m; counted in units of 1 / (n m) they are whole.
    """
    n, m = len(a), len(b)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).sort().values
    width = (ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)).to(a.device)
    a, b = a.sort(0).values, b.sort(0).values
    row_a, row_b = ((ends - 1) // m).to(a.device), ((ends - 1) // n).to(a.device)
    return width @ (a[row_a] - b[row_b]).square()


_BLOCK = 2**22  # numbers in a block: 32 MB in float64, and a few blocks at any one time


def _squares(a: Float[Tensor, "n D"], b: Float[Tensor, "m D"]) -> Iterator[Float[Tensor, "k m"]]:
    """Squared distances of each row of a to each row of b, a block of rows at a time.

    |x|^2 + |y|^2 - 2 x y of two rows that are one and the same is 0 but for rounding; what is
    smaller than that counts as 0, because a root would make 1e-8 of 1e-16.
    """
    norms = b.square().sum(1)
    for part in torch.split(a, max(1, _BLOCK // len(b))):
        both = part.square().sum(1, keepdim=True) + norms
        squares = torch.addmm(both, part, b.T, alpha=-2)
        yield squares.masked_fill_(squares < 1e-13 * both, 0)


def _mean(blocks: Iterator[Tensor]) -> float:
    """Mean of all entries of all blocks."""
    total, count = 0.0, 0
    for block in blocks:
        total, count = total + block.sum().item(), count + block.numel()
    return total / count


def _two_sets(a: Tensor, b: Tensor, what: str) -> tuple[Float[Tensor, "n D"], Float[Tensor, "m D"]]:
    """Both sets as float64 rows, moved so that their common mean is 0: small numbers round less."""
    if not (a.ndim == b.ndim and a.ndim in (1, 2) and a.shape[1:] == b.shape[1:]):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"{what} needs two sets of numbers or of rows of one width, got {shapes}")
    if not len(a) or not len(b):
        raise ValueError(f"{what} needs at least one row in each set, got {len(a)} and {len(b)}")
    for name, x in (("first", a), ("second", b)):
        if not x.isfinite().all():
            row = int((~x.isfinite().reshape(len(x), -1).all(1)).nonzero()[0])
            raise ValueError(f"{what}: row {row} of the {name} set has a NaN or infinite value")
    a, b = a.reshape(len(a), -1).double(), b.reshape(len(b), -1).double()
    middle = (a.sum(0) + b.sum(0)) / (len(a) + len(b))
    return a - middle, b - middle


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
