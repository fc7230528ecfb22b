"""The toy's oracle is exact: against its published constants, brute force, and its own draws."""

from dataclasses import replace

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import untouched_global_chance
from torch import Tensor

from sed_core.chance import seeded, split
from sed_core.domains import toy
from sed_core.domains.toy import TOY, SizeFactorLaw, conditional_mean, log_negative_binomial

MEAN = [0.588, 2.058, 0.090, 0.110, 0.247, 1.110, 0.572, 3.715, 0.488, 1.101]  # countsdiff.md 8
VARIANCE = [0.794, 4.660, 0.094, 0.116, 0.281, 1.935, 0.831, 15.935, 0.616, 1.792]
MU = [0.4916, 1.7194, 0.0752, 0.0918, 0.2060, 0.9272, 0.4777, 3.1029, 0.4075, 0.9195]
THETA = [8.956, 7.931, 18.999, 13.556, 10.166, 6.061, 4.012, 3.170, 13.805, 10.441]
PUBLISHED_MEAN = [0.5861, 2.0444, 0.0870, 0.1049, 0.2437, 1.1112, 0.5753, 3.7003, 0.4919, 1.0982]

PAIR = SizeFactorLaw(TOY.mu[[1, 7]], TOY.theta[[1, 7]])  # two dimensions, for enumeration


@pytest.fixture(scope="module")
def x() -> Tensor:
    return toy.load("train")


def every_row(largest: int) -> Tensor:
    """All rows of two counts up to the largest."""
    k = torch.arange(largest + 1)
    return torch.cartesian_prod(k, k)


# -- constants and moments -------------------------------------------------------------------------


def test_the_constants_are_those_of_the_notebook() -> None:
    # the listed figures come from u and v of four decimals: 5e-5 log 100 is 2e-4 of mu
    assert TOY.mu.tolist() == pytest.approx(MU, rel=4e-4, abs=1e-4)
    assert TOY.theta.tolist() == pytest.approx(THETA, rel=2e-4)
    assert TOY.mean.tolist() == pytest.approx(MEAN, rel=4e-4, abs=5e-4)
    assert TOY.variance.tolist() == pytest.approx(VARIANCE, rel=8e-4, abs=6e-4)


def test_moments_are_those_of_the_pmf() -> None:
    k = torch.arange(4001).double()
    pmf = TOY.pmf(4000)
    # what is left out lies beyond 4,000 counts; the nodes integrate to rounding
    assert pmf.sum(1).tolist() == pytest.approx([1] * 10, abs=1e-10)
    assert (pmf @ k).tolist() == pytest.approx(TOY.mean.tolist(), rel=1e-9)
    second = pmf @ k.square()
    assert (second - TOY.mean.square()).tolist() == pytest.approx(TOY.variance.tolist(), rel=1e-7)


def test_samples_have_the_moments_of_the_law(x: Tensor) -> None:
    n = len(x)
    assert x.shape == (20_000, 10)
    assert x.dtype == torch.int64
    assert x.min() == 0
    error = (TOY.variance / n).sqrt()
    assert ((x.double().mean(0) - TOY.mean).abs() < 5 * error).all()
    published = torch.tensor(PUBLISHED_MEAN).double()  # of as many rows, drawn elsewhere
    assert ((published - TOY.mean).abs() < 5 * error).all()
    product = (x.double() - TOY.mean)[:, :, None] * (x.double() - TOY.mean)[:, None]
    error = product.std(0) / n**0.5
    assert ((product.mean(0) - TOY.covariance).abs() < 5 * error).all()
    assert (TOY.covariance - TOY.variance.diag()).max() > 1  # the counts do depend on one another
    zeros = TOY.pmf(0).mean().item()
    assert zeros == pytest.approx(0.57, abs=0.005)  # 57.0 % in the notebook
    assert (x == 0).double().mean().item() == pytest.approx(zeros, abs=0.005)


def test_samples_have_the_pmf_of_the_law(x: Tensor) -> None:
    wanted = TOY.pmf(8)
    for column, pmf in zip(x.T, wanted, strict=True):
        share = torch.bincount(column, minlength=9)[:9] / len(x)
        assert ((share - pmf).abs() < 5 * (pmf / len(x)).sqrt() + 1e-12).all()


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    with untouched_global_chance():
        whole = TOY.sample(9, generator=seeded(3))
        alone = TOY.sample(1, generator=split(seeded(3), 5)[4:])
    assert torch.equal(whole[4:5], alone)
    assert not torch.equal(whole, TOY.sample(9, generator=seeded(4)))
    assert torch.equal(toy.load("validation"), toy.load("validation"))


def test_an_unknown_split_and_a_survival_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match="splits train, validation, got 'test'"):
        toy.load("test")
    with pytest.raises(ValueError, match="a probability from 0 to 1"):
        TOY.rate(torch.zeros(1, 10).long(), 1.5)


# -- likelihood ------------------------------------------------------------------------------------


@given(st.floats(0.01, 50), st.floats(0.1, 50))
def test_the_negative_binomial_is_that_of_scipy(mean: float, shape: float) -> None:
    k = torch.arange(40).double()
    mean_, shape_ = (torch.tensor(number, dtype=torch.float64) for number in (mean, shape))
    got = log_negative_binomial(k, mean_, shape_)
    wanted = scipy.stats.nbinom.logpmf(k.numpy(), shape, shape / (shape + mean))
    assert got.tolist() == pytest.approx(wanted.tolist(), rel=1e-9, abs=1e-9)


def test_a_mean_of_zero_is_a_point_at_zero() -> None:
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    got = log_negative_binomial(torch.tensor([0.0, 1.0, 2.0]), zero, one)
    assert got.tolist() == [0, -torch.inf, -torch.inf]


def test_probabilities_of_whole_rows_sum_to_one_and_to_the_margins() -> None:
    rows = every_row(250)
    joint = PAIR.log_prob(rows).exp().view(251, 251)
    assert joint.sum().item() == pytest.approx(1, abs=1e-5)
    assert joint.sum(1)[:20].tolist() == pytest.approx(PAIR.pmf(19)[0].tolist(), rel=1e-5)
    assert joint.sum(0)[:20].tolist() == pytest.approx(PAIR.pmf(19)[1].tolist(), rel=1e-5)


def test_the_quadrature_is_exact_to_seven_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    x = TOY.sample(200, generator=seeded(0))
    few = TOY.log_prob(x), TOY.rate(x, 0.5)
    monkeypatch.setattr(toy, "NODES", 180)
    torch.testing.assert_close(TOY.log_prob(x), few[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(TOY.rate(x, 0.5), few[1], rtol=1e-7, atol=1e-7)


# -- posteriors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("survival", [0.0, 0.3, 0.9])
def test_the_posterior_is_that_of_bayes_by_enumeration(survival: float) -> None:
    """P(x0 | x_t) over all pairs of counts, from the joint law and the binomial alone."""
    x_t = torch.tensor([[0, 1]]) if survival else torch.zeros(1, 2).long()
    rows = every_row(200)
    thinned = scipy.stats.binom.pmf(x_t.numpy(), rows.numpy(), survival)
    posterior = PAIR.log_prob(rows).exp() * torch.from_numpy(thinned).prod(1)
    posterior = posterior / posterior.sum()
    rate = (posterior[:, None] * (rows - x_t)).sum(0)
    assert PAIR.rate(x_t, survival)[0].tolist() == pytest.approx(rate.tolist(), rel=1e-4)
    pmf = PAIR.missing_pmf(x_t, survival, 20)[0]
    for j in range(2):
        wanted = [posterior[rows[:, j] - x_t[0, j] == k].sum().item() for k in range(21)]
        assert pmf[j].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-12)


def test_a_clean_row_misses_nothing_and_a_hidden_one_all() -> None:
    x = TOY.sample(20, generator=seeded(0))
    assert TOY.rate(x, 1.0).eq(0).all()
    assert TOY.draw_missing(x, 1.0, generator=seeded(0)).eq(0).all()
    nothing = torch.zeros(3, 10).long()
    torch.testing.assert_close(TOY.rate(nothing, 0.0), TOY.mean.expand(3, -1))
    drawn = TOY.draw_missing(nothing, 0.0, generator=seeded(0))
    assert drawn.sum() > 0


def test_draws_of_the_posterior_complete_the_law(x: Tensor) -> None:
    """Thin, draw what is missing, and the rows have the moments of the law again."""
    x, p = x[:8000], 0.4
    n = len(x)
    x_t = torch.from_numpy(scipy.stats.binom.rvs(x.numpy(), p, random_state=0))
    y = TOY.draw_missing(x_t, p, generator=seeded(0))
    again = (x_t + y).double() - TOY.mean
    product = again[:, :, None] * again[:, None]
    assert ((product.mean(0) - TOY.covariance).abs() < 5 * product.std(0) / n**0.5).all()
    residual = (y - TOY.rate(x_t, p)).mean(0)
    assert (residual.abs() < 5 * (TOY.variance / n).sqrt()).all()


def test_the_rate_is_the_regression_of_what_is_missing(x: Tensor) -> None:
    """E[y g(x_t)] = E[rate g(x_t)]: the residual is uncorrelated with all that survived."""
    x, p = x[:8000], 0.2
    n = len(x)
    x_t = torch.from_numpy(scipy.stats.binom.rvs(x.numpy(), p, random_state=0))
    residual = (x - x_t) - TOY.rate(x_t, p)
    product = residual[:, :, None] * x_t[:, None].double()
    assert (product.mean(0).abs() < 5 * product.std(0) / n**0.5).all()
    independent = (1 - p) * (TOY.theta + x_t) / (TOY.theta / TOY.mu + p)  # one size for all rows
    product = ((x - x_t) - independent)[:, :, None] * x_t[:, None].double()
    assert (product.mean(0).abs() > 5 * product.std(0) / n**0.5).any()


def test_the_conditional_mean_is_the_best_imputation(x: Tensor) -> None:
    x = x[:8000]
    observed = torch.arange(10).expand(len(x), -1) >= 6
    best = conditional_mean(TOY, x, observed)
    assert torch.equal(best[observed], x[observed].double())
    missing = ~observed
    errors = {
        name: (guess - x)[missing].square().mean()
        for name, guess in {"best": best, "mean": TOY.mean, "more": best * 1.1}.items()
    }
    assert errors["best"] < errors["mean"]
    assert errors["best"] < errors["more"]
    residual = (best - x)[:, :6].mean(0)
    assert (residual.abs() < 5 * (TOY.variance[:6] / len(x)).sqrt()).all()
    hidden = torch.where(observed, x, 77)
    assert torch.equal(conditional_mean(TOY, hidden, observed), best)  # what is hidden stays so


def test_survival_is_one_number_or_one_an_entry() -> None:
    x_t = TOY.sample(4, generator=seeded(0))
    wanted = TOY.rate(x_t, 0.3)
    for survival in (torch.tensor(0.3), torch.full((4, 1), 0.3), torch.full((4, 10), 0.3)):
        torch.testing.assert_close(TOY.rate(x_t, survival.double()), wanted, rtol=1e-6, atol=1e-6)
    rows = torch.tensor([[0.1], [0.3], [0.5], [0.9]]).double()
    torch.testing.assert_close(TOY.rate(x_t, rows)[2], TOY.rate(x_t[2:3], 0.5)[0])


def test_no_spread_leaves_independent_negative_binomials() -> None:
    law = replace(TOY, spread=0.0)
    x = TOY.sample(10, generator=seeded(0))
    alone = log_negative_binomial(x.double(), TOY.mu, TOY.theta).sum(1)
    torch.testing.assert_close(law.log_prob(x), alone)
