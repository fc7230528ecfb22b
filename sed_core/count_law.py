"""Counts of a sparse row: a negative binomial with the row's total as exposure, in two parts.

    P(x) = Gamma(x + theta) / (Gamma(theta) x!) (theta / (theta + mu))^theta (mu / (theta + mu))^x

Whether a dimension is zero is the index law's to say, by P(0); its value, once it is not, follows
the law truncated at zero, P(x) / (1 - P(0)) for x = 1, 2, ... All take log mu and log theta.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

SMALLEST_LOG_MEAN, LARGEST_LOG_MEAN = -30.0, 12.0
SMALLEST_LOG_THETA, LARGEST_LOG_THETA = -5.0, 7.0  # theta = 1,100 is Poisson's law for our counts
FIRST_TRIED = 16  # counts whose probabilities are added up at first to find a quantile
LARGEST = 1 << 20  # a count is never drawn above


def surprise_of_zero(
    log_mean: Float[Tensor, "*#T"], log_theta: Float[Tensor, "*#T"]
) -> Float[Tensor, "*#T"]:
    """-log P(0), in nats; exact where it is tiny."""
    return log_theta.exp() * F.softplus(log_mean - log_theta)


def logit_of_presence(surprise: Float[Tensor, "*#T"]) -> Float[Tensor, "*#T"]:
    """log-odds of being non-zero from -log P(0)."""
    return surprise + presence(surprise)


def presence(surprise: Float[Tensor, "*#T"]) -> Float[Tensor, "*#T"]:
    """log(1 - P(0)) from -log P(0)."""
    return (-torch.expm1(-surprise.clamp_min(1e-30))).log()


def log_prob(
    x: Float[Tensor, "*#T"], log_mean: Float[Tensor, "*#T"], log_theta: Float[Tensor, "*#T"]
) -> Float[Tensor, "*#T"]:
    """log P(x) of the law that is not truncated, in nats."""
    theta = log_theta.exp()
    ways = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    grown = x * F.logsigmoid(log_mean - log_theta)  # x log(mu / (theta + mu))
    return ways + grown - surprise_of_zero(log_mean, log_theta)


def truncated_nll(
    x: Float[Tensor, "*#T"], log_mean: Float[Tensor, "*#T"], log_theta: Float[Tensor, "*#T"]
) -> Float[Tensor, "*#T"]:
    """-log P(x | x >= 1), in nats, for counts from 1 up."""
    surprise = surprise_of_zero(log_mean, log_theta)
    return presence(surprise) - log_prob(x, log_mean, log_theta)


def truncated_quantile(
    u: Float[Tensor, " B"], log_mean: Float[Tensor, " B"], log_theta: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """The smallest count from 1 up whose distribution function, given x >= 1, exceeds u in [0, 1).

    Probabilities are added up over ever longer ranges until every row's is found.
    """
    log_mean, log_theta = log_mean.double(), log_theta.double()
    found = torch.full_like(u, LARGEST, dtype=torch.int64)
    below, first, size = torch.zeros_like(log_mean), 1, FIRST_TRIED
    aim = u.double() * presence(surprise_of_zero(log_mean, log_theta)).exp()
    open_ = torch.ones_like(found, dtype=torch.bool)
    while first < LARGEST and bool(open_.any()):
        x = torch.arange(first, first + size, device=u.device, dtype=torch.float64)
        here = log_prob(x, log_mean[open_, None], log_theta[open_, None]).exp()
        reach = below[open_, None] + here.cumsum(1)
        place = torch.searchsorted(reach, aim[open_, None], right=True)[:, 0]
        found[open_] = torch.where(place < size, first + place, LARGEST)
        below[open_] = reach[:, -1]
        settled = torch.zeros_like(open_)
        settled[open_] = (place < size) | (here[:, -1] < 1e-18 * reach[:, -1])
        found = torch.where(settled & (found == LARGEST), first + size - 1, found)
        open_, first, size = open_ & ~settled, first + size, 4 * size
    return found


def truncated_moments(
    log_mean: Float[Tensor, "*#T"], log_theta: Float[Tensor, "*#T"]
) -> tuple[Float[Tensor, "*#T"], Float[Tensor, "*#T"]]:
    """Mean and standard deviation given x >= 1."""
    mean, theta = log_mean.exp(), log_theta.exp()
    there = presence(surprise_of_zero(log_mean, log_theta)).exp()
    first, second = mean / there, (mean + mean**2 + mean**2 / theta) / there
    return first, (second - first**2).clamp_min(0.0).sqrt()


def bounded_theta(log_theta: Float[Tensor, "*#T"]) -> Float[Tensor, "*#T"]:
    """log theta, where gamma functions of it stay exact enough."""
    return log_theta.clamp(SMALLEST_LOG_THETA, LARGEST_LOG_THETA)


class CountDraft(nn.Module):
    """z -> the negative binomial of every dimension at once, whose zeros and values are one law.

        log mu = log total + log_softmax(rows h(z)),   one theta a dimension

    The decoder of scVI (Lopez et al. 2018). Its rows are the only numbers that a model keeps for
    each dimension, and serve the tokens as names of dimensions that have no order.
    """

    def __init__(self, latent: int, width: int, dim: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.share = nn.Linear(width, dim)
        self.log_theta = nn.Parameter(torch.zeros(dim))

    def forward(
        self, z: Float[Tensor, "B Z"], log_total: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " D"]]:
        """log mu of every dimension, and its log theta."""
        share = self.share(self.body(z)).log_softmax(1)
        log_mean = (share + log_total[:, None]).clamp(SMALLEST_LOG_MEAN, LARGEST_LOG_MEAN)
        return log_mean, self.theta()

    def theta(self) -> Float[Tensor, " D"]:
        """log theta, in its bounds."""
        return bounded_theta(self.log_theta)

    def name(self, index: Int[Tensor, "*T"]) -> Float[Tensor, "*T W"]:
        """The rows of some dimensions."""
        return F.embedding(index, self.share.weight)
