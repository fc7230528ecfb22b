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
    found, i = _zeros(n), _reached((n * rare).add_(u))
    found[i] = _binomial(*(_at(i, part, n.shape) for part in (n, rare, u))).long()
    found = found.reshape(n.shape)
    return torch.where(p > 0.5, n.long() - found, found)


def rounded_binomial(
    rate: Float[Tensor, "*X"], p: Float[Tensor, "..."], u: Float[Tensor, "*X"]
) -> Int64[Tensor, "*X"]:
    """Bin(R, p), where R is the rate rounded up or down at random so that its mean is the rate.

    It is a quantile of that mixture: a rate that differs in its last digit moves a border of
    outcomes by that much times p, and nothing else, so that hardly any draw is another one.
    """
    total = torch.add(u, rate, alpha=p.item()) if p.ndim == 0 else u + rate.double() * p
    found, i = _zeros(rate), _reached(total)
    found[i] = 1  # of a rate below 1, u >= 1 - rate p says it all
    i = i[_at(i, rate, rate.shape) >= 1]
    rate_i, p_i, u_i = (_at(i, part, rate.shape).double() for part in (rate, p, u))
    sure = p_i >= 1
    for some, law in ((~sure, _rounded_binomial), (sure, _rounded)):
        if bool(some.any()):
            j = some.nonzero().squeeze(1)
            found[i[j]] = law(rate_i[j], p_i[j], u_i[j]).long()
    return found.reshape(rate.shape)


def poisson(
    rate: Float[Tensor, "*X"], u: Float[Tensor, "*X"], *, times: float = 1.0
) -> Int64[Tensor, "*X"]:
    """Poisson(times rate), one for each uniform u."""
    found, i = _zeros(rate), _reached(torch.add(u, rate, alpha=times))
    found[i] = _poisson(times * rate.flatten()[i].double(), u.flatten()[i]).long()
    return found.reshape(rate.shape)


def _zeros(like: Tensor) -> Int64[Tensor, " X"]:
    return torch.zeros(like.numel(), dtype=torch.int64, device=like.device)


def _reached(total: Tensor) -> Int64[Tensor, " I"]:
    """Entries whose draw may differ from 0, which is stacked first and has P(0) >= 1 - mean.

    Args:
        total: mean + u.
    """
    return (total >= 1).flatten().nonzero().squeeze(1)


def _at(i: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """The entries i of x, broadcast to that shape."""
    return x.expand(len(i)) if x.ndim == 0 else x.expand(shape).flatten()[i]


def _rounded(rate: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """The rate, rounded up where u is at the upper end."""
    up = rate.ceil()
    return up - (u < up - rate).to(up)


def _rounded_binomial(rate: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Bin(n, p) and Bin(n - 1, p) mixed, n = ceil(rate); p below 1.

    Their mass at k is that of the first, times f + (1 - f) (n - k) / (n (1 - p)), f its share.
    """
    n, q = rate.ceil(), 1 - p
    share, odds = rate - (n - 1), p / q
    start, log_mass = _start(n, p)

    def mixed(k: Tensor, i: Tensor) -> Tensor:
        return share[i] + (1 - share[i]) * (n[i] - k) / (n[i] * q[i])

    return _walk(
        u,
        start,
        log_mass.exp() * mixed(start, torch.arange(len(n), device=n.device)),
        up=lambda k, i: (n[i] - k) / (k + 1) * odds[i] * mixed(k + 1, i) / mixed(k, i),
        down=lambda k, i: k / (n[i] - k + 1) / odds[i] * mixed(k - 1, i) / mixed(k, i),
    )


def _binomial(n: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Bin(n, p) for p of at most a half."""
    start, log_mass = _start(n, p)
    odds = p / (1 - p)
    return _walk(
        u,
        start,
        log_mass.exp(),
        up=lambda k, i: (n[i] - k) / (k + 1) * odds[i],
        down=lambda k, i: k / (n[i] - k + 1) / odds[i],
    )


def _start(n: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Where a walk over Bin(n, p) starts, 0 or in the bulk, and the log of the mass there."""
    start = torch.where(n * p > FROM_ZERO, ((n + 1) * p).floor(), 0.0)
    log_mass = (n - start) * torch.log1p(-p)
    big = (start > 0).nonzero().squeeze(1)
    k, m = start[big], n[big]
    ways = torch.lgamma(m + 1) - torch.lgamma(k + 1) - torch.lgamma(m - k + 1)
    log_mass[big] += ways + k * p[big].log()
    return start, log_mass


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
