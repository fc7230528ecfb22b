"""What a physicist reads off a calorimeter image: momentum, mass, hits, where they lie.

Images are rows of cells, row-major: rows of the picture are phi with the first the largest, columns
are eta ascending. Coordinates are relative to the middle of the window, as for jet images. What
depends on them takes the width of a cell: PAPER_CELL for the muon images of the paper, CMS_CELL for
the measured CMS windows. Everything is computed in float64, whatever comes in.
"""

import math

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from sed_core.metrics.distance import w1

PAPER_CELL = 0.025  # 32 cells span [-0.4, 0.4]
CMS_CELL = math.tau / 360  # a crystal of the CMS barrel, in eta as in phi


def grid(
    side: int = 32, *, cell: float = PAPER_CELL
) -> tuple[Float64[Tensor, " S"], Float64[Tensor, " S"]]:
    """Centres of the columns in eta, ascending, and of the rows in phi, descending."""
    if not (math.isfinite(cell) and cell > 0):
        raise ValueError(f"cell must be the width of a cell in eta and phi, got {cell}")
    eta = (torch.arange(side).double() - (side - 1) / 2) * cell
    return eta, eta.flip(0)


def transverse_momentum(
    energy: Float[Tensor, "n D"], *, cell: float = PAPER_CELL
) -> Float64[Tensor, " n"]:
    """P_T of every image: length of the sum of its cells' momenta across the beam, in GeV."""
    px, py, _, _ = _momentum(energy, cell)
    return torch.hypot(px, py)


def mass(energy: Float[Tensor, "n D"], *, cell: float = PAPER_CELL) -> Float64[Tensor, " n"]:
    """Invariant mass of every image, its cells taken as massless particles, in GeV."""
    px, py, pz, e = _momentum(energy, cell)
    return (e**2 - px**2 - py**2 - pz**2).clamp(min=0).sqrt()


def _momentum(energy: Tensor, cell: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Px, Py, Pz and E of every image; a cell's value is its transverse energy. Source: SARM."""
    cells = _images(energy)
    eta, phi = grid(math.isqrt(cells.shape[1]), cell=cell)
    eta, phi = eta.to(cells.device), phi.to(cells.device)
    ones = torch.ones_like(eta)
    factors = [(phi.cos(), ones), (phi.sin(), ones), (ones, eta.sinh()), (ones, eta.cosh())]
    weights = [torch.outer(row, column).flatten() for row, column in factors]
    px, py, pz, e = (cells @ torch.stack(weights, 1)).unbind(1)
    return px, py, pz, e


def multiplicity(energy: Float[Tensor, "n D"]) -> Int64[Tensor, " n"]:
    """Hits of every image: cells that are not exactly zero."""
    return (_images(energy) != 0).sum(1)


def total_energy(energy: Float[Tensor, "n D"]) -> Float64[Tensor, " n"]:
    """Sum of the cells of every image, in GeV; of transverse energies, their scalar sum."""
    return _images(energy).sum(1)


def occupancy(energy: Float[Tensor, "n D"]) -> Float64[Tensor, " D"]:
    """Share of the images in which each cell is hit."""
    return (_images(energy) != 0).double().mean(0)


def w1_pair(
    made: Shaped[Tensor, " n"], real: Shaped[Tensor, " m"], train: Shaped[Tensor, " k"]
) -> tuple[float, float]:
    """W1 between one quantity of two sets, in its own units and in standard deviations of train.

    Standardising both sets with the training mean and deviation divides W1 by that deviation. The
    floor to read both against, which no sampler need beat, is w1_pair(train, real, train).
    """
    raw = w1(made, real)
    scale = train.double().std(correction=0).item() if len(train) else 0.0
    if not scale > 0:
        raise ValueError(f"train must spread to set a unit, got {len(train)} numbers, sd {scale}")
    return raw, raw / scale


def _images(energy: Tensor) -> Float64[Tensor, "n D"]:
    """The images in float64, if there is at least one and every one is a finite square."""
    if energy.ndim != 2 or not len(energy) or math.isqrt(energy.shape[1]) ** 2 != energy.shape[1]:
        raise ValueError(f"wanted rows of square images (n, side * side), got {(*energy.shape,)}")
    bad = ~energy.isfinite().all(1)
    if bad.any():
        raise ValueError(f"image {int(bad.nonzero()[0])} has a value that is NaN or infinite")
    return energy.double()
