"""Figures of imputed cells, and how they are told: who wins, by how much, and what is held to.

RMSE, MAE, bias, energy distance   over all hidden entries of all cells, of the mean of the draws
energy distance of one draw        a mean of draws varies less than counts do; one draw should not
Spearman                           over the hidden entries of each cell, then the mean over cells
CRPS                               of the draws; of a single number it is its absolute error
coverage                           share of truths inside of 90 % intervals, ends included
coverage, own                      the same for a draw in the place of the truth
coverage, ties in part             share of the truths' PIT from 5 % to 95 %

Counts tie: most intervals are one or two numbers wide and hold far more than 90 % of what they are
the law of (own). So it takes the last figure to tell a right law: with it, coverage is 90 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64, Shaped
from torch import Tensor

from sed_core.evaluation import target_rows
from sed_core.metrics import counts as score

OURS = "CountsDiff"
LEVEL, LOW, HIGH = 0.9, 0.85, 0.95  # of intervals, and where their coverage should lie
BOOTSTRAP = 1000
WORDS: Mapping[str, str] = {
    "rmse": "RMSE of the mean",
    "mae": "MAE",
    "bias": "bias",
    "spearman": "Spearman",
    "energy_distance": "energy distance",
    "energy_distance_of_one": "of one draw",
    "crps": "CRPS",
    "coverage": "coverage",
    "coverage_own": "own",
    "coverage_even": "ties in part",
    "coverage_frequent": "frequent genes, ties in part",
}
_GOAL: Mapping[str, float] = {"spearman": 1.0, "coverage_even": LEVEL}  # 0 for the others


@dataclass(frozen=True, eq=False)
class Drawn:
    """Filled cells beside the truth: draws (M, B, D), or one number an entry (B, D)."""

    filled: Shaped[Tensor, "*M B D"]
    truth: Int64[Tensor, "B D"]
    hidden: Bool[Tensor, "B D"]

    @property
    def draws(self) -> Shaped[Tensor, "M B D"] | None:
        """The draws, where there are any."""
        return self.filled if self.filled.ndim == 3 else None

    @cached_property
    def mean(self) -> Float64[Tensor, "B D"]:
        """The one number that stands for an entry."""
        return self.filled.double() if self.draws is None else self.draws.double().mean(0)

    @cached_property
    def targets(self) -> Float64[Tensor, " B"]:
        """Hidden entries of each cell."""
        return self.hidden.sum(1).double()

    @cached_property
    def squares(self) -> Float64[Tensor, " B"]:
        """Squared errors of the mean, summed over the hidden entries of each cell."""
        return ((self.mean - self.truth).square() * self.hidden).sum(1)

    @cached_property
    def surprise(self) -> Float64[Tensor, " B"]:
        """CRPS summed over the hidden entries of each cell."""
        if self.draws is None:
            return ((self.mean - self.truth).abs() * self.hidden).sum(1)
        found = torch.zeros(len(self.truth), dtype=torch.float64)
        for k in self.hidden.any(1).nonzero().flatten():
            row = slice(int(k), int(k) + 1)
            ends = {"truth": self.truth[row], "target": self.hidden[row]}
            found[row] = score.crps(self.draws[:, row], **ends) * self.targets[row]
        return found


def read(drawn: Drawn, frequent: Bool[Tensor, " D"]) -> dict[str, Any]:
    """All figures; those of coverage are None where there are no draws.

    Args:
        frequent: genes of which the coverage is told by itself.
    """
    ends = {"truth": drawn.truth, "target": drawn.hidden}
    far = score.target_energy_distance
    draws = drawn.draws
    found = {
        "rmse": score.rmse(drawn.mean, **ends),
        "mae": score.mae(drawn.mean, **ends),
        "bias": score.bias(drawn.mean, **ends),
        "spearman": score.row_mean(score.spearman(drawn.mean, **ends)),
        "energy_distance": far(drawn.mean, **ends),
        "energy_distance_of_one": far(drawn.mean if draws is None else draws[0], **ends),
        "crps": (drawn.surprise.sum() / drawn.targets.sum()).item(),
    }
    told: dict[str, Any] = {name: round(value, 5) for name, value in found.items()}
    told |= dict.fromkeys(name for name in WORDS if name.startswith("coverage"))
    if draws is not None:
        covered = {
            "coverage": score.coverage(draws, **ends, level=LEVEL),
            "coverage_own": score.coverage(draws[1:], truth=draws[0], target=drawn.hidden),
            "coverage_even": even_coverage(draws, **ends),
        }
        some = drawn.hidden & frequent
        if bool(some.any()):
            covered["coverage_frequent"] = even_coverage(draws, truth=drawn.truth, target=some)
        told |= {name: round(value, 5) for name, value in covered.items()}
    return told | {
        "cells": len(drawn.truth),
        "entries": int(drawn.targets.sum()),
        "zeros": round((drawn.truth[drawn.hidden] == 0).double().mean().item(), 4),
    }


def even_coverage(
    draws: Shaped[Tensor, "m B D"], *, truth: Shaped[Tensor, "B D"], target: Bool[Tensor, "B D"]
) -> float:
    """Share of the truths' PIT from 5 % to 95 %: 90 % under the right law, however counts tie."""
    low, high = score.pit(draws, truth=truth, target=target)
    shares = score.pit_histogram(low, high, bins=20)
    return shares[1:-1].sum().item()


# -- who wins --------------------------------------------------------------------------------------


def wins(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each mask and figure the best method, and the place of CountsDiff among all."""
    found = list[dict[str, Any]]()
    names = [name for name in WORDS if name not in ("coverage", "coverage_own")]
    for mask in dict.fromkeys(one["mask"] for one in scores):
        rows = [one for one in scores if one["mask"] == mask]
        for name in names:
            ranked = sorted(
                (one for one in rows if one[name] is not None), key=lambda one: _miss(name, one)
            )
            ours = next((k for k, one in enumerate(ranked, 1) if one["method"] == OURS), None)
            if ours is not None:
                best, own = ranked[0], ranked[ours - 1]
                told = {"mask": mask, "figure": name, "best": best["method"], "value": best[name]}
                found.append({**told, "ours": own[name], "place": ours, "of": len(ranked)})
    return found


def _miss(name: str, one: Mapping[str, Any]) -> float:
    """How far a figure is from what it should be."""
    goal = LEVEL if name.startswith("coverage") else _GOAL.get(name, 0.0)
    return abs(one[name] - goal)


def beaten(peer: Drawn, ours: Drawn, *, generator: torch.Generator) -> dict[str, list[float]]:
    """How much larger RMSE and CRPS of a peer are than ours: 95 % intervals over cells.

    The same cells are drawn again for both, so that hard cells weigh on both alike.
    """
    n = len(ours.truth)
    row = torch.randint(n, (BOOTSTRAP, n), generator=generator)
    entries = ours.targets[row].sum(1).clamp_min(1)
    found = dict[str, list[float]]()
    for name, way, both in (
        ("rmse", torch.sqrt, (peer.squares, ours.squares)),
        ("crps", torch.clone, (peer.surprise, ours.surprise)),
    ):
        theirs, own = (way(sums[row].sum(1) / entries) for sums in both)
        ends = (theirs - own).quantile(torch.tensor([0.025, 0.975]).double())
        found[name] = [round(float(end), 5) for end in ends]
    return found


def held_to(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Coverage of CountsDiff under each mask, ends included and ties in part."""
    words = {"coverage": "ends included", "coverage_even": "ties in part"}
    return [
        {
            "name": f"{OURS}, {one['mask']}: coverage of 90 % intervals, {told}",
            "wanted": f"{LOW:g} to {HIGH:g}",
            "got": one[name],
            "met": LOW <= one[name] <= HIGH,
        }
        for one in scores
        if one["method"] == OURS
        for name, told in words.items()
    ]


# -- telling ---------------------------------------------------------------------------------------


def imputation_table(result: Mapping[str, Any]) -> str:
    """Everything as Markdown: a table for each mask, who wins, the targets, the setting."""
    lines, scores = list[str](), result["scores"]
    for mask in dict.fromkeys(one["mask"] for one in scores):
        rows = [one for one in scores if one["mask"] == mask]
        first = rows[0]
        lines += [
            f"Hidden: {mask}; {first['entries']:,} entries in {first['cells']} cells, of which",
            f"{first['zeros']:.1%} are zeros.",
            "",
            f"| method | {' | '.join(WORDS.values())} | RMSE above ours | CRPS above ours |",
            "|---" * (len(WORDS) + 3) + "|",
            *(_row(one) for one in rows),
            "",
        ]
    lines += ["| hidden | figure | best | its value | CountsDiff | place |", "|---" * 6 + "|"]
    lines += [
        f"| {one['mask']} | {_named(one['figure'])} | {one['best']} | {one['value']:.4g} | "
        f"{one['ours']:.4g} | {one['place']} of {one['of']} |"
        for one in result["wins"]
    ]
    said = ", ".join(f"{k} {v}" for k, v in result["setting"].items() if v is not None)
    lines += ["", *target_rows(result["targets"]), "", _chosen(result), f"Measured with: {said}."]
    return "\n".join(lines) + "\n"


def _row(one: Mapping[str, Any]) -> str:
    cells = ["" if one[name] is None else f"{one[name]:.4g}" for name in WORDS]
    apart = ["" if one["method"] == OURS else _ends(one["above_ours"][k]) for k in ("rmse", "crps")]
    return f"| {one['method']} | {' | '.join([*cells, *apart])} |"


def _ends(ends: Sequence[float]) -> str:
    return f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def _named(name: str) -> str:
    word = WORDS[name]
    if name == "energy_distance_of_one":
        return "energy distance of one draw"
    return f"coverage, {word}" if name.startswith("coverage_") else word


def _chosen(result: Mapping[str, Any]) -> str:
    """Which options the peers that have some were given."""
    told = [
        f"{name} {', '.join(f'{k} {v}' for k, v in option.items())}"
        for name, option in result["options"].items()
    ]
    return f"Options, chosen on half hidden training cells: {'; '.join(told)}."
