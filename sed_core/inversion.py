"""Binomial and Poisson draws by inversion: the outcome that one uniform number falls on.

Outcomes are stacked on [0, 1) from the bulk of the law outwards, up and down in turn (Kemp 1986):
a draw takes a few products for each standard deviation of the law. All entries are walked together;
only those that may differ from 0 start, and only those without an outcome go on. Exact up to
float64.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

FROM_ZERO = 16.0  # mean up to which the walk starts at 0, where no factorial is needed
Ratio = Callable[[Tensor, Tensor], Tensor]  # (outcomes, entries) -> mass of the next over this one


def binomial(
    n: Num[Tensor, "*X"], p: Float[Tensor, "..."], u: Float[Tensor, "*X"]
) -> Int64[Tensor, "*X"]:
    """Bin(n, p), one for each uniform u; p is broadcast against n."""
    n, p = n.double(), p.double()
    rare = torch.where(p > 0.5, 1 - p, p)  # Bin(n, p) = n - Bin(n, 1 - p)
    found, i = _zeros(n), _may_differ(n * rare, u)
    found[i] = _binomial(*(_at(i, part, n.shape) for part in (n, rare, u))).long()
    found = found.reshape(n.shape)
    return torch.where(p > 0.5, n.long() - found, found)


def rounded_binomial(
    rate: Float[Tensor, "*X"], p: Float[Tensor, "..."], u: Float[Tensor, "*X"]
) -> Int64[Tensor, "*X"]:
    """Bin(R, p), where R is the rate rounded up or down at random so that its mean is the rate.

    One uniform serves both. Below a rate of 1 there is one unit at most, which is born with
    probability rate p; above, what the uniform says beyond the largest P(0) decides how to round.
    """
    rate, p = rate.double(), p.double()
    found = ((rate * p).add_(u) >= 1).long().flatten()
    i = (rate >= 1).flatten().nonzero().squeeze(1)
    rate_i, p_i, u_i = (_at(i, part, rate.shape) for part in (rate, p, u))
    surely_zero = torch.where(p_i > 0.5, 0.0, 1 - rate_i.ceil() * p_i).clamp_min(0)
    found[i], may = 0, (u_i >= surely_zero).nonzero().squeeze(1)
    i, rate_i, p_i, u_i, low = (part[may] for part in (i, rate_i, p_i, u_i, surely_zero))
    raised, v = _split((u_i - low) / (1 - low), rate_i - rate_i.floor())
    found[i] = binomial(rate_i.floor() + raised, p_i, low + (1 - low) * v)
    return found.reshape(rate.shape)


def poisson(rate: Float[Tensor, "*X"], u: Float[Tensor, "*X"]) -> Int64[Tensor, "*X"]:
    """Poisson(rate), one for each uniform u."""
    rate = rate.double()
    found, i = _zeros(rate), _may_differ(rate, u)
    found[i] = _poisson(rate.flatten()[i], u.flatten()[i]).long()
    return found.reshape(rate.shape)


def _zeros(like: Tensor) -> Int64[Tensor, " X"]:
    return torch.zeros(like.numel(), dtype=torch.int64, device=like.device)


def _may_differ(mean: Tensor, u: Tensor) -> Int64[Tensor, " I"]:
    """Entries whose draw may differ from 0, which is stacked first and has P(0) >= 1 - mean."""
    return (mean + u >= 1).flatten().nonzero().squeeze(1)


def _at(i: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """The entries i of x, broadcast to that shape."""
    return x.expand(len(i)) if x.ndim == 0 else x.expand(shape).flatten()[i]


def _split(u: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Two things out of one uniform: whether u < share, and a uniform independent of that."""
    below = u < share
    return below, torch.where(below, u / share, (u - share) / (1 - share))


def _binomial(n: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Bin(n, p) for p of at most a half."""
    start = torch.where(n * p > FROM_ZERO, ((n + 1) * p).floor(), 0.0)
    log_mass = (n - start) * torch.log1p(-p)
    big = (start > 0).nonzero().squeeze(1)
    k, m = start[big], n[big]
    ways = torch.lgamma(m + 1) - torch.lgamma(k + 1) - torch.lgamma(m - k + 1)
    log_mass[big] += ways + k * p[big].log()
    odds = p / (1 - p)
    return _walk(
        u,
        start,
        log_mass.exp(),
        up=lambda k, i: (n[i] - k) / (k + 1) * odds[i],
        down=lambda k, i: k / (n[i] - k + 1) / odds[i],
    )


def _poisson(rate: Tensor, u: Tensor) -> Tensor:
    start = torch.where(rate > FROM_ZERO, rate.floor(), 0.0)
    log_mass = torch.xlogy(start, rate) - rate - torch.lgamma(start + 1)
    return _walk(
        u,
        start,
        log_mass.exp(),
        up=lambda k, i: rate[i] / (k + 1),
        down=lambda k, i: k / rate[i],
    )


def _walk(u: Tensor, start: Tensor, mass: Tensor, *, up: Ratio, down: Ratio) -> Tensor:
    """Outcomes on which the numbers u fall; one that rounding leaves beyond the end is `start`."""
    outcome = start.clone()
    i = (u >= mass).nonzero().squeeze(1)
    left, high, mass_high = u[i] - mass[i], start[i], mass[i]
    low, mass_low = high, mass_high
    while len(i):
        mass_high, high = mass_high * up(high, i), high + 1
        above = left < mass_high
        left = left - mass_high
        mass_low, low = mass_low * down(low, i), low - 1
        below = left < mass_low
        left = left - mass_low
        outcome[i] = torch.where(above, high, torch.where(below, low, start[i]))
        go_on = ~(above | below) & (mass_high + mass_low > 0)
        i, left, high, low, mass_high, mass_low = (
            part[go_on] for part in (i, left, high, low, mass_high, mass_low)
        )
    return outcome
