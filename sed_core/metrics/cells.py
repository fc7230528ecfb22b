"""What generated cells keep of real ones (`sed.md` 6.2): gene means, zeros, spread, pairs, types.

Gene means and correlations are of log-normalised values, log(1 + 10,000 x / library), of all genes;
zeros, variances and libraries are of counts; fold changes are of counts per 10,000. Each figure has
a floor to be read against, that of training cells: `sed_core.metrics.cell_report` tells both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from sed_core.metrics.cell_space import Cells, moments, same_genes
from sed_core.metrics.distance import w1

_stats: Any = scipy.stats  # whose own annotations say little
VARIABLE = 200  # genes whose correlations are compared
LEAST = 10  # cells that a type needs in both sets for its fold changes
DETECTED = 0.1  # share of a type's cells that must show a gene for its fold change to count

# gene means ---------------------------------------------------------------------------------------


def gene_means(some: Cells) -> Float64[Tensor, " D"]:
    """Mean log-normalised value of each gene."""
    return torch.from_numpy(np.asarray(some.expression.mean(0), dtype=np.float64).ravel())


def scc(made: Cells, real: Cells) -> float:
    """Spearman correlation of the gene means of two sets; NaN where the real ones are all alike."""
    same_genes(made, real)
    return _correlation(_ranks(gene_means(made)), _ranks(gene_means(real)))


def pcc(made: Cells, real: Cells) -> float:
    """Pearson correlation of the gene means of two sets; NaN where the real ones are all alike."""
    same_genes(made, real)
    return _correlation(gene_means(made), gene_means(real))


def _ranks(x: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(_stats.rankdata(x.numpy()), dtype=np.float64))


def _correlation(guess: Tensor, truth: Tensor) -> float:
    """Pearson; a constant guess correlates 0 with the truth, a constant truth has none (NaN)."""
    if len(truth) < 2 or bool((truth == truth[0]).all()):
        return float("nan")
    if bool((guess == guess[0]).all()):
        return 0.0
    r = _covariance(guess, truth) / (_covariance(guess, guess) * _covariance(truth, truth)) ** 0.5
    return max(-1.0, min(1.0, r))


def _covariance(a: Tensor, b: Tensor) -> float:
    return torch.dot(a - a.mean(), b - b.mean()).item() / len(a)


# zeros, spread, libraries -------------------------------------------------------------------------


def zero_share_of_genes(some: Cells) -> Float64[Tensor, " D"]:
    """Share of the cells in which each gene is exactly zero."""
    return 1 - torch.from_numpy(np.asarray(some.counts.getnnz(axis=0))).double() / len(some)


def zero_share_of_cells(some: Cells) -> Float64[Tensor, " n"]:
    """Share of the genes that are exactly zero in each cell."""
    return 1 - torch.from_numpy(np.asarray(some.counts.getnnz(axis=1))).double() / some.genes


def zero_difference(made: Cells, real: Cells) -> float:
    """Share of zeros of the made cells less that of the real ones, in percentage points."""
    same_genes(made, real)
    shares = (zero_share_of_cells(some).mean() for some in (made, real))
    return 100 * (next(shares) - next(shares)).item()


def zero_error_of_genes(made: Cells, real: Cells) -> float:
    """Mean absolute difference of the share of zeros of each gene, in percentage points."""
    same_genes(made, real)
    difference = zero_share_of_genes(made) - zero_share_of_genes(real)
    return 100 * difference.abs().mean().item()


def zero_w1_of_cells(made: Cells, real: Cells) -> float:
    """W1 distance between the shares of zeros of cells, in percentage points."""
    same_genes(made, real)
    return 100 * w1(zero_share_of_cells(made), zero_share_of_cells(real))


def library_w1(made: Cells, real: Cells) -> float:
    """W1 distance between library sizes, in counts."""
    return w1(made.library, real.library)


def mean_variance_curve(
    some: Cells, edges: Float64[Tensor, " E"]
) -> tuple[Float64[Tensor, " E1"], Int64[Tensor, " E1"]]:
    """Median variance of the counts of genes by their mean, and how many genes each bin has.

    Args:
        edges: ascending means; genes of mean edges[k] <= mean < edges[k + 1] are in bin k, and the
            median of an empty bin is NaN.
    """
    mean, variance = moments(some.counts)
    place = torch.bucketize(mean, edges, right=True) - 1
    inside = [variance[place == k] for k in range(len(edges) - 1)]
    middle = [v.quantile(0.5).item() if len(v) else float("nan") for v in inside]
    return torch.tensor(middle, dtype=torch.float64), torch.tensor([len(v) for v in inside])


def mean_variance_error(made: Cells, real: Cells, *, bins: int = 20, least: int = 5) -> float:
    """Mean |log10 of the ratio| of two mean-variance curves, over bins that both have genes in.

    The bins are even in the log of the real means; one counts that has `least` genes in both sets.
    """
    same_genes(made, real)
    mean, _ = moments(real.counts)
    some = mean[mean > 0]
    if not len(some):
        raise ValueError("no gene of the real cells has a count, so there is no curve to compare")
    low, high = some.min().log10().item(), some.max().log10().item()
    edges = torch.logspace(low, high + 1e-9, bins + 1, dtype=torch.float64)
    (a, n), (b, m) = (mean_variance_curve(x, edges) for x in (made, real))
    both = (n >= least) & (m >= least) & (a > 0) & (b > 0)
    return (a[both] / b[both]).log10().abs().mean().item()


# pairs of genes -----------------------------------------------------------------------------------


def variable_genes(reference: Cells, count: int = VARIABLE) -> Int64[Tensor, " G"]:
    """Genes whose log-normalised values vary most, most first; of equal ones the first."""
    variance = moments(reference.expression)[1]
    return _largest(variance, count)


def _largest(x: Tensor, count: int) -> Int64[Tensor, " K"]:
    """Where the largest numbers are, largest first; of equal ones the first."""
    return x.sort(dim=0, descending=True, stable=True).indices[:count]


def correlations(some: Cells, genes: Int64[Tensor, " G"]) -> Float64[Tensor, "G G"]:
    """Pearson correlations of genes over cells; one that never varies correlates with none."""
    return _correlations(_values(some, genes))


def _values(some: Cells, genes: Tensor) -> Float64[Tensor, "n G"]:
    """Log-normalised values of a few genes, dense."""
    return torch.from_numpy(some.expression[:, genes.numpy()].toarray())


def _correlations(x: Float64[Tensor, "n G"]) -> Float64[Tensor, "G G"]:
    if len(x) < 2:
        raise ValueError(f"a correlation needs two cells or more, got {len(x)}")
    varies = (x != x[:1]).any(0)  # the centre of a constant column is rounded
    centred = (x - x.mean(0)) * varies
    length = centred.square().sum(0).sqrt()
    scaled = centred / torch.where(varies, length, 1.0)
    return (scaled.T @ scaled).clamp(-1, 1)


def correlation_error(made: Cells, real: Cells, genes: Int64[Tensor, " G"]) -> float:
    """Root mean square difference of the correlations of all pairs of the given genes.

    Few cells of either set raise it by their noise, about (1 / n + 1 / m) ^ (1/2).
    """
    same_genes(made, real)
    return _gaps(_values(made, genes), _values(real, genes)).square().mean().sqrt().item()


def correlation_excess(
    made: Cells,
    real: Cells,
    genes: Int64[Tensor, " G"],
    *,
    halvings: int = 1,
    generator: torch.Generator,
) -> float:
    """What `correlation_error` is beyond noise: 0 in the mean for two sets of one law.

    The differences of one half of both sets times those of the other half, whose noise is another;
    the root of their mean over pairs and halvings, with its sign. The generator halves the sets.
    """
    same_genes(made, real)
    if halvings < 1:
        raise ValueError(f"sets are halved once at least, got {halvings}")
    a, b = (_values(some, genes) for some in (made, real))
    products: list[float] = []
    for _ in range(halvings):
        rows, others = (torch.randperm(len(x), generator=generator) for x in (a, b))
        one, other = (_gaps(a[rows[k::2]], b[others[k::2]]) for k in (0, 1))
        products.append((one * other).mean().item())
    mean = sum(products) / halvings
    return math.copysign(abs(mean) ** 0.5, mean)


def correlation_noise(
    real: Cells, genes: Int64[Tensor, " G"], *, made: int, generator: torch.Generator
) -> float:
    """What `correlation_error` would be of so many new cells of the real law, against all of these.

    From two halves of the real cells, whose squared error grows as 1 / n + 1 / m; the generator
    halves them.
    """
    order = torch.randperm(len(real), generator=generator)
    one, other = real[order[0::2]], real[order[1::2]]
    share = (1 / made + 1 / len(real)) / (1 / len(one) + 1 / len(other))
    return correlation_error(one, other, genes) * share**0.5


def _gaps(made: Float64[Tensor, "n G"], real: Float64[Tensor, "m G"]) -> Float64[Tensor, " P"]:
    """Differences of the correlations of all pairs of columns."""
    dim = made.shape[1]
    if dim < 2:
        raise ValueError(f"correlations need two genes, got {dim}")
    row, column = torch.triu_indices(dim, dim, 1).unbind(0)
    return (_correlations(made) - _correlations(real))[row, column]


# differential expression --------------------------------------------------------------------------


@dataclass(frozen=True)
class Recovery:
    """How the fold changes between two types, made, follow the real ones.

    Attributes:
        first, second: the types.
        spearman: correlation of the ranks of the fold changes.
        slope: of made against real ones; 1 keeps their size. The real ones of two halves of the
            cells stand in for each other, cov(made, real) / cov(half, other half), so that the
            noise of few real cells does not lower it as it lowers least squares.
        least_squares: the plain slope, which noise of the real fold changes lowers.
        overlap: share of the genes of the largest absolute fold changes that both sets have.
        genes: how many are compared; at least a tenth of the real cells of a type show each.
        made, real: cells of the first and of the second type.
    """

    first: str
    second: str
    spearman: float
    slope: float
    least_squares: float
    overlap: float
    genes: int
    made: tuple[int, int]
    real: tuple[int, int]


def fold_changes(some: Cells, first: str, second: str) -> Float64[Tensor, " D"]:
    """log2 of the ratio of mean counts per 10,000, both plus 1, of one type over another."""
    one, other = (_type_mean(some, name) for name in (first, second))
    return ((one + 1) / (other + 1)).log2()


def _type_mean(some: Cells, name: str) -> Float64[Tensor, " D"]:
    rows = some.of(name)
    if not len(rows):
        raise ValueError(f"no cell is of the type {name!r}; there are {sorted(set(_named(some)))}")
    mean = some.normalised[rows.numpy()].mean(0)
    return torch.from_numpy(np.asarray(mean, dtype=np.float64).ravel())


def _named(some: Cells) -> tuple[str, ...]:
    if some.label is None:
        raise ValueError("fold changes need the type of each cell; give cells(..., label=...)")
    return some.label


def recovery(
    made: Cells,
    real: Cells,
    *,
    least: int = LEAST,
    top: int = 50,
    leave_out: Sequence[str] = (),
    generator: torch.Generator,
) -> tuple[Recovery, ...]:
    """Each pair of types that both sets have at least so many cells of; see `Recovery`.

    The generator halves the real cells of each type, for the slope.
    """
    same_genes(made, real)
    if least < 2 or top < 1:
        raise ValueError(f"least must be at least 2 and top at least 1, got {least} and {top}")
    names = [
        name
        for name in sorted(set(_named(real)) & set(_named(made)) - set(leave_out))
        if min(len(made.of(name)), len(real.of(name))) >= least
    ]
    rows = [real.of(name) for name in names]
    orders = [own[torch.randperm(len(own), generator=generator)] for own in rows]
    halves = [real[torch.cat([own[k::2] for own in orders])] for k in (0, 1) if names]
    return tuple(_recovered(made, real, halves, pair, top) for pair in combinations(names, 2))


def _recovered(
    made: Cells, real: Cells, halves: Sequence[Cells], pair: tuple[str, str], top: int
) -> Recovery:
    kept = _shown(real, pair[0]) | _shown(real, pair[1])
    sets = (made, real, *halves)
    guess, truth, one, other = (fold_changes(some, *pair)[kept] for some in sets)
    best, wanted = (set(_largest(x.abs(), top).numpy().tolist()) for x in (guess, truth))
    return Recovery(
        *pair,
        spearman=_correlation(_ranks(guess), _ranks(truth)),
        slope=_over(_covariance(guess, (one + other) / 2), _covariance(one, other)),
        least_squares=_over(_covariance(guess, truth), _covariance(truth, truth)),
        overlap=_over(len(best & wanted), len(wanted)),
        genes=len(truth),
        made=(len(made.of(pair[0])), len(made.of(pair[1]))),
        real=(len(real.of(pair[0])), len(real.of(pair[1]))),
    )


def _over(part: float, whole: float) -> float:
    """A ratio, NaN where there is nothing to compare with."""
    return part / whole if whole > 0 else float("nan")


def _shown(some: Cells, name: str) -> Bool[Tensor, " D"]:
    """Genes that enough cells of a type show."""
    rows = some.of(name)
    shown = torch.from_numpy(np.asarray(some.counts[rows.numpy()].getnnz(axis=0)))
    return shown >= DETECTED * len(rows)
