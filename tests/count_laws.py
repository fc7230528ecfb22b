"""Exact laws of one-dimensional counts, as matrices: what samplers of counts are held against."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import nbinom, norm, poisson
from torch import Tensor

from sed_core.births import Move
from sed_core.domains.toy import TOY

Array = NDArray[np.float64]

LARGEST = 110  # of the target
STATES = 151  # 0 .. 150: with a mean in place of the truth, a count may pass the target's largest
PADDED = 320  # at least 2 STATES - 1, and a fast length to transform
K = np.arange(STATES)
LOG_FACTORIAL = gammaln(np.arange(4 * STATES) + 1)


def target() -> Array:
    """Many zeros, a skewed bulk and a bump: mean 4.9, variance 61."""
    bulk, bump = nbinom.pmf(K, 1.2, 1.2 / 5.2), norm.pdf(K, 25, 3)
    law = 0.34 * (K == 0) + 0.55 * bulk / bulk.sum() + 0.11 * bump / bump.sum()
    law[LARGEST + 1 :] = 0
    return law / law.sum()


def poisson_law(mean: float) -> Array:
    return poisson.pmf(K, mean)


def binomials(p: float | Array, n: Array = K) -> Array:
    """P(Bin(n, p) = k) in row n, column k; n and p may be given row by row."""
    n = np.asarray(n).astype(int)[:, None]
    p = np.broadcast_to(np.asarray(p, float), len(n))[:, None]
    ways = LOG_FACTORIAL[n] - LOG_FACTORIAL[K] - LOG_FACTORIAL[np.abs(n - K)]
    with np.errstate(divide="ignore", invalid="ignore"):
        live, dead = np.log(p), np.log1p(-p)
        live, dead = np.where(K == 0, 0.0, K * live), np.where(n == K, 0.0, (n - K) * dead)
    return np.exp(np.where(n >= K, ways + live + dead, -np.inf))


def missing(law: Array, p: float) -> Array:
    """P(x_0 - x_t = y | x_t) in row x_t, column y; a point at 0 where x_t is impossible."""
    joint = (law[:, None] * binomials(p)).T  # x_t, x_0
    shifted = np.stack([np.append(joint[x, x:], np.zeros(x)) for x in K])
    total = shifted.sum(1, keepdims=True)
    return np.where(total > 1e-290, shifted / np.maximum(total, 1e-290), K == 0)


def rate(law: Array, p: float) -> Array:
    """E[x_0 - x_t | x_t] of each x_t."""
    return missing(law, p) @ K


def births(kind: str, rate: Array, beta: float) -> Array:
    """P(births = k | x_t) of each way to put the rate in place of x_0 - x_t."""
    whole = np.floor(rate)
    if kind == "poisson":
        return poisson.pmf(K, beta * rate[:, None])
    if kind == "binomial":
        ceiling = np.maximum(1, np.ceil(rate))
        return binomials(beta * rate / ceiling, ceiling)
    if kind == "nearest":
        return binomials(beta, np.round(rate))
    up = (rate - whole)[:, None]
    return (1 - up) * binomials(beta, whole) + up * binomials(beta, whole + 1)


def kernel(born: Array, sigma: float) -> Array:
    """P(x_s | x_t): survivors of attrition plus births."""
    if sigma == 0:
        return np.stack([np.append(np.zeros(x), born[x, : STATES - x]) for x in K])
    kept = np.fft.rfft(binomials(1 - sigma), PADDED)
    found = np.fft.irfft(kept * np.fft.rfft(born, PADDED), PADDED)[:, :STATES]
    return np.maximum(found, 0)


def run(law: Array, plan: Iterable[Move], kind: str = "posterior") -> Array:
    """The law at the end of a plan, from nothing, with the exact posterior or its mean only."""
    q = (K == 0).astype(float)
    for move in plan:
        q = q @ step(law, move, kind)
    return q


def step(law: Array, move: Move, kind: str = "posterior") -> Array:
    """The kernel of one move."""
    if kind == "posterior":
        born = missing(law, move.p_t) @ binomials(move.beta)
    else:
        born = births(kind, rate(law, move.p_t), move.beta)
    return kernel(born, move.sigma)


def tv(a: Array, b: Array) -> float:
    """Total variation: half the sum of differences."""
    return 0.5 * float(np.abs(a - b).sum())


def toy_rate(x_t: Tensor, p: float, observed: Tensor | None = None) -> Tensor:
    """`TOY.rate` without its factorials, which cancel; observed entries are seen as they are."""
    size, log_weight = TOY._nodes()
    seen = torch.zeros(x_t.shape) if observed is None else observed
    seen, x = seen.double(), x_t.double()

    def evidence(alive: float, entries: Tensor) -> Tensor:
        mean = alive * size[:, None] * TOY.mu
        dead = TOY.theta * (mean / TOY.theta).log1p()
        live = mean.clamp_min(1e-300).log() - (TOY.theta + mean).log()
        return (x * entries) @ live.T - entries @ dead.T

    weight = (log_weight + evidence(p, 1 - seen) + evidence(1.0, seen)).softmax(1)
    return (1 - p) * (TOY.theta + x) * (weight @ (1 / (TOY.theta / (size[:, None] * TOY.mu) + p)))
