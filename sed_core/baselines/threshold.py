"""Cutting a dense sample to get its zeros back: two rules, both blind to the test data.

match      the quantile of generated values at which their share of zeros is the training's
half_min   half the smallest training non-zero (for grey levels: rounding to the nearest level)
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sed_core.sparse import SparseBatch

Rule = Literal["match", "half_min"]


def fit_threshold(rule: Rule, generated: Float[Tensor, "n D"], training: SparseBatch) -> float:
    """The value tau up to which `cut` makes a zero, one for all dimensions.

    Args:
        generated: a validation batch of generated rows in data units, not those to be judged.
        training: training rows.

    Raises:
        ValueError: where there is nothing to fit it to.
    """
    if not generated.numel() or not bool(training.mask.any()):
        raise ValueError("a threshold needs generated rows and training non-zeros, got none")
    if rule == "half_min":
        return 0.5 * training.value[training.mask].abs().min().item()
    values = generated.abs().flatten().sort().values
    zeros = round(training.sparsity * len(values))
    return values[zeros - 1].item() if zeros else -1.0


def cut(x: Float[Tensor, "*B D"], tau: float) -> Float[Tensor, "*B D"]:
    """x where its absolute value is above tau, exactly zero elsewhere."""
    return torch.where(x.abs() > tau, x, torch.zeros_like(x))
