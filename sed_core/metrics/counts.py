"""How close counts come to a set, and imputed counts to the truth (`countsdiff.md` 7.1, "Ours").

sets         W1 and variance of each dimension; MMD, sliced W2 and energy distance of whole rows
imputation   RMSE, MAE, bias, energy distance: over all target entries of all rows (micro)
             R2, Pearson, Spearman: over the targets of each row, then over rows (macro)
draws        CRPS, coverage of intervals, PIT and rank histograms

A row with fewer than two targets or with one and the same truth at all of them has no R2 and no
correlation (NaN); a prediction that is constant correlates 0 with the truth.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sed_core.metrics.distance import energy_distance, gaussian_mmd, sliced_w2, w1

# sets -------------------------------------------------------------------------------------------


def w1_each(a: Shaped[Tensor, "n D"], b: Shaped[Tensor, "m E"]) -> Float[Tensor, " D"]:
    """W1 distance of each dimension by itself, in counts."""
    _same_width(a, b)
    pairs = zip(a.unbind(1), b.unbind(1), strict=True)
    return torch.tensor([w1(x, y) for x, y in pairs], dtype=torch.float64)


def variance_table(sets: Mapping[str, Shaped[Tensor, "n D"]]) -> dict[str, list[float]]:
    """Variance of each dimension of each set, side by side."""
    for name, x in sets.items():
        if len(x) < 2:
            raise ValueError(f"a variance needs two rows or more, {name!r} has {len(x)}")
    return {name: x.double().var(0).tolist() for name, x in sets.items()}


def variance_error(
    samples: Shaped[Tensor, "n D"],
    mean: Float[Tensor, " D"],
    variance: Float[Tensor, " D"],
    *,
    above: float = 0.2,
) -> float:
    """Largest |variance of the samples / wanted - 1| of the dimensions whose mean is above."""
    kept = mean > above
    if len(samples) < 2 or not bool(kept.any()):
        raise ValueError(f"need two samples or more and a dimension of mean above {above:g}")
    return (samples.double().var(0) / variance - 1)[kept].abs().max().item()


def counts_mmd(a: Shaped[Tensor, "n D"], b: Shaped[Tensor, "m D"]) -> float:
    """Squared MMD of small counts as they are, with the kernel exp(-D)."""
    return gaussian_mmd(a, b, gamma=1.0)


def median_mmd(
    samples: Shaped[Tensor, "n D"], truth: Shaped[Tensor, "m D"], *, most: int = 4000
) -> float:
    """Squared MMD, the mean over five bandwidths h / 4, h / 2, h, 2 h, 4 h, kernel exp(-D / 2 h).

    h is the median squared distance between the two halves of the truth's first `most` rows.
    """
    if len(truth) < 2:
        raise ValueError(f"a bandwidth needs two rows of truth or more, got {len(truth)}")
    first, second = truth[:most].double().tensor_split(2)
    h = torch.cdist(first, second).square().median().item()
    if not h > 0:
        raise ValueError("half of the truth's rows are alike, so there is no scale to compare on")
    return gaussian_mmd(samples, truth, gamma=1 / (8 * h), kernels=5)


def distances(
    samples: Shaped[Tensor, "n D"],
    real: Shaped[Tensor, "m D"],
    *,
    projections: int = 500,
    generator: torch.Generator,
) -> dict[str, float]:
    """W1 (mean over dimensions), MMD, sliced W2 and energy distance of two sets of counts."""
    return {
        "w1": w1_each(samples, real).mean().item(),
        "mmd": counts_mmd(samples, real),
        "sliced_w2": sliced_w2(samples, real, projections=projections, generator=generator),
        "energy_distance": energy_distance(samples, real),
    }


# imputation, one number an entry ----------------------------------------------------------------


def rmse(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> float:
    """Root mean squared error of the target entries."""
    return _errors(imputed, truth, target).square().mean().sqrt().item()


def mae(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> float:
    """Mean absolute error of the target entries."""
    return _errors(imputed, truth, target).abs().mean().item()


def bias(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> float:
    """Mean of imputed - truth over the target entries."""
    return _errors(imputed, truth, target).mean().item()


def target_energy_distance(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> float:
    """Energy distance between the imputed numbers and the true ones, whatever entry they are of."""
    _check(imputed, truth, target)
    return energy_distance(imputed[target], truth[target])


def r2(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """1 - squared error / squared deviation of the truth from its mean, of each row's targets."""
    _check(imputed, truth, target)
    error = (imputed.double() - truth).masked_fill(~target, 0).square().sum(1)
    spread = _centred(truth.double(), target).square().sum(1)
    return (1 - error / spread).masked_fill(_constant(truth, target), math.nan)


def pearson(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """Correlation of each row's targets."""
    _check(imputed, truth, target)
    a, b = _centred(imputed.double(), target), _centred(truth.double(), target)
    norms = a.square().sum(1).sqrt() * b.square().sum(1).sqrt()
    found = ((a * b).sum(1) / norms).masked_fill(_constant(imputed, target), 0.0)
    return found.masked_fill(_constant(truth, target), math.nan)


def spearman(
    imputed: Shaped[Tensor, "B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """Correlation of the ranks of each row's targets; equal numbers share their mean rank."""
    _check(imputed, truth, target)
    return pearson(_ranks(imputed, target), truth=_ranks(truth, target), target=target)


def row_mean(scores: Float[Tensor, " B"]) -> float:
    """Mean over the rows that have a score; NaN where none has."""
    return scores.nanmean().item()


def _errors(imputed: Tensor, truth: Tensor, target: Tensor) -> Float[Tensor, " T"]:
    _check(imputed, truth, target)
    return imputed[target].double() - truth[target].double()


def _centred(x: Float[Tensor, "B D"], target: Bool[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Deviations from the mean of each row's targets, and 0 elsewhere."""
    x = x.masked_fill(~target, 0)
    return (x - x.sum(1, keepdim=True) / target.sum(1, keepdim=True).clamp_min(1)) * target


def _constant(x: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]) -> Bool[Tensor, " B"]:
    """Rows of at most one target, or of one and the same number at all of them."""
    x = x.double()
    high = x.masked_fill(~target, -math.inf).amax(1)
    return high <= x.masked_fill(~target, math.inf).amin(1)


def _ranks(x: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Rank of each target among its row's targets, from 1."""
    x = x.double().masked_fill(~target, math.inf).contiguous()
    line = x.sort(1).values
    below, up_to = (torch.searchsorted(line, x, right=right) for right in (False, True))
    return (below + up_to + 1).double() / 2


# imputation, many draws an entry ----------------------------------------------------------------


def crps(
    draws: Shaped[Tensor, "m B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> float:
    """E|X - y| - E|X - X'| / 2, the mean over target entries; it needs two draws or more.

    Pairs are of different draws, so that the score does not depend on their number (Ferro 2014).
    """
    _check_draws(draws, truth, target)
    x, m = draws[:, target].double().sort(0).values, len(draws)
    if m < 2:
        raise ValueError("CRPS needs two draws or more; of a single one it is the MAE")
    error = (x - truth[target].double()).abs().mean(0)
    place = 2 * torch.arange(m, dtype=torch.float64, device=x.device) - (m - 1)
    return (error - place @ x / (m * (m - 1))).mean().item()


def coverage(
    draws: Shaped[Tensor, "m B D"],
    *,
    truth: Shaped[Tensor, "B D"],
    target: Bool[Tensor, "B D"],
    level: float = 0.9,
) -> float:
    """Share of targets from the k-th smallest to the k-th largest draw, both included.

    k is the largest for which draws of the right law cover at least `level`: a continuous truth is
    then inside with probability 1 - 2 k / (m + 1), and counts, which tie, more often.
    """
    _check_draws(draws, truth, target)
    m = len(draws)
    k = math.floor((1 - level) / 2 * (m + 1) + 1e-9)
    if not 0 < level < 1 or k < 1:
        raise ValueError(f"intervals of level {level:g} need more draws than {m}")
    x, y = draws[:, target].sort(0).values, truth[target]
    return ((x[k - 1] <= y) & (y <= x[m - k])).double().mean().item()


def pit(
    draws: Shaped[Tensor, "m B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Where the law of the draws puts each truth: its part of [0, 1], from low to high.

    Under the right law a uniform point of that part is uniform in [0, 1]. For a known distribution
    function F the part is from F(y - 1) to F(y); here it is from the ranks of y among the draws.
    """
    _check_draws(draws, truth, target)
    x, y, m = draws[:, target], truth[target], len(draws)
    low, equal = (x < y).sum(0), (x == y).sum(0)
    return low.double() / (m + 1), (low + equal + 1).double() / (m + 1)


def pit_histogram(
    low: Float[Tensor, " T"], high: Float[Tensor, " S"], *, bins: int = 10
) -> Float[Tensor, " bins"]:
    """Share of the truths in each bin of [0, 1]; flat under the right law.

    A truth spreads evenly over its part, so that ties need no chance (Czado et al. 2009).
    """
    if bins < 1 or not len(low) or low.shape != high.shape:
        raise ValueError(
            f"need at least one bin and as many ends as starts, got {bins} bins, "
            f"{len(low)} starts and {len(high)} ends"
        )
    width = (high - low).clamp_min(1e-300)
    below = [((edge / bins - low) / width).clamp(0, 1).mean() for edge in range(bins + 1)]
    return torch.stack(below).diff()


def rank_histogram(
    draws: Shaped[Tensor, "m B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> Float[Tensor, " ranks"]:
    """Share of the truths at each rank 0..m among m draws; ties count in equal shares."""
    low, high = pit(draws, truth=truth, target=target)
    return pit_histogram(low, high, bins=len(draws) + 1)


def imputation_scores(
    draws: Shaped[Tensor, "m B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> dict[str, float]:
    """The scores of the mean of the draws and, where there are several, of their spread."""
    ends = {"truth": truth, "target": target}
    mean = draws.double().mean(0)
    micro = {"rmse": rmse, "mae": mae, "bias": bias, "energy_distance": target_energy_distance}
    macro = {"r2": r2, "pearson": pearson, "spearman": spearman}
    scores = {name: score(mean, **ends) for name, score in micro.items()}
    scores |= {name: row_mean(score(mean, **ends)) for name, score in macro.items()}
    return scores | ({"crps": crps(draws, **ends)} if len(draws) > 1 else {})


# what is refused --------------------------------------------------------------------------------


def _same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"both sets need the same dimensions, got {a.shape[1]} and {b.shape[1]}")


def _check(imputed: Tensor, truth: Tensor, target: Tensor) -> None:
    """Refuse shapes that do not fit, and a score of nothing."""
    if not imputed.shape == truth.shape == target.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (imputed, truth, target))
        raise ValueError(f"imputed, truth and target need one shape, got {shapes}")
    if not bool(target.any()):
        raise ValueError("no entry is a target, so there is nothing to score")
    for name, x in (("imputed", imputed), ("true", truth)):
        if not bool(x[target].isfinite().all()):
            raise ValueError(f"an {name} number of a target entry is NaN or infinite")


def _check_draws(draws: Tensor, truth: Tensor, target: Tensor) -> None:
    if not len(draws):
        raise ValueError("need at least one draw, got none")
    for draw in draws:
        _check(draw, truth, target)
