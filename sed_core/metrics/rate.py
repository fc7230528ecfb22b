"""What a dense denoiser spends its bits on: rate and distortion of zero and non-zero dimensions.

    R_j(t -> s) = 1/2 (SNR_s - SNR_t) (x_j - f_j(x_t, t))^2 / ln 2   bits,   SNR = ab / (1 - ab)

is what the step t -> s of the variational bound costs in dimension j (Ho et al. 2020, section 4.3).
A denoiser that knows that a dimension is zero spends nothing on it, yet computes it in every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t of each row) -> guess of x0


@dataclass(frozen=True, eq=False)
class Spent:
    """Of one kind of dimension: bits and errors on the way from noise to data.

    `bits` is what one dimension has cost once x_t is known, `rmse` the error of the guess there.
    """

    bits: Float64[Tensor, " T"]
    rmse: Float64[Tensor, " T"]
    total: float  # bits a row, the last step included
    dimensions: float  # of this kind a row, in the mean


@dataclass(frozen=True, eq=False)
class RateCurve:
    """Rate and distortion at each time of a sampler's grid, from 1 down."""

    t: Float64[Tensor, " T"]
    alpha_bar: Float64[Tensor, " T"]
    zero: Spent
    nonzero: Spent

    @property
    def share_of_bits(self) -> float:
        """Share of all bits that zeros cost."""
        both = self.zero.total + self.nonzero.total
        return self.zero.total / both if both else 0.0

    @property
    def share_of_dimensions(self) -> float:
        """Share of all dimensions that are zero."""
        return self.zero.dimensions / (self.zero.dimensions + self.nonzero.dimensions)


@torch.no_grad()
def rate_distortion(
    denoise: Denoise,
    schedule: Callable[[Tensor], Tensor],
    x0: Float[Tensor, "B ..."],
    zero: Bool[Tensor, "B ..."],
    *,
    steps: int,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda share: None,
) -> RateCurve:
    """Send rows through the denoiser along one path of noise each, and add up what they cost.

    Noise falls along the path as in ancestral sampling with the true x0, so every x_t follows the
    forward process and a denoiser may remember its guess before.

    Args:
        denoise: guess of x0 in the units of x0; called with falling t.
        schedule: alpha_bar.
        x0: rows in the denoiser's units.
        zero: where the data, in their own units, are exactly zero.

    Raises:
        ValueError: for less than one step, or shapes that differ.
    """
    if steps < 1 or x0.shape != zero.shape or not len(x0):
        raise ValueError(
            f"wanted rows, a mask of their shape and at least 1 step, got {tuple(x0.shape)}, "
            f"{tuple(zero.shape)} and {steps}"
        )
    t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    ab = schedule(t)
    snr = ab / (1 - ab)
    errors, noise = list[Tensor](), _normal(x0, generator)
    for k in range(steps):
        errors.append(_errors(denoise, x0, zero, noise, float(ab[k]), float(t[k])))
        kept = float(snr[k] / snr[k + 1])  # of the noise's variance, in units of the data
        noise = kept**0.5 * noise + (1 - kept) ** 0.5 * _normal(x0, generator)
        progress((k + 1) / steps)
    return _curve(t[:-1], ab[:-1], snr, torch.stack(errors, 1), zero)


def _errors(
    denoise: Denoise, x0: Tensor, zero: Tensor, noise: Tensor, ab: float, t: float
) -> Float64[Tensor, "2"]:
    """Summed squared errors of the guess at time t: on zeros, and on the rest."""
    x_t = ab**0.5 * x0 + (1 - ab) ** 0.5 * noise
    square = (x0 - denoise(x_t, x0.new_full((len(x0),), t))).double().square()
    return torch.stack([square[zero].sum(), square[~zero].sum()]).cpu()


def _curve(
    t: Tensor, ab: Tensor, snr: Tensor, errors: Float64[Tensor, "2 T"], zero: Tensor
) -> RateCurve:
    spent = 0.5 * snr.diff() * errors / log(2)
    counts = (int(zero.sum()), int((~zero).sum()))
    kinds = [_spent(*part, len(zero)) for part in zip(spent, errors, counts, strict=True)]
    return RateCurve(t, ab, *kinds)


def _spent(bits: Tensor, errors: Tensor, count: int, rows: int) -> Spent:
    before = torch.cat([bits.new_zeros(1), bits.cumsum(0)[:-1]])
    each = max(1, count)
    return Spent(before / each, (errors / each).sqrt(), bits.sum().item() / rows, count / rows)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)
