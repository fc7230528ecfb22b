"""Where cells lie among the principal axes of training cells, hidden genes or not."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.sparse import linalg
from torch import Tensor

_linalg: Any = linalg  # whose own annotations say little
AXES = 40  # principal axes at most


@dataclass(frozen=True, eq=False)
class Space:
    """Principal axes of the training cells' log-normalised counts, and where all cells are."""

    axes: Float64[Tensor, "D K"]
    train: Float64[Tensor, "n K"]
    given: Float64[Tensor, "B K"]


def space(
    train: Float64[Tensor, "n D"],
    given: Float64[Tensor, "B D"],
    observed: Bool[Tensor, "B D"],
    most: int = AXES,
) -> Space:
    """The leading axes, and each given cell's place, guessed from what is observed of it."""
    mean = train.mean(0)
    centred = train - mean
    axes = leading(centred, min(most, min(train.shape) - 1))
    places = centred @ axes
    variance = places.square().mean(0)
    left = centred.square().mean(0).sum() - variance.sum()  # that no axis explains
    ridge = (left / train.shape[1]).clamp_min(1e-9) / variance.clamp_min(1e-9)
    return Space(axes, places, placed(given - mean, observed, axes, ridge))


def leading(x: Float64[Tensor, "n D"], k: int) -> Float64[Tensor, "D K"]:
    """The k right singular vectors of the largest singular values, largest first."""
    if k < 1:
        raise ValueError(f"principal axes need two cells and two genes or more, got {x.shape}")
    start = np.ones(min(x.shape)) / min(x.shape) ** 0.5  # no chance
    _, size, axes = _linalg.svds(x.numpy(), k=k, v0=start)
    return torch.from_numpy(axes[np.argsort(-size)].T.copy())


def placed(
    y: Float64[Tensor, "B D"],
    observed: Bool[Tensor, "B D"],
    axes: Float64[Tensor, "D K"],
    ridge: Float64[Tensor, " K"],
) -> Float64[Tensor, "B K"]:
    """(V_o' V_o + ridge)^-1 V_o' y_o: the posterior mean of probabilistic PCA."""
    k = axes.shape[1]
    seen = observed.double()
    pairs = (axes[:, :, None] * axes[:, None, :]).flatten(1)
    square = (seen @ pairs).reshape(-1, k, k)
    found = cast(Any, torch.linalg.solve)(square + ridge.diag(), ((y * seen) @ axes)[:, :, None])
    return cast(Tensor, found).squeeze(2)
