"""What a set of rows is worth beside the test data: its zeros, its quality, its distances."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sed_core.chance import seeded
from sed_core.comparison.aims import Aim
from sed_core.comparison.spread import DRAWS, around, distance_figure
from sed_core.evaluation import Figures, mean_figure, plain_figure
from sed_core.metrics.distance import energy_distance, mmd, sliced_w2, w1
from sed_core.sparse import SparseBatch

NEVER = 1e-4  # a dimension that fewer training rows than this share have non-zero
MOST = 2000  # rows of a set that enter distances between all pairs of rows
BINS = 50  # of the histograms of zero shares


def measure(
    x: Float[Tensor, "n D"], aim: Aim, labels: Int[Tensor, " n"] | None, seed: int
) -> Figures:
    """Zeros, quality and distances of one set of rows against the test data."""
    return {
        **zero_figures(x, aim, seeded(seed)),
        **aim.quality(x, labels, seed),
        **distances(x, aim, seed),
    }


def zero_figures(x: Float[Tensor, "n D"], aim: Aim, chance: torch.Generator) -> Figures:
    """Where rows are not zero, against where test rows are not."""
    on, n, real = x != 0, len(x), aim.test.nnz
    counts, mean = on.sum(1), real.double().mean().item()
    return {
        "zero_share": mean_figure(zero_share(counts, x.shape[1]), chance),
        "count_w1_share": distance_figure(
            lambda rows: w1(counts[rows], real) / max(mean, 1e-9), n, chance
        ),
        **_places(on, occupancy(aim.test), chance),
        **_misplaced(x, aim, chance),
    }


def _places(on: Bool[Tensor, "n D"], share: Tensor, chance: torch.Generator) -> Figures:
    """How much more, and how much less often than `share` says dimensions are non-zero.

    Whatever test row a sample is set beside, the chance that dimension j is non-zero in it and not
    there is at least p_j - q_j; the sum over j bounds the spurious non-zeros of a sample.
    """
    hits, n = on.double(), len(on)

    def gaps(weights: Tensor) -> Tensor:
        gap = weights @ hits / n - share
        return torch.stack([gap.clamp(min=0).sum(-1), (-gap).clamp(min=0).sum(-1)])

    again = torch.randint(n, (DRAWS, n), generator=chance)
    drawn = torch.stack([torch.bincount(rows, minlength=n) for rows in again]).double()
    spread, found = gaps(drawn), gaps(torch.ones(n, dtype=torch.float64))
    return {
        name: around(found[k].item(), spread[k], n)
        for k, name in enumerate(("spurious", "missing"))
    }


def _misplaced(x: Float[Tensor, "n D"], aim: Aim, chance: torch.Generator) -> Figures:
    """Non-zeros where the data never have one, and values that are neither zero nor data."""
    never = occupancy(aim.train) < NEVER
    half = 0.5 * aim.train.value[aim.train.mask].abs().min()
    smear = (x != 0) & (x.abs() < half)
    return {
        "impossible": mean_figure((x[:, never] != 0).sum(1).double(), chance),
        "smear": mean_figure(smear.sum(1).double(), chance),
    }


def distances(x: Float[Tensor, "n D"], aim: Aim, seed: int) -> Figures:
    """Distances of whole rows, as many of both sets."""
    n = min(len(x), len(aim.test), MOST)
    rows = torch.randperm(len(aim.test), generator=seeded(seed))[:n]
    made, real = aim.scaled(x[:n]), aim.scaled(aim.test[rows].to_dense())
    found = {
        "sliced_w2": sliced_w2(made, real, generator=seeded(seed)),
        "energy_distance": energy_distance(made, real),
        "mmd": mmd(made, real),
    }
    return {name: plain_figure(value, n) for name, value in found.items()}


def figures_of_test(aim: Aim, seed: int) -> Figures:
    """Of the test data alone: what needs no other set."""
    x, chance = aim.test.to_dense(), seeded(seed)
    share = mean_figure(zero_share(aim.test.nnz, aim.test.dim), chance)
    quality: dict[str, Any] = aim.quality(x, aim.test_labels, seed)
    known = {key: quality[key] for key in ("sure", "agreement") if key in quality}
    return {"zero_share": share, **_misplaced(x, aim, chance), **known}


def occupancy(batch: SparseBatch) -> Float[Tensor, " D"]:
    """Share of the rows that are non-zero in each dimension."""
    return torch.bincount(batch.index[batch.mask], minlength=batch.dim).double() / len(batch)


def zero_share(counts: Int[Tensor, " n"], dim: int) -> Float[Tensor, " n"]:
    """Share of zeros of rows with so many non-zeros."""
    return 1 - counts.double() / dim


def histogram(share: Float[Tensor, " n"]) -> Float[Tensor, " bins"]:
    """Share of rows in each bin of the zero share."""
    place = (share * BINS).long().clamp_max(BINS - 1)
    return torch.bincount(place, minlength=BINS).double() / len(share)
