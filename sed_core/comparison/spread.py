"""How sure a distance is: the bootstrap's spread, put around the value."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sed_core.evaluation import plain_figure

DRAWS = 200


def distance_figure(
    statistic: Callable[[Tensor], float], n: int, chance: torch.Generator
) -> dict[str, Any]:
    """A distance of n rows with its bootstrap interval; `statistic` takes row numbers."""
    again = torch.randint(n, (DRAWS, n), generator=chance)
    spread = torch.tensor([statistic(rows) for rows in again], dtype=torch.float64)
    return around(statistic(torch.arange(n)), spread, n)


def around(value: float, spread: Float[Tensor, " draws"], n: int) -> dict[str, Any]:
    """A figure whose 95 % interval is the spread of the draws about their own mean.

    Drawing rows again pushes every distance up, so the draws' own quantiles may leave the value
    out; a distance is never negative, so neither is the lower end.
    """
    low, high = (spread - spread.mean()).quantile(torch.tensor([0.025, 0.975]).double())
    ends = {"low": max(0.0, value + low.item()), "high": value + high.item()}
    return plain_figure(value, n) | {end: round(at, 6) for end, at in ends.items()}
