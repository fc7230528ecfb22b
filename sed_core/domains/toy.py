"""Ten counts that share a size factor: a toy whose joint law and posteriors are known exactly.

    s ~ LogNormal(0, 0.6^2),   L_j ~ Gamma(theta_j, theta_j / (s mu_j)),   x_j ~ Poisson(L_j)

Given s the counts are independent and negative binomial, and they stay so when they are thinned, so
that every expectation is one integral over log s, done by Gauss-Hermite quadrature.
Source: `countsdiff.md` 8; the constants are those of the authors' notebook.
"""

from dataclasses import dataclass
from math import exp, expm1, pi, sqrt

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.special import ndtri
from scipy.stats import nbinom
from torch import Tensor

from sed_core.chance import Chance, seeded, split, uniform

NODES = 96  # of the quadrature over log s: rates are right to 1e-8 (48 nodes: 1e-4)
SPLITS = {"train": (20_000, 260403779), "validation": (4_000, 260403780)}  # rows, seed

Survival = float | Float[Tensor, "..."]


@dataclass(frozen=True, eq=False)
class SizeFactorLaw:
    """Negative binomial counts of mean s mu_j and shape theta_j; s is log-normal and shared.

    The posteriors are those of a row x_t of which each count survived with probability `survival`:
    one number for all, or any shape that fits (B, D). Of an entry with survival 1 the clean count
    is seen, of one with survival 0 nothing is, so the same posteriors serve imputation.
    """

    mu: Float[Tensor, " D"]
    theta: Float[Tensor, " D"]
    spread: float = 0.6  # sd of log s

    # -- moments and probabilities ---------------------------------------------------------------

    @property
    def mean(self) -> Float[Tensor, " D"]:
        """E[s] mu."""
        return exp(self.spread**2 / 2) * self.mu

    @property
    def variance(self) -> Float[Tensor, " D"]:
        """E[s] mu + E[s^2] mu^2 / theta + Var[s] mu^2."""
        return self.covariance.diagonal()

    @property
    def covariance(self) -> Float[Tensor, "D D"]:
        """Var[s] mu_i mu_j off the diagonal: the size factor is all that the counts share."""
        square = exp(2 * self.spread**2)  # E[s^2]
        shared = exp(self.spread**2) * expm1(self.spread**2)  # Var[s]
        own = self.mean + square * self.mu.square() / self.theta
        return shared * torch.outer(self.mu, self.mu) + own.diag()

    def pmf(self, largest: int) -> Float[Tensor, "D K"]:
        """P(x_j = k) of each dimension by itself, k = 0 .. largest."""
        size, log_weight = self._nodes()
        k = torch.arange(largest + 1).double()
        given = log_negative_binomial(k[:, None], size[:, None, None] * self.mu, self.theta)
        return (log_weight[:, None, None] + given).logsumexp(0).T.exp()

    def log_prob(self, x: Int64[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """log P(x) of whole rows, in nats."""
        return self._joint(x, 1.0).logsumexp(1)

    # -- draws -----------------------------------------------------------------------------------

    def sample(self, n: int, *, generator: Chance) -> Int64[Tensor, "n D"]:
        """n rows; row k does not depend on n."""
        u = _open_uniform(split(generator, n), len(self.mu) + 1)
        size = torch.from_numpy(np.exp(self.spread * ndtri(u[:, :1].numpy())))
        return _draw_negative_binomial(u[:, 1:], size * self.mu, self.theta)

    def draw_missing(
        self, x_t: Int64[Tensor, "B D"], survival: Survival, *, generator: Chance
    ) -> Int64[Tensor, "B D"]:
        """x0 - x_t, drawn from its joint posterior."""
        u = _open_uniform(split(generator, len(x_t)), x_t.shape[1] + 1)
        weight = self.size_posterior(x_t, survival)
        node = (weight.cumsum(1) < u[:, :1]).sum(1, keepdim=True).clamp_max(NODES - 1)
        mean, shape = self._missing(x_t, _each(survival, x_t), self._nodes()[0][node])
        return _draw_negative_binomial(u[:, 1:], mean, shape)

    # -- posteriors ------------------------------------------------------------------------------

    def rate(self, x_t: Int64[Tensor, "B D"], survival: Survival) -> Float[Tensor, "B D"]:
        """E[x0 - x_t | x_t]: the ideal denoiser of a thinned row."""
        mean, _ = self._missing(x_t[:, None], _each(survival, x_t)[:, None], self._sizes())
        return torch.einsum("bs,bsd->bd", self.size_posterior(x_t, survival), mean)

    def missing_pmf(
        self, x_t: Int64[Tensor, "B D"], survival: Survival, largest: int
    ) -> Float[Tensor, "B D K"]:
        """P(x0_j - x_tj = k | x_t) of each entry by itself, k = 0 .. largest."""
        weight = self.size_posterior(x_t, survival)
        mean, shape = self._missing(x_t[:, None], _each(survival, x_t)[:, None], self._sizes())
        k = torch.arange(largest + 1).double()
        parts = (log_negative_binomial(count, mean, shape).exp() for count in k)
        return torch.stack([torch.einsum("bs,bsd->bd", weight, part) for part in parts], -1)

    def size_posterior(self, x_t: Int64[Tensor, "B D"], survival: Survival) -> Tensor:
        """Weights (B, S) of the nodes of s, given what survived."""
        return self._joint(x_t, survival).softmax(1)

    def _joint(self, x_t: Tensor, survival: Survival) -> Float[Tensor, "B S"]:
        """log P(s, x_t): thinned counts have mean p s mu and the shape of before."""
        mean = _each(survival, x_t)[:, None] * self._sizes() * self.mu
        given = log_negative_binomial(x_t[:, None].double(), mean, self.theta)
        return self._nodes()[1] + given.sum(-1)

    def _missing(self, x_t: Tensor, p: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and shape of x0 - x_t given s, because L | x_t, s ~ Gamma(theta + x_t, b + p)."""
        b, shape = self.theta / (size * self.mu), self.theta + x_t
        return (1 - p) * shape / (b + p), shape

    def _sizes(self) -> Float[Tensor, "S 1"]:
        return self._nodes()[0][:, None]

    def _nodes(self) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        """Sizes s and log-weights of the quadrature."""
        z, weight = np.polynomial.hermite_e.hermegauss(NODES)
        log_weight = torch.from_numpy(np.log(weight / sqrt(2 * pi)))
        return torch.from_numpy(np.exp(self.spread * z)), log_weight


def conditional_mean(
    law: SizeFactorLaw, x: Int64[Tensor, "B D"], observed: Bool[Tensor, "B D"]
) -> Float[Tensor, "B D"]:
    """E[x | observed entries]: the best imputation there is; observed entries as they are."""
    seen = x * observed
    return seen + law.rate(seen, observed.double())


def log_negative_binomial(
    x: Float[Tensor, "..."], mean: Float[Tensor, "..."], shape: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """log P(x) where the variance is mean + mean^2 / shape; a mean of 0 is a point at 0."""
    choose = torch.lgamma(x + shape) - torch.lgamma(shape) - torch.lgamma(x + 1)
    return choose - shape * (mean / shape).log1p() + torch.xlogy(x, mean / (shape + mean))


def load(split: str) -> Int64[Tensor, "n 10"]:
    """The rows of a split: 20,000 or 4,000, always the same."""
    if split not in SPLITS:
        raise ValueError(f"the toy has the splits {', '.join(SPLITS)}, got {split!r}")
    rows, seed = SPLITS[split]
    return TOY.sample(rows, generator=seeded(seed))


def _published() -> SizeFactorLaw:
    """mu = 0.05 * 100^u, theta = 20 * 10^-v; u, then v are the first draws of seed 0."""
    chance = seeded(0)
    u, v = (torch.rand(10, generator=chance).double() for _ in range(2))
    return SizeFactorLaw(0.05 * 100**u, 20 * 10**-v)


def _each(survival: Survival, x: Tensor) -> Float[Tensor, "B D"]:
    """A survival probability for each entry."""
    p = torch.as_tensor(survival, dtype=torch.float64)
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("survival must be a probability from 0 to 1")
    return p.expand(x.shape)


def _open_uniform(chance: list[torch.Generator], width: int) -> Float[Tensor, "B W"]:
    """Uniform numbers that are neither 0 nor 1, where quantiles have no end."""
    return uniform(chance, width, dtype=torch.float64).clamp_min(2**-54)


def _draw_negative_binomial(u: Tensor, mean: Tensor, shape: Tensor) -> Int64[Tensor, "B D"]:
    """The quantile at u; of mean 0 it is 0."""
    drawn = nbinom.ppf(u.numpy(), shape.numpy(), (shape / (shape + mean)).numpy())
    return torch.from_numpy(np.asarray(drawn)).long()


TOY = _published()
