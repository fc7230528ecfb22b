"""CountsDiff: reverse steps against exact laws, the loss against closed forms, and the model."""

from itertools import pairwise
from math import sqrt
from typing import Any

import count_laws as laws
import numpy as np
import pytest
import torch
from count_laws import K, tv
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small import counts, countsdiff, largest, untouched_global_chance
from torch import Tensor

from sed_core.births import (
    Bounds,
    birth_probability,
    bounded,
    check_attrition,
    draw_births,
    largest_attrition,
    moves,
    reverse,
    reverse_step,
)
from sed_core.chance import seeded, split
from sed_core.counts_networks import (
    NOISED,
    SHOWN,
    UNKNOWN,
    log_softplus,
    picture_features,
    vector_features,
)
from sed_core.countsdiff import (
    CountsConfig,
    CountsDiff,
    Vocabulary,
    bregman,
    elbo,
    guided,
    nll_weight,
)
from sed_core.domains import toy
from sed_core.limits import one_of
from sed_core.metrics.counts import counts_mmd
from sed_core.metrics.distance import sliced_w2
from sed_core.schedules import Schedule
from sed_core.stream import last, record
from sed_core.thinning import SURVIVAL, death_rate, survival_grid
from sed_core.training import Batches, fit, shuffled

COSINE = SURVIVAL["cosine"]
TARGET = laws.target()
ATTRITIONS: list[Any] = [
    ("none", 0.0),
    ("rescaled", 0.02),
    ("rescaled", 0.5),
    ("rescaled", 1.0),
    ("capped", 0.05),
    ("rate", 5.0),
    ("max", 0.0),
]
every_schedule = pytest.mark.parametrize("schedule", SURVIVAL.values(), ids=SURVIVAL)
every_attrition = pytest.mark.parametrize(("attrition", "strength"), ATTRITIONS)
every_network = pytest.mark.parametrize("network", ["mlp", "genes", "unet", "cells"])


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def wide(network: str) -> int:
    """Dimensions of a small model of that network."""
    return 64 if network == "unet" else 10


# what a step does to a unit -----------------------------------------------------------------------


@every_schedule
@every_attrition
@pytest.mark.parametrize("steps", [1, 5, 19, 20, 1000])
def test_attrition_and_births_keep_the_marginal(
    schedule: Schedule, attrition, strength: float, steps: int
) -> None:
    for spacing in ("t", "log_odds"):
        plan = moves(
            schedule,
            steps,
            spacing=spacing,
            attrition=attrition,
            strength=strength,  # type: ignore
        )
        assert len(plan) == steps
        for m in plan:
            assert 0 <= m.sigma <= largest_attrition(m.p_t, m.p_s)
            assert 0 <= m.beta <= 1
            raw = (m.p_s - (1 - m.sigma) * m.p_t) / (1 - m.p_t)
            assert abs(raw - m.beta) < 1e-12  # what was clipped is rounding
            assert abs(m.p_t * (1 - m.sigma) + (1 - m.p_t) * m.beta - m.p_s) < 1e-12


def test_kinds_of_attrition_are_what_they_say() -> None:
    at = lambda kind, strength: moves(COSINE, 10, attrition=kind, strength=strength)  # noqa: E731
    biggest = [m.sigma for m in at("max", 0.0)]
    assert [m.sigma for m in at("none", 1.0)] == [0] * 10
    assert [m.sigma for m in at("rescaled", 0.3)] == pytest.approx([0.3 * m for m in biggest])
    assert [m.sigma for m in at("capped", 0.3)] == [min(0.3, m) for m in biggest]
    hazard = 1 - np.exp(-2 * 0.1)
    assert [m.sigma for m in at("rate", 2.0)] == pytest.approx([min(hazard, m) for m in biggest])
    assert biggest == [largest_attrition(m.p_t, m.p_s) for m in at("none", 0.0)]


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_true_births_push_the_marginal_on(a: float, b: float, share: float) -> None:
    """Bin(x0, p_t) through survivors and births with the true x0 is Bin(x0, p_s)."""
    p_t, p_s = min(a, b), max(a, b)
    sigma, x0 = share * largest_attrition(p_t, p_s), 30
    beta = birth_probability(p_t, p_s, sigma)
    x = np.arange(x0 + 1)
    kept = stats.binom.pmf(x, x[:, None], 1 - sigma)
    born = stats.binom.pmf(x, x0 - x[:, None], beta)
    found = stats.binom.pmf(x, x0, p_t) @ [np.convolve(kept[k], born[k])[: x0 + 1] for k in x]
    assert tv(found, stats.binom.pmf(x, x0, p_s)) < 1e-12


@pytest.mark.parametrize(
    ("kind", "strength"), [("rescaled", 1.5), ("capped", -0.1), ("rate", float("nan"))]
)
def test_no_attrition_is_refused(kind: str, strength: float) -> None:
    with pytest.raises(ValueError, match=f"strength of {kind}"):
        check_attrition(kind, strength)
    with pytest.raises(ValueError, match="none, rescaled, rate, capped, max"):
        check_attrition("some", 0.0)


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="births must be one of stochastic, poisson, got 'normal'"):
        one_of("births", "normal", ("stochastic", "poisson"))


# terminal laws ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "fi", "jump", "sigmoid"])
@every_attrition
@pytest.mark.parametrize("steps", [5, 20])
def test_the_posterior_leads_to_the_target(
    schedule: str, attrition, strength: float, steps: int
) -> None:
    plan = moves(SURVIVAL[schedule], steps, attrition=attrition, strength=strength)
    assert tv(laws.run(TARGET, plan), TARGET) < 1e-10


def test_the_posterior_leads_to_the_target_in_fifty_steps_of_a_grid_in_log_odds() -> None:
    plan = moves(COSINE, 50, spacing="log_odds", attrition="rescaled", strength=0.5)
    assert tv(laws.run(TARGET, plan), TARGET) < 1e-10


def distance(kind: str, steps: int, **options: Any) -> float:
    return tv(laws.run(TARGET, moves(COSINE, steps, **options), kind), TARGET)


def test_the_mean_converges_at_first_order() -> None:
    found = {steps: distance("stochastic", steps) for steps in (50, 100, 200, 500)}
    assert found[200] < 0.008
    assert found[500] < 0.003
    assert 1.8 < found[100] / found[200] < 2.2
    assert max(steps * far for steps, far in found.items()) < 1.3


def test_poisson_births_are_closer_for_counts_that_spread() -> None:
    assert distance("poisson", 100) < 0.011
    assert distance("poisson", 100) < 0.9 * distance("stochastic", 100)
    assert distance("binomial", 100) <= distance("stochastic", 100)


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_poisson_births_are_exact_for_poisson_data(steps: int) -> None:
    law = laws.poisson_law(6.0)
    assert tv(laws.run(law, moves(COSINE, steps), "poisson"), law) < 1e-10


def test_rounding_to_the_nearest_would_not_converge() -> None:
    """Why it is not among the births."""
    assert distance("nearest", 500) > 0.05


def test_attrition_with_a_mean_oracle_only_hurts() -> None:
    far = [distance("stochastic", 100, attrition="rescaled", strength=e) for e in (0, 0.1, 0.5, 1)]
    assert far == sorted(far)
    assert far[-1] > 0.2


def test_a_hazard_of_attrition_converges() -> None:
    """Given per step, attrition grows with the number of steps; as a rate it does not."""
    far = [distance("stochastic", n, attrition="rate", strength=5.0) for n in (50, 100, 200)]
    assert all(1.7 < a / b < 2.2 for a, b in pairwise(far)), far


def test_attrition_mends_errors_of_the_state() -> None:
    """Four counts too many at t = 0.6: the more attrition, the less is left of them in the end."""
    errors = []
    for strength in (0.0, 0.02, 0.1, 0.3):
        rest = moves(COSINE, 100, attrition="rescaled", strength=strength)[40:]
        assert rest[0].t == pytest.approx(0.6)
        q = np.append(np.zeros(4), TARGET @ laws.binomials(rest[0].p_t))[: len(K)]
        for move in rest:
            q = q @ laws.step(TARGET, move)
        errors.append(float(q @ K - TARGET @ K))
    assert errors[0] == pytest.approx(10.3, abs=0.3)
    assert all(a > b + 0.2 for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [5, 50])
def test_guided_poisson_rates_lead_to_the_geometric_mean(guidance: float, steps: int) -> None:
    """x0 | c ~ Poisson(8), x0 ~ Poisson(3): the end is Poisson(8^g 3^(1 - g)), exactly."""
    q = (K == 0).astype(float)
    for move in moves(COSINE, steps):
        dead = 1 - move.p_t
        rates = (torch.full((len(K), 1), mean * dead).log() for mean in (8.0, 3.0))
        rate = guided(*rates, guidance).exp().double().squeeze(1).numpy()
        q = q @ laws.kernel(laws.births("poisson", rate, move.beta), move.sigma)
    wanted = laws.poisson_law(8**guidance * 3 ** (1 - guidance))
    assert tv(q, wanted) < 1e-5  # rates are float32


# draws of a step ----------------------------------------------------------------------------------

CELLS = 40_000


@pytest.mark.parametrize("kind", ["stochastic", "binomial", "poisson"])
@pytest.mark.parametrize("beta", [0.02, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.3, 2.0, 7.6, 31.25])
def test_births_follow_their_law(kind, beta: float, rate: float) -> None:
    u = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
    found = draw_births(kind, torch.full((1, CELLS), rate), beta, u[None])
    share = np.bincount(found[0].numpy(), minlength=len(K)) / CELLS
    assert CELLS * np.abs(share - laws.births(kind, np.array([rate]), beta)[0]).max() < 4


def test_stochastic_rounding_keeps_the_mean_and_whole_numbers() -> None:
    z, n = torch.tensor([0.0, 0.3, 1.5, 4.0, 9.99]), 1_000_000
    u = torch.rand(n, generator=seeded(0), dtype=torch.float64)
    for value in z:
        found = draw_births("stochastic", value.expand(1, n), 1.0, u[None]).double()
        spread = sqrt((value - value.floor()) * (value.ceil() - value))
        assert abs(found.mean() - value.double()) <= 5 * spread / sqrt(n)
        assert spread or bool((found == value).all())


def table(law: laws.Array) -> Any:
    """A rate that looks the exact one up."""
    return lambda x_t, p_t: torch.from_numpy(laws.rate(law, p_t))[x_t]


@pytest.mark.parametrize("births", ["stochastic", "binomial", "poisson"])
@pytest.mark.parametrize("attrition", ["none", "max"])
def test_a_step_follows_its_kernel(births, attrition) -> None:
    move, n = moves(COSINE, 10, attrition=attrition)[5], 40_000
    x_t = torch.tensor([[0], [3], [17]]).expand(3, n)
    change = reverse_step(table(TARGET), x_t, move, births=births, chance=split(seeded(0), 3))
    assert torch.equal(change.x, x_t + change.births - change.deaths)
    kernel = laws.step(TARGET, move, births)
    for row, start in zip(change.x, (0, 3, 17), strict=True):
        law = kernel[start]
        share = np.bincount(row.numpy(), minlength=len(K)) / n
        assert np.all(np.abs(share - law) <= 5 * np.sqrt(law * (1 - law) / n) + 1e-12)


@pytest.mark.parametrize(("births", "strength"), [("stochastic", 0.0), ("poisson", 0.1)])
def test_a_whole_run_follows_the_propagated_law(births, strength: float) -> None:
    n, plan = 100_000, moves(COSINE, 20, attrition="rescaled", strength=strength)
    x = torch.zeros(1, n, dtype=torch.int64)
    end = last(reverse(table(TARGET), x, plan, births=births, chance=[seeded(4)]))
    law = laws.run(TARGET, plan, births)
    share = np.bincount(end[0].numpy(), minlength=len(K)) / n
    noise = 0.5 * np.sqrt(2 / np.pi) * np.sqrt(law * (1 - law) / n).sum()
    assert tv(share, law) < 1.5 * noise  # the mean is 1 x noise, its sd a tenth of that
    assert tv(share, TARGET) > 3 * noise  # so this sees a difference of the size of 20 steps' error


def test_small_rates_are_not_lost() -> None:
    plan = moves(COSINE, 100)
    x = torch.zeros(1, 20_000, dtype=torch.int64)
    end = last(reverse(lambda x_t, _: torch.full(x_t.shape, 0.3), x, plan, chance=[seeded(0)]))
    wanted = 0.3 * sum(move.beta for move in plan)
    assert end.double().mean().item() == pytest.approx(wanted, rel=0.05)


# bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("births", ["stochastic", "binomial", "poisson"])
def test_no_count_passes_the_largest(births) -> None:
    wild: Any = lambda x_t, _: torch.full(x_t.shape, 1e4)  # noqa: E731
    x, bounds = torch.zeros(2, 50, dtype=torch.int64), Bounds(largest=9)
    plan = moves(COSINE, 8, attrition="rescaled", strength=0.5)
    steps = record(
        reverse(wild, x, plan, births=births, bounds=bounds, chance=split(seeded(0), 2))
    ).steps
    before = x
    for step in steps:
        assert 0 <= step.x.min() <= step.x.max() <= 9
        assert torch.equal(step.x, before + step.aux["births"] - step.aux["deaths"])
        assert bool((step.aux["births"] >= 0).all())
        before = step.x
    assert births == "poisson" or bool((before == 9).all())
    assert before.double().mean() > 7


def test_the_guard_cuts_off_and_warns() -> None:
    x = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.warns(UserWarning, match="cut off at the guard of 100"):
        found = bounded(torch.tensor([[5.0, 1e9]]), x, Bounds(guard=100))
    assert found.tolist() == [[5, 100]]


def test_a_rate_that_is_no_number_is_refused() -> None:
    x = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(FloatingPointError, match="not finite"):
        bounded(torch.tensor([[5.0, float("nan")]]), x, Bounds())


# loss ---------------------------------------------------------------------------------------------


def test_the_loss_is_least_at_the_mean() -> None:
    y = torch.tensor([0.0, 1.0, 1.0, 4.0, 9.0], dtype=torch.float64)
    log_rate = y.mean().log().expand(5).clone().requires_grad_()
    bregman(y, log_rate).mean().backward()
    assert log_rate.grad is not None
    assert abs(log_rate.grad.sum().item()) < 1e-6


@given(st.integers(0, 1000), st.floats(-20, 8))
def test_the_normalised_loss_is_zero_at_perfection_only(y: int, log_rate: float) -> None:
    found = bregman(double(y), double(log_rate)).item()
    assert found >= -1e-9 * max(1, y)
    if y:
        assert abs(bregman(double(y), double(y).log()).item()) < 1e-9 * y
    if abs(np.exp(log_rate) - y) > 0.01 * max(1, y):
        assert found > 1e-6 * max(1, y)


def test_the_loss_of_one_schedule_is_that_of_another() -> None:
    """With w = -p' the objective is an integral over p."""
    losses = []
    for training in ("cosine", "fi", "linear"):
        model = countsdiff(training=training, observed_rows=0.0)
        x = torch.full((40_000, 10), 4)
        losses.append(model.loss(x, generator=seeded(0)).total.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[2] == pytest.approx(losses[0], rel=0.02)


def test_the_nll_weight_of_the_cosine() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    wanted = torch.pi / torch.tan(torch.pi * t / 2)
    assert largest(nll_weight(COSINE, t) / wanted, torch.ones_like(t)) < 1e-6


def test_the_nll_weight_reaches_the_loss() -> None:
    """A time weighs 1 / (1 - p) more."""
    slope, nll = (countsdiff(weight=weight, observed_rows=0.0) for weight in ("slope", "nll"))
    p, weight = slope._times(1000, seeded(0))
    found = nll._times(1000, seeded(0))[1] * (1 - p)
    assert largest(found / weight, torch.ones_like(found)) < 1e-5
    x = torch.full((2000, 10), 4)
    assert nll.loss(x, generator=seeded(0)).total > slope.loss(x, generator=seeded(0)).total


def test_times_are_spread_evenly_and_hit_the_weight() -> None:
    p, weight = countsdiff(training="cosine")._times(64, seeded(0))
    t = (2 / torch.pi) * p.sqrt().acos()
    assert torch.equal((t * 64).floor().sort().values, torch.arange(64).double())
    assert largest(weight.double(), death_rate(COSINE, t)) < 1e-5


def test_raw_and_normalised_loss_differ_by_what_has_no_rate() -> None:
    model, x = countsdiff(observed_rows=0.0).requires_grad_(True), counts()
    gradients = []
    for part in ("bregman", "poisson"):
        model.zero_grad()
        found = model.loss(x, label=1, generator=seeded(2))
        found.parts[part].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore
    assert found.parts["bregman"] is found.total
    assert found.total >= 0
    assert largest(*gradients) < 1e-4 * gradients[0].abs().max().item()


def test_unknown_entries_are_neither_seen_nor_guessed() -> None:
    model, x = countsdiff(), counts()
    observed = torch.rand(x.shape, generator=seeded(5)) < 0.6
    noise = torch.where(observed, x, 9)
    a, b = (model.loss(v, observed=observed, generator=seeded(0)).total for v in (x, noise))
    assert torch.equal(a, b)
    assert not torch.equal(a, model.loss(x, generator=seeded(0)).total)


def test_shown_entries_are_not_guessed() -> None:
    """With everything shown there is nothing left to lose."""
    model = countsdiff(observed_rows=1.0)
    model._roles = lambda x0, *_: torch.full(x0.shape, SHOWN)  # type: ignore[method-assign]
    assert model.loss(counts(), generator=seeded(0)).total == 0


def test_training_shows_some_entries_clean_and_thins_the_rest() -> None:
    model, x, seen = countsdiff(observed_rows=1.0), counts(rows=500) + 5, list[Tensor]()
    model.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.loss(x, generator=seeded(0))
    logs, role = seen[0].unbind(1)
    clean = x.double().log1p().float()
    assert torch.equal(logs[role == SHOWN], clean[role == SHOWN])
    assert bool((logs <= clean).all())
    share = logs[role == NOISED].double().expm1().sum() / x[role == NOISED].sum()
    assert share.item() == pytest.approx(0.5, abs=0.05)  # p is uniform


def test_roles_of_training() -> None:
    model, x = countsdiff(observed_rows=0.8), torch.zeros(20_000, 10, dtype=torch.int64)
    role = model._roles(x, None, seeded(0))
    share = (role == SHOWN).float().mean(1)
    assert (share == 0).float().mean().item() == pytest.approx(0.2 + 0.8 / 11, abs=0.02)
    assert (share == 1).float().mean().item() == pytest.approx(0.8 / 11, abs=0.01)
    assert not (countsdiff(observed_rows=0.0)._roles(x, None, seeded(0)) == SHOWN).any()


# likelihood ---------------------------------------------------------------------------------------


def test_the_bound_is_the_likelihood_for_an_oracle() -> None:
    """-elbo(x0) = -log P(x0) of every single count, where the rate is E[y | x_t]."""
    x0 = torch.tensor([0, 1, 3, 8, 25]).repeat_interleave(200)[:, None]

    def log_rate(x_t: Tensor, p: Tensor) -> Tensor:
        joint = _joint(x_t, p)
        mean = (joint * torch.arange(joint.shape[1])).sum(1, keepdim=True) / joint.sum(1)[:, None]
        return (mean - x_t).clamp_min(1e-30).log()

    def _joint(x_t: Tensor, p: Tensor) -> Tensor:
        return torch.from_numpy(
            TARGET * stats.binom.pmf(x_t.numpy(), K[None, :], p[:, None].numpy())
        )

    found = elbo(log_rate, x0, draws=64, chance=split(seeded(0), len(x0))).reshape(5, 200)
    error = found.std(1) / sqrt(200)
    wanted = torch.from_numpy(np.log(TARGET[[0, 1, 3, 8, 25]]))
    assert bool(((found.mean(1) - wanted).abs() < 5 * error + 1e-3).all()), (found.mean(1), wanted)
    assert bool((error < 0.2).all())


def test_the_bound_of_a_model() -> None:
    model, x = countsdiff(), counts()
    whole = model.elbo(x, label=1, draws=16, generator=seeded(0))
    assert whole.shape == (7,)
    assert bool((whole < 0).all())
    alone = model.elbo(x[4:5], label=1, draws=16, generator=split(seeded(0), 5)[4:])
    assert largest(whole[4:5], alone) < 1e-3


# the network --------------------------------------------------------------------------------------


@every_network
def test_rates_are_positive_and_vanish_where_nothing_is_missing(network: str) -> None:
    model = countsdiff(wide(network), network=network)
    x, role = counts(dim=wide(network)), torch.full((7, wide(network)), NOISED)
    label = torch.full((7,), 3)
    near, far = (
        model.log_rate(x, torch.full((7,), p, dtype=torch.float64), label, role).exp()
        for p in (1 - 1e-5, 0.0)
    )
    assert bool((far > 0).all())
    assert bool((near < 1e-2).all())


@every_network
def test_what_stands_at_unknown_entries_is_not_seen(network: str) -> None:
    dim = wide(network)
    model, role = countsdiff(dim, network=network), torch.full((3, dim), NOISED)
    role[:, 2] = UNKNOWN
    x, p = counts(rows=3, dim=dim), torch.full((3,), 0.4, dtype=torch.float64)
    other = x.clone()
    other[:, 2] = 77
    a, b = (model.log_rate(v, p, torch.tensor([0, 1, 2]), role) for v in (x, other))
    assert torch.equal(a, b)


def test_unknown_genes_are_no_tokens() -> None:
    """A model of which the last genes are unknown is the model without them."""
    model, x = countsdiff(6, network="genes"), counts(dim=6)
    role, p, label = torch.full((7, 6), NOISED), double(*[0.5] * 7), torch.full((7,), 3)
    role[:, 4:] = UNKNOWN
    found = model.log_rate(x, p, label, role)[:, :4]
    less = countsdiff(4, network="genes")
    state = model.state_dict()
    state["network.gene.weight"] = state["network.gene.weight"][:4]
    less.load_state_dict(state)
    assert largest(found, less.log_rate(x[:, :4], p, label, role[:, :4])) < 1e-5


def test_features_of_vectors() -> None:
    role = torch.tensor([[NOISED, SHOWN, UNKNOWN]])
    found = vector_features(torch.tensor([[0, 9, 5]]), role)
    assert largest(found, torch.tensor([[[0, np.log(10), 0], [0, 1, -1]]])) < 1e-6


def test_features_of_pictures() -> None:
    role = torch.tensor([[NOISED, SHOWN, UNKNOWN, NOISED]])
    found = picture_features(torch.tensor([[51, 255, 9, 0]]), double(0.4), role, 255)
    wanted = [[(51 - 51) / 255, 127.5 / 255, 0, -51 / 255], [np.log(52) / np.log(256), 1, 0, 0]]
    assert largest(found[0, :2], torch.tensor(wanted)) < 1e-6
    assert torch.equal(found[0, 2], role[0])


@given(st.floats(-200, 60))
def test_log_softplus_never_underflows(z: float) -> None:
    wanted = np.log(np.log1p(np.exp(np.longdouble(z)))) if z > -30 else z
    found = log_softplus(torch.tensor([z], dtype=torch.float64, requires_grad=True))
    assert found.item() == pytest.approx(float(wanted), rel=1e-9, abs=1e-9)
    assert torch.autograd.grad(found.sum(), found)[0].isfinite().all()


# labels and guidance ------------------------------------------------------------------------------


def test_guidance_one_is_conditional_and_zero_unconditional() -> None:
    model = countsdiff()
    role, label = torch.full((4, 10), NOISED), torch.tensor([0, 1, 2, 0])
    x, p = counts(rows=4), torch.full((4,), 0.3, dtype=torch.float64)
    unknown = torch.full((4,), 3)
    with torch.no_grad():
        conditional = model.log_rate(x, p, label, role).exp()
        plain = model.log_rate(x, p, unknown, role).exp()
    assert torch.equal(model.rate(label, 1.0, role)(x, 0.3), conditional)
    with pytest.warns(UserWarning, match="ignores the labels"):
        assert torch.equal(model.rate(label, 0.0, role)(x, 0.3), plain)
    mixed = model.rate(label, 2.0, role)(x, 0.3)
    assert largest(mixed / (conditional**2 / plain), torch.ones_like(mixed)) < 1e-4


@given(st.floats(0, 20))
def test_guidance_is_irrelevant_where_the_class_says_nothing(guidance: float) -> None:
    log_rate = torch.tensor([[-3.0, 0.0, 5.0]])
    assert largest(guided(log_rate, log_rate, guidance), log_rate) < 1e-6


def test_guidance_does_not_run_away() -> None:
    far = guided(torch.tensor([[30.0]]), torch.tensor([[-30.0]]), 2.0)
    assert far.item() == -30 + 2 * 10
    assert guided(torch.tensor([[30.0]]), torch.tensor([[-30.0]]), 0.5).item() == 0


def test_unknown_is_the_zero_vector_and_stays_so() -> None:
    torch.manual_seed(0)
    model = CountsDiff(CountsConfig(dim=4, width=8, layers=1, condition=6, classes=2))
    assert not model.label.weight[2].any()
    moves = fit(model, [counts(dim=4)] * 3, lr=0.1, generator=seeded(0), precision="float32")
    assert len(list(moves)) == 3
    assert not model.label.weight[2].any()


def test_labels_are_hidden_from_some_training_rows() -> None:
    always = countsdiff(label_dropout=1.0)
    a, b = (always.loss(counts(), label=c, generator=seeded(0)).total for c in (0, 2))
    never = countsdiff(label_dropout=0.0)
    c, d = (never.loss(counts(), label=c, generator=seeded(0)).total for c in (0, 2))
    assert torch.equal(a, b)
    assert not torch.equal(c, d)


def test_a_vocabulary_gives_the_same_numbers_to_every_split() -> None:
    names = Vocabulary(("B cell", "T cell", "monocyte"))
    assert names.numbers(["T cell", "monocyte"]).tolist() == [1, 2]  # a split without B cells
    assert names.numbers(["neuron", None, "B cell"]).tolist() == [3, 3, 0]
    with pytest.raises(ValueError, match="once"):
        Vocabulary(("a", "a"))


def test_an_unseen_category_is_unconditional() -> None:
    model = countsdiff(class_names="x\ny\nz")
    label = model.config.vocabulary.numbers(["w", "w"])
    options: Any = {"steps": 5, "guidance": 5.0}
    a = model.sample(2, **options, label=label, generator=seeded(0))
    assert torch.equal(a, model.sample(2, **options, generator=seeded(0)))
    assert not torch.equal(a, model.sample(2, **options, label=1, generator=seeded(0)))


# samples ------------------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("births", ["stochastic", "binomial", "poisson"])
def test_samples_are_counts(network: str, births) -> None:
    model = countsdiff(wide(network), network=network)
    for n in (1, 3):
        with untouched_global_chance():
            x = model.sample(n, steps=6, births=births, attrition="max", generator=seeded(n))
        assert x.dtype == torch.int64
        assert x.shape == (n, wide(network))
        assert x.min() >= 0
        assert x.any()
        if network == "unet":
            assert x.max() <= 255


def test_one_dimension_and_one_row_will_do() -> None:
    model = countsdiff(1)
    assert model.sample(1, steps=3, generator=seeded(0)).shape == (1, 1)
    assert model.loss(torch.zeros(1, 1, dtype=torch.int64), generator=seeded(0)).total.isfinite()


@every_network
@pytest.mark.parametrize("x", [torch.zeros(2, 64).long(), torch.full((1, 64), 255)])
def test_the_loss_of_rows_without_or_full_of_counts(network: str, x: Tensor) -> None:
    dim = wide(network)
    found = countsdiff(dim, network=network).loss(x[:, :dim], generator=seeded(0))
    assert found.total.isfinite()


def test_the_network_is_called_once_a_step() -> None:
    model, seen = countsdiff(), []
    model.network.register_forward_hook(lambda *args: seen.append(args))
    steps = record(model.stream(2, steps=7, label=1, guidance=2.0, generator=seeded(0))).steps
    assert len(seen) == len(steps) == 7
    assert [step.t for step in steps] == [s for _, s in survival_grid(COSINE, 7)]
    assert all(largest(s.x0, s.x0.clamp_min(0)) == 0 for s in steps if s.x0 is not None)


@every_network
def test_a_row_does_not_depend_on_its_batch(network: str) -> None:
    model = countsdiff(wide(network), network=network)
    options: Any = {"steps": 9, "attrition": "rescaled", "strength": 0.3}
    whole = model.sample(6, **options, label=1, guidance=2.0, generator=seeded(7))
    chance = split(seeded(7), 6)
    alone = model.sample(1, **options, label=1, guidance=2.0, generator=chance[4:5])
    assert torch.equal(alone[0], whole[4])
    chance = split(seeded(7), 6)[::-1]
    turned = model.sample(6, **options, label=1, guidance=2.0, generator=chance)
    assert torch.equal(turned.flip(0), whole)


def test_any_schedule_may_sample() -> None:
    """The oracle, trained to nothing, sampled on other schedules: mean and sliced W2 hold."""
    truth, other = (toy.TOY.sample(4000, generator=seeded(seed)) for seed in (0, 1))
    log_sw2 = lambda a: sliced_w2(  # noqa: E731
        a.double().log1p(), truth.double().log1p(), generator=seeded(0)
    )
    floor = log_sw2(other)
    for schedule in ("cosine", "fi"):
        plan = moves(SURVIVAL[schedule], 60)
        x, chance = torch.zeros(4000, 10, dtype=torch.int64), split(seeded(2), 4000)
        end = last(reverse(laws.toy_rate, x, plan, births="poisson", chance=chance))
        error = end.double().mean(0) / toy.TOY.mean - 1
        wide_enough = 5 * (toy.TOY.variance / 4000).sqrt() / toy.TOY.mean
        assert bool((error.abs() < torch.maximum(double(0.05), wide_enough)).all())
        assert log_sw2(end) < 1.5 * floor + 0.01
    assert countsdiff().sample(2, steps=3, schedule="fi", generator=seeded(0)).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_the_toy(seed: int) -> None:
    torch.manual_seed(seed)
    x = toy.load("train")
    model = CountsDiff(CountsConfig(dim=10, width=48, layers=1, condition=32))
    rows = shuffled(len(x), size=256, steps=1000, seed=seed)
    batches = Batches(rows, lambda chosen: x[chosen])
    for _ in fit(model, batches, lr=5e-3, ema=0.99, generator=seeded(seed), precision="float32"):
        pass
    found = model.sample(4000, steps=100, births="poisson", generator=seeded(seed))
    real = toy.load("validation")
    assert sliced_w2(found, real, generator=seeded(0)) < 0.45
    assert counts_mmd(found, real) < 0.004
    ratio = (found.double().var(0) / toy.TOY.variance)[toy.TOY.mean > 0.2]
    assert bool(((ratio - 1).abs() < 0.35).all()), ratio


# what comes in ------------------------------------------------------------------------------------

BAD_COUNTS = {
    "got -3 in row 1, column 2": lambda x: x.index_put(
        (torch.tensor(1), torch.tensor(2)), torch.tensor(-3)
    ),
    "5 in row 0, column 0": lambda x: x * 1.0 + 0.5 * (torch.arange(10) == 0),
    "got nan in row 0, column 1": lambda x: x + torch.tensor([0, torch.nan] + [0] * 8),
    "got inf": lambda x: x + torch.tensor([torch.inf] * 10),
    "rows of 10 counts": lambda x: x[:, :4],
    r"shape \(0, 10\)": lambda x: x[:0],
    "up to 12, got 13": lambda x: x.clamp_min(13),
}


@pytest.mark.parametrize("said", BAD_COUNTS)
def test_what_are_no_counts_is_refused(said: str) -> None:
    model = countsdiff(largest=12)
    for verb in (model.loss, model.elbo):
        with pytest.raises(ValueError, match=said):
            verb(BAD_COUNTS[said](counts()), generator=seeded(0))


def test_whole_floats_are_counts() -> None:
    model, x = countsdiff(), counts()
    a, b = (model.loss(v, generator=seeded(0)).total for v in (x, x.float()))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be"),
        ({"n": 0}, "number of samples"),
        ({"guidance": -1.0}, "guidance must be"),
        ({"label": 9}, "label must be"),
        ({"attrition": "rescaled", "strength": 3.0}, "strength of rescaled"),
        ({"schedule": lambda t: t}, "falls from 1 to 0"),
    ],
)
def test_bad_requests_are_refused_before_any_work(options: dict[str, Any], said: str) -> None:
    n = options.pop("n", 2)
    with pytest.raises(ValueError, match=said):
        countsdiff().stream(n, **options, generator=seeded(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 0}, "at least 1"),
        ({"unit": 0.0}, "unit above 0"),
        ({"observed_rows": 1.5}, "shares"),
        ({"network": "unet", "side": 3}, "square is 10"),
        ({"class_names": "a\nb"}, "3 classes"),
        ({"network": "unet", "dim": 9, "side": 3, "largest": 9}, "tile"),
    ],
)
def test_bad_configurations_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CountsDiff(CountsConfig(**{"dim": 10, "classes": 3, **options}))
