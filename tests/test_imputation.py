"""Imputation of counts: what is observed stays, what is not leaks nothing, and draws are right."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from count_laws import toy_rate
from small import counts, countsdiff, largest, untouched_global_chance
from torch import Tensor

from sed_core.births import Rate, moves
from sed_core.chance import seeded, split
from sed_core.domains import toy
from sed_core.imputation import conditional, pool, repaint, replace, summary
from sed_core.stream import last, record
from sed_core.thinning import SURVIVAL

COSINE = SURVIVAL["cosine"]
METHODS = ["conditional", "replace"]
every_method = pytest.mark.parametrize("method", METHODS)
OPTIONS: list[dict[str, Any]] = [
    {"steps": 1},
    {"steps": 6, "births": "poisson"},
    {"steps": 5, "attrition": "rescaled", "strength": 0.5},
    {"steps": 4, "attrition": "max", "births": "binomial", "label": 1, "guidance": 2.0},
    {"steps": 6, "spacing": "log_odds", "schedule": "fi"},
]


def some(x: Tensor, seed: int = 0) -> Tensor:
    """About half of the entries."""
    return torch.rand(x.shape, generator=seeded(seed)) < 0.5


# what must hold for any model ---------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rounds", [1, 3])
def test_observed_entries_come_back_exactly(method: str, options: Any, rounds: int) -> None:
    model, x = countsdiff(), counts()
    observed = some(x)
    again = {"rounds": rounds, "jump": 2} if method == "replace" and options["steps"] > 2 else {}
    found = model.impute(
        x, observed, draws=3, method=method, **options, **again, generator=seeded(0)
    )
    assert found.dtype == torch.int64
    assert found.shape == (3, *x.shape)
    assert all(torch.equal(draw[observed], x[observed]) for draw in found)
    assert bool((found >= 0).all())
    assert not torch.equal(found[0], found[1])


@every_method
def test_steps_of_imputation_add_up(method: str) -> None:
    model, x = countsdiff(), counts()
    observed = some(x)
    options: Any = {"method": method, "steps": 5, "attrition": "max", "generator": seeded(0)}
    before = torch.where(observed, x, 0) if method == "conditional" else torch.zeros_like(x)
    for step in record(model.impute_stream(x, observed, **options)).steps:
        assert torch.equal(step.x, before + step.aux["births"] - step.aux["deaths"])
        assert bool((step.aux["births"] >= 0).all())
        assert bool((step.aux["deaths"] >= 0).all())
        before = step.x
    assert step.i == step.n == 5
    assert step.t == 0


@every_method
def test_with_nothing_observed_it_generates(method: str) -> None:
    model, x = countsdiff(), counts()
    nothing = torch.zeros(x.shape, dtype=torch.bool)
    options: Any = {"steps": 6, "label": 2, "attrition": "rescaled", "strength": 0.3}
    found = model.impute(x, nothing, draws=2, method=method, **options, generator=seeded(4))
    assert torch.equal(found[0], model.sample(len(x), **options, generator=seeded(4)))


@every_method
def test_with_all_observed_nothing_is_done(method: str) -> None:
    model, x = countsdiff(), counts()
    model.network.register_forward_hook(lambda *_: pytest.fail("the network was called"))
    everything = torch.ones(x.shape, dtype=torch.bool)
    found = model.impute(x, everything, draws=2, method=method, generator=seeded(0))
    assert torch.equal(found, x.repeat(2, 1, 1))


@every_method
@pytest.mark.parametrize("network", ["mlp", "genes", "unet", "cells"])
def test_the_truth_does_not_leak(method: str, network: str) -> None:
    dim = 64 if network == "unet" else 10
    model, x = countsdiff(dim, network=network), counts(dim=dim)
    observed = some(x)
    lies = torch.where(observed, x, 200 + counts(1, dim=dim))
    a, b = (
        model.impute(v, observed, draws=2, method=method, steps=4, generator=seeded(0))
        for v in (x, lies)
    )
    assert torch.equal(a, b)


@every_method
def test_what_is_missing_may_be_no_count(method: str) -> None:
    model, x = countsdiff(), counts()
    observed = some(x)
    options: Any = {"method": method, "steps": 4, "generator": None}
    a, b, c = (
        model.impute(v, observed, **{**options, "generator": seeded(0)})
        for v in (x, x.masked_fill(~observed, -1), x.float().masked_fill(~observed, torch.nan))
    )
    assert torch.equal(a, b)
    assert torch.equal(a, c)


@every_method
def test_what_is_not_wanted_is_hidden_and_comes_back(method: str) -> None:
    model, x = countsdiff(), counts()
    observed, wanted = some(x), some(x, 1)
    aside = ~observed & ~wanted
    assert aside.any()
    draw = lambda v: model.impute(  # noqa: E731
        v, observed, wanted=wanted, method=method, steps=4, draws=2, generator=seeded(0)
    )
    found, other = draw(x), draw(torch.where(aside, 77, x))
    kept = ~wanted | observed
    assert torch.equal(found[:, kept], x[kept].expand(2, -1))
    assert bool((other[:, aside] == 77).all())
    assert torch.equal(other[:, ~aside], found[:, ~aside])
    options: Any = {"method": method, "wanted": wanted, "steps": 4, "generator": seeded(0)}
    steps = record(model.impute_stream(x, observed, **options)).steps
    assert not any(step.x[aside].any() for step in steps)


@every_method
def test_a_row_is_imputed_the_same_alone_and_with_more_draws(method: str) -> None:
    model, x = countsdiff(), counts()
    observed = some(x)
    options: Any = {"method": method, "steps": 6, "label": 1}
    with untouched_global_chance():
        whole = model.impute(x, observed, draws=3, **options, generator=seeded(7))
    chance = split(seeded(7), 5)[4:]
    alone = model.impute(x[4:5], observed[4:5], draws=2, **options, generator=chance)
    assert torch.equal(alone[:, 0], whole[:2, 4])


@every_method
@pytest.mark.parametrize("shape", [(1, 10), (5, 1), (1, 1)])
def test_one_row_or_one_column_will_do(method: str, shape: tuple[int, int]) -> None:
    model, x = countsdiff(shape[1]), torch.full(shape, 3)
    observed = torch.zeros(shape, dtype=torch.bool)
    observed[0, 0] = True
    found = model.impute(x, observed, method=method, steps=3, generator=seeded(0))
    assert found[0, 0, 0] == 3


def test_the_network_is_told_what_it_sees() -> None:
    """conditional: the clean count and that it is one; replace: a noised one like the others."""
    model, x = countsdiff(), counts()
    observed, roles = some(x), list[Tensor]()
    model.network.register_forward_pre_hook(lambda _, args: roles.append(args[0][:, 1]))
    for method in METHODS:
        model.impute(x, observed, method=method, steps=1, generator=seeded(0))  # type: ignore
    assert torch.equal(roles[0], observed.float())
    assert not roles[1].any()


# what is refused ----------------------------------------------------------------------------------


def test_a_model_that_never_saw_entries_says_so() -> None:
    model, x = countsdiff(observed_rows=0.0), counts()
    with pytest.raises(ValueError, match="method='replace'"):
        model.impute(x, some(x), generator=seeded(0))
    assert model.impute(x, some(x), method="replace", steps=2, generator=seeded(0)).any()
    nothing = torch.zeros(x.shape, dtype=torch.bool)
    assert model.impute(x, nothing, steps=2, generator=seeded(0)).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"draws": 0}, "number of samples"),
        ({"steps": 0}, "steps must be"),
        ({"method": "replace", "rounds": 0}, "rounds and jump"),
        ({"method": "replace", "jump": 0}, "rounds and jump"),
        ({"x": counts() - 20}, "whole numbers from 0 up"),
        ({"x": counts()[:, :4], "observed": some(counts())[:, :4]}, "rows of 10 counts"),
    ],
)
def test_bad_requests_are_refused_before_any_work(change: dict[str, Any], said: str) -> None:
    x = counts()
    request = {"x": x, "observed": some(x), "generator": seeded(0), **change}
    with pytest.raises(ValueError, match=said):
        countsdiff().impute_stream(**request)


@pytest.mark.parametrize("mask", ["observed", "wanted"])
def test_a_mask_of_another_shape_is_refused(mask: str) -> None:
    x = counts()
    masks = {"observed": some(x), "wanted": some(x), mask: torch.ones(7, 9, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"wanted shape \(7, 10\), got \(7, 9\)"):
        countsdiff()._given(x, **masks)


# RePaint ------------------------------------------------------------------------------------------


def test_the_order_of_repaint() -> None:
    plan = moves(COSINE, 5)
    order = repaint(plan, rounds=2, jump=2)
    assert [plan.index(move) for move, _ in order] == [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]
    back = [p for _, p in order]
    assert back == [None, plan[0].p_t, None, None, None, plan[2].p_t, None, None, plan[4].p_t, None]


def test_a_jump_over_all_steps_warns_and_is_one_round() -> None:
    """The warning, and the law: after going back to nothing, only the last round counts."""
    model, x = countsdiff(), counts()
    options: Any = {"method": "replace", "steps": 4, "generator": seeded(0)}
    with pytest.warns(UserWarning, match="only the last of 3 rounds counts"):
        stream = model.impute_stream(x, some(x), rounds=3, jump=4, **options)
    steps = record(stream).steps
    assert len(steps) == 12
    assert all(steps[k].i == k + 1 for k in range(12))
    means = list[Tensor]()
    for rounds in (1, 3):
        plan, rows = moves(COSINE, 6), toy.TOY.sample(3000, generator=seeded(1))
        observed = torch.zeros(rows.shape, dtype=torch.bool)
        observed[:, :4] = True
        chance = split(seeded(rounds), len(rows))
        with pytest.warns(UserWarning, match="take a jump") if rounds > 1 else nullcontext():
            run = replace(toy_rate, rows, observed, plan, rounds=rounds, jump=6, chance=chance)
        means.append(last(run)[:, 4:].double())
    gap = (means[0].mean(0) - means[1].mean(0)).abs()
    error = ((means[0].var(0) + means[1].var(0)) / 3000).sqrt()
    assert bool((gap < 5 * error).all())


# against the exact law ----------------------------------------------------------------------------

SEEN = [1, 5, 7, 9]


def slope(imputed: Tensor, exact: Tensor) -> float:
    """Of the imputed counts on their exact means, within dimensions: 1 is the right dependence."""
    centred = exact - exact.mean(0)
    return ((imputed.double() - imputed.double().mean(0)) * centred).sum().item() / (
        centred.square().sum().item()
    )


def imputed_slope(method: Any, rate: Rate, steps: int, rows: int, **options: Any) -> float:
    x = toy.TOY.sample(rows, generator=seeded(3))
    observed = torch.zeros(x.shape, dtype=torch.bool)
    observed[:, SEEN] = True
    exact = toy.conditional_mean(toy.TOY, x[:rows], observed)
    chance = split(seeded(9), rows)
    end = last(method(rate, x, observed, moves(COSINE, steps), chance=chance, **options))
    assert torch.equal(end[observed], x[observed])
    return slope(end[:, ~observed[0]], exact[:, ~observed[0]])


def sees(x_t: Tensor, p_t: float) -> Tensor:
    """The ideal denoiser that sees the observed entries clean."""
    observed = torch.zeros(x_t.shape, dtype=torch.bool)
    observed[:, SEEN] = True
    return toy_rate(x_t, p_t, observed)


def test_the_fast_oracle_is_the_exact_one() -> None:
    x, p = toy.TOY.sample(50, generator=seeded(0)), torch.tensor(0.3, dtype=torch.float64)
    observed = some(x)
    survival = torch.where(observed, 1.0, p)
    assert largest(toy_rate(x, 0.3), toy.TOY.rate(x, p)) < 1e-9
    found = toy_rate(x, 0.3, observed)[~observed]
    assert largest(found, toy.TOY.rate(x, survival)[~observed]) < 1e-9


@pytest.mark.parametrize(
    ("steps", "rows"), [(19, 20_000), pytest.param(100, 10_000, marks=pytest.mark.slow)]
)
def test_conditional_imputation_depends_on_the_evidence_as_it_should(steps: int, rows: int) -> None:
    assert imputed_slope(conditional, sees, steps, rows) == pytest.approx(1, abs=0.05)


def test_replacement_attenuates_the_evidence() -> None:
    """A bias of the method, not of the network: the rates are exact."""
    assert imputed_slope(replace, toy_rate, 100, 10_000) == pytest.approx(0.69, abs=0.05)


@pytest.mark.slow
def test_repaint_mends_some_of_it() -> None:
    found = imputed_slope(replace, toy_rate, 100, 2000, rounds=3, jump=10)
    assert 0.78 < found < 0.95  # 0.85 in countsdiff.md


# what several draws say ---------------------------------------------------------------------------


def test_a_summary_of_draws() -> None:
    draws = torch.tensor([[[0, 4]], [[2, 4]], [[10, 4]]])
    found = summary(draws, levels=(0.0, 0.5, 1.0))
    assert found.mean.tolist() == [[4, 4]]
    assert found.median.tolist() == [[2, 4]]
    assert found.sd.tolist() == [[pytest.approx(np.std([0, 2, 10], ddof=1)), 0]]
    assert found.quantile.tolist() == [[[0, 4]], [[2, 4]], [[10, 4]]]
    assert not summary(draws[:1]).sd.any()
    with pytest.raises(ValueError, match="at least one draw"):
        summary(draws[:0])


def test_rubins_rules_by_hand() -> None:
    """Estimates 1, 2, 3 of variance 0.5 each: W = 0.5, B = 1, T = 0.5 + 4 / 3."""
    found = pool(torch.tensor([1.0, 2.0, 3.0]), torch.full((3,), 0.5))
    assert found.estimate.item() == 2
    assert found.within.item() == 0.5
    assert found.between.item() == 1
    assert found.variance.item() == pytest.approx(0.5 + 4 / 3)
    assert found.missing.item() == pytest.approx((4 / 3) / (0.5 + 4 / 3))
    assert found.freedom.item() == pytest.approx(2 * ((0.5 + 4 / 3) / (4 / 3)) ** 2)


def test_without_missing_data_rubin_is_the_plain_estimate() -> None:
    found = pool(torch.full((5, 2), 3.0), torch.tensor([[0.25, 0.0]]).expand(5, 2))
    assert found.variance.tolist() == [0.25, 0]
    assert found.missing.tolist() == [0, 0]
    assert found.freedom.isinf().all()


def test_rubin_covers_what_was_missing() -> None:
    """95 % intervals for a mean, from exact draws of the missing half, hold the truth in 95 %."""
    trials, n, m = 2000, 40, 5
    full = torch.randn(trials, n, generator=seeded(0), dtype=torch.float64)
    drawn = torch.randn(m, trials, n // 2, generator=seeded(1), dtype=torch.float64)
    seen = full[:, : n // 2]
    scale = seen.std(1, keepdim=True)
    centre = seen.mean(1, keepdim=True)
    shift = torch.randn(m, trials, 1, generator=seeded(2), dtype=torch.float64) * scale
    guess = centre + shift / (n // 2) ** 0.5 + drawn * scale  # proper: the mean is drawn, too
    complete = torch.cat([seen.expand(m, -1, -1), guess], 2)
    found = pool(complete.mean(2), complete.var(2) / n)
    inside = (found.estimate / found.variance.sqrt()).abs() < 2.0
    assert 0.92 < inside.double().mean().item() < 0.97


@pytest.mark.parametrize(
    ("estimates", "variances", "said"),
    [
        (torch.ones(1), torch.ones(1), "at least two imputations, got 1"),
        (torch.ones(3), -torch.ones(3), "not negative"),
        (torch.ones(3, 2), torch.ones(3, 1), "one variance"),
    ],
)
def test_what_rubin_cannot_pool_is_refused(estimates: Tensor, variances: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pool(estimates, variances)


def test_spread_of_draws_is_the_posteriors() -> None:
    """sd of conditional draws of one row against the exact posterior's, dimension by dimension."""
    x = toy.TOY.sample(1, generator=seeded(12)).expand(4000, 10)
    observed = torch.zeros(x.shape, dtype=torch.bool)
    observed[:, SEEN] = True
    plan, chance = moves(COSINE, 100), split(seeded(5), 4000)
    end = last(conditional(sees, x, observed, plan, births="poisson", chance=chance))
    found = summary(end[:, None]).sd[0]
    pmf = toy.TOY.missing_pmf(x[:1] * observed[:1], observed[:1].double(), 60)[0]
    k = torch.arange(61).double()
    exact = (pmf @ k.square() - (pmf @ k).square()).sqrt()
    missing = ~observed[0]
    assert largest(found[missing] / exact[missing], torch.ones(6).double()) < 0.1
