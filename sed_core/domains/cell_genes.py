"""The most variable genes by analytic Pearson residuals (Lause, Berens, Kobak 2021).

A gene of cell i with library n_i and of total share p_j is expected at mu = n_i p_j, with variance
mu + mu^2 / theta. The residual (x - mu) / sqrt(variance), clipped to +-sqrt(cells), has variance
near 1 where a gene varies as counting does, and more where cells differ.
"""

import numpy as np
from numpy.typing import NDArray

from sed_core.domains.cell_rows import Floats, Ints, RowSource, chunks, row_numbers

THETA = 100.0
_BLOCK = 1 << 20  # residuals of zeros worked out at once


def residual_variance(source: RowSource, where: Ints, *, theta: float = THETA) -> Floats:
    """Variance over the cells `where` of each gene's Pearson residuals; 0 for a silent gene.

    No matrix is made dense. A zero's residual depends on n_i p_j alone, so zeros are summed over
    the distinct libraries and totals; one pass over the stored values then puts theirs right.
    """
    library, total = np.zeros(len(where)), np.zeros(source.shape[1])
    for place, part in chunks(source, where):
        values = part.data.astype(np.float64)
        library[place] = np.bincount(row_numbers(part), values, minlength=part.shape[0])
        total += np.bincount(part.indices, values, minlength=len(total))
    share, most = total / max(total.sum(), 1.0), np.sqrt(len(where))
    first, second = _of_zeros(library, total, theta, most)
    for place, part in chunks(source, where):
        mu = library[place][row_numbers(part)] * share[part.indices]
        zero, seen = (_residual(x, mu, theta, most) for x in (0.0, part.data.astype(np.float64)))
        first += np.bincount(part.indices, seen - zero, minlength=len(total))
        second += np.bincount(part.indices, seen**2 - zero**2, minlength=len(total))
    variance = second / len(where) - (first / len(where)) ** 2
    return np.where(total > 0, np.maximum(variance, 0.0), 0.0)


def _of_zeros(library: Floats, total: Floats, theta: float, most: float) -> tuple[Floats, Floats]:
    """Sum and sum of squares of each gene's residuals, were all of its counts zero."""
    sizes, times = np.unique(library, return_counts=True)
    totals, gene = np.unique(total, return_inverse=True)
    first, second = np.zeros(len(totals)), np.zeros(len(totals))
    step = max(1, _BLOCK // len(sizes))
    for start in range(0, len(totals), step):
        some = slice(start, start + step)
        mu = totals[some, None] / max(total.sum(), 1.0) * sizes
        found = _residual(0.0, mu, theta, most)
        first[some], second[some] = found @ times, found**2 @ times
    return first[gene], second[gene]


def _residual(x: Floats | float, mu: Floats, theta: float, most: float) -> Floats:
    spread = np.sqrt(mu + mu**2 / theta)
    found = np.divide(x - mu, spread, out=np.zeros_like(mu), where=spread > 0)
    return np.clip(found, -most, most)


def highest(score: Floats, n: int) -> NDArray[np.int64]:
    """The n highest scores' places, ascending; the earlier wins a tie."""
    return np.sort(np.argsort(-score, kind="stable")[:n]).astype(np.int64)
