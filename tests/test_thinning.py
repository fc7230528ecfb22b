"""Thinning of counts: schedules, exact laws, grids, and the draws that all of it stands on."""

from itertools import pairwise
from math import exp, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from small import largest, untouched_global_chance
from torch import Tensor

from sed_core.chance import offspring, seeded, split, uniform
from sed_core.inversion import binomial, poisson, rounded_binomial
from sed_core.schedules import Cosine, Schedule
from sed_core.thinning import (
    SURVIVAL,
    Blackout,
    FisherInformation,
    Jump,
    Survival,
    bridge,
    bridge_probability,
    check_survival,
    death_rate,
    fisher_bound,
    log_odds,
    survival,
    survival_grid,
    survival_schedule,
    thin,
    time_of,
    transition,
    transition_probability,
)

every_schedule = pytest.mark.parametrize("schedule", SURVIVAL.values(), ids=SURVIVAL)
probability = st.floats(1e-9, 1)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# draws by inversion -----------------------------------------------------------------------------

CELLS = 20_000


def cells() -> Tensor:
    """The middles of equal cells of [0, 1): drawn at each, a law shows to one cell a boundary."""
    return (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS


def furthest(found: Tensor, law: np.ndarray) -> float:
    """Largest difference to a probability mass function, in cells."""
    share = np.bincount(found.numpy(), minlength=len(law)) / CELLS
    assert len(share) == len(law), "an outcome that can't be"
    return CELLS * np.abs(share - law).max()


@given(st.integers(0, 300), probability)
def test_binomial_draws_follow_their_law(n: int, p: float) -> None:
    found = binomial(torch.full((CELLS,), n), double(p), cells())
    assert furthest(found, stats.binom.pmf(np.arange(n + 1), n, p)) < 2


@pytest.mark.parametrize(("n", "p"), [(20_000, 0.5), (100_000, 0.001), (1_000_000, 1e-7)])
def test_binomial_draws_of_large_counts(n: int, p: float) -> None:
    found = binomial(torch.full((CELLS,), n), double(p), cells())
    assert furthest(found, stats.binom.pmf(np.arange(int(found.max()) + 1), n, p)) < 2


@given(st.floats(0, 400))
def test_poisson_draws_follow_their_law(rate: float) -> None:
    found = poisson(torch.full((CELLS,), rate, dtype=torch.float64), cells())
    assert furthest(found, stats.poisson.pmf(np.arange(int(found.max()) + 1), rate)) < 2


@given(st.floats(0, 60), probability)
def test_a_rounded_binomial_mixes_the_two_neighbours(rate: float, p: float) -> None:
    found = rounded_binomial(torch.full((CELLS,), rate, dtype=torch.float64), double(p), cells())
    whole, k = int(rate), np.arange(int(rate) + 2)
    up = rate - whole
    law = (1 - up) * stats.binom.pmf(k, whole, p) + up * stats.binom.pmf(k, whole + 1, p)
    assert furthest(found, law) < 4


@pytest.mark.parametrize(("rate", "p"), [(30.3, 0.05), (7.9, 0.3), (200.5, 0.4), (3.5, 0.9)])
def test_a_rate_that_differs_a_little_hardly_changes_a_draw(rate: float, p: float) -> None:
    """Floats round differently in other batches, and a sample should not go another way for it."""
    n, away = 300_000, 1e-4
    u = torch.rand(n, generator=seeded(1), dtype=torch.float64)
    a, b = (
        rounded_binomial(torch.full((n,), at, dtype=torch.float64), torch.tensor(p), u)
        for at in (rate, rate * (1 + away))
    )
    moved = (a != b).double().mean().item()
    assert moved < 8 * away * rate * p  # borders of outcomes move by about the change of the mean


@pytest.mark.parametrize("n", [0, 1, 5, 10**6])
def test_certain_draws_are_certain(n: int) -> None:
    u = double(0.0, 0.5, 1 - 2**-53)
    assert torch.equal(binomial(torch.full((3,), n), double(1.0), u), torch.full((3,), n))
    assert not binomial(torch.full((3,), n), double(0.0), u).any()
    assert not poisson(torch.zeros(3), u).any()


def test_entries_are_drawn_independently_of_their_neighbours() -> None:
    n, p, u = (
        torch.tensor([[3, 50], [0, 900]]),
        double(0.2, 0.7)[:, None],
        torch.rand(2, 2).double(),
    )
    whole = binomial(n, p, u)
    for row in range(2):
        for column in range(2):
            one = binomial(n[row, column][None], p[row], u[row, column][None])
            assert one.item() == whole[row, column].item()


def test_uniforms_of_a_row_are_its_own() -> None:
    whole = uniform(split(seeded(7), 5), 4, dtype=torch.float64)
    alone = uniform(split(seeded(7), 3)[2:], 4, dtype=torch.float64)
    assert torch.equal(whole[2], alone[0])
    assert whole.dtype == torch.float64


def test_offspring_leave_their_parent_where_it_is() -> None:
    parent = seeded(3)
    before = parent.get_state()
    first, second = (torch.rand(4, generator=child) for child in offspring(parent, 2))
    assert torch.equal(parent.get_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.rand(4, generator=offspring(seeded(3), 9)[0]))


# the forward process ------------------------------------------------------------------------------


@pytest.mark.parametrize("x0", [0, 1, 7, 1000])
def test_moments_of_the_forward_process(x0: int) -> None:
    n = 200_000
    for k, t in enumerate(np.linspace(0.1, 0.9, 9)):
        p = survival(Cosine(0.0), float(t))
        x_t = thin(torch.full((1, n), x0), p, generator=seeded(k)).double()
        variance = p * (1 - p) * x0
        assert abs(x_t.mean().item() - p * x0) <= 5 * sqrt(variance / n)
        if x0 >= 7:
            assert x_t.var().item() == pytest.approx(variance, rel=0.03)
        assert 0 <= x_t.min() <= x_t.max() <= x0


@every_schedule
def test_two_thinnings_are_one(schedule: Schedule) -> None:
    """Bin(Bin(x0, p_s), p_t / p_s) = Bin(x0, p_t), as sums of probabilities."""
    for s, t in [(0.0, 0.3), (0.2, 0.7), (0.5, 1.0), (1.0, 1.0)]:
        p_s, p_t = survival(schedule, s), survival(schedule, t)
        kept = transition_probability(double(p_s), double(p_t)).item()
        k = np.arange(41)
        twice = stats.binom.pmf(k, 40, p_s) @ stats.binom.pmf(k, k[:, None], kept)
        assert np.abs(twice - stats.binom.pmf(k, 40, p_t)).max() < 1e-12


@every_schedule
def test_the_bridge_leads_to_the_marginal(schedule: Schedule) -> None:
    """x_t + Bin(x0 - x_t, (p_s - p_t) / (1 - p_t)) = Bin(x0, p_s), as sums of probabilities."""
    for s, t in [(0.0, 0.3), (0.2, 0.7), (0.5, 1.0), (0.0, 0.0)]:
        p_s, p_t = survival(schedule, s), survival(schedule, t)
        alive = bridge_probability(double(p_s), double(p_t)).item()
        k = np.arange(41)
        births = stats.binom.pmf(k - k[:, None], 40 - k[:, None], alive)
        found = stats.binom.pmf(k, 40, p_t) @ births
        assert np.abs(found - stats.binom.pmf(k, 40, p_s)).max() < 1e-12


@pytest.mark.parametrize("move", ["transition", "bridge"])
def test_drawn_moves_have_the_law_of_their_end(move: str) -> None:
    x0, n = torch.tensor([[9], [30]]).expand(2, 100_000), 100_000
    p_s, p_t = double(0.8, 0.5), double(0.3, 0.05)  # one a row
    if move == "transition":
        start, end = thin(x0, p_s, generator=seeded(0)), p_t
        x = transition(start, p_s, p_t, generator=seeded(1))
        assert bool((x <= start).all())
    else:
        start, end = thin(x0, p_t, generator=seeded(0)), p_s
        x = bridge(start, x0, p_s, p_t, generator=seeded(1))
        assert bool(((x >= start) & (x <= x0)).all())
    for row in range(2):
        law = stats.binom.pmf(np.arange(31), int(x0[row, 0]), end[row].item())
        share = np.bincount(x[row].numpy(), minlength=31) / n
        assert np.all(np.abs(share - law) <= 5 * np.sqrt(law * (1 - law) / n))


def test_from_the_empty_state_noise_leads_nowhere() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.int64)
    assert not transition(nothing, 0.0, 0.0, generator=seeded(0)).any()  # not 0 / 0


def test_a_row_is_thinned_the_same_alone() -> None:
    x0 = torch.arange(60).reshape(6, 10)
    with untouched_global_chance():
        whole = thin(x0, 0.4, generator=seeded(7))
    assert torch.equal(thin(x0[4:5], 0.4, generator=split(seeded(7), 5)[4:])[0], whole[4])


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_no_probability_is_refused(p: Survival) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        thin(torch.ones(1, 2, dtype=torch.int64), p, generator=seeded(0))


def test_time_that_runs_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match="swap them"):
        transition(torch.ones(1, 2, dtype=torch.int64), 0.2, 0.5, generator=seeded(0))


# schedules ----------------------------------------------------------------------------------------


@every_schedule
def test_a_schedule_keeps_the_contract(schedule: Schedule) -> None:
    check_survival(schedule)
    p = schedule(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert p[0] >= 1 - 1e-6
    assert p[-1] <= 1e-6
    assert bool((p.diff() < 0).all())


@every_schedule
@given(st.floats(0.002, 0.998))
def test_the_death_rate_is_the_slope(schedule: Schedule, t: float) -> None:
    h = 1e-6
    around = schedule(double(t - h, t + h))
    wanted = (around[0] - around[1]).item() / (2 * h)
    assert death_rate(schedule, double(t)).item() == pytest.approx(wanted, rel=1e-4)


@every_schedule
def test_the_death_rate_integrates_to_all(schedule: Schedule) -> None:
    rate = lambda t: death_rate(schedule, double(t)).item()  # noqa: E731
    total, _ = integrate.quad(rate, 0, 1, points=[0.001])  # Blackout's kink
    assert total == pytest.approx(1, abs=1e-6)


def test_cosine_is_the_squared_cosine() -> None:
    schedule = SURVIVAL["cosine"]
    assert abs(survival(schedule, 0.5) - 0.5) < 1e-12
    t = double(0.1, 0.5, 0.9)
    assert largest(death_rate(schedule, t), torch.pi / 2 * torch.sin(torch.pi * t)) < 1e-12
    assert largest(log_odds(schedule(t)), -2 * torch.tan(torch.pi * t / 2).log()) < 1e-12


def test_fisher_information_is_linear_in_log_odds() -> None:
    bound = fisher_bound(15.0)
    assert bound == pytest.approx(14.9999997, abs=1e-7)
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    found = FisherInformation()(t)
    assert largest(torch.logit(found), bound * (1 - 2 * t)) < 1e-9
    assert largest(death_rate(FisherInformation(), t), 2 * bound * found * (1 - found)) < 1e-12
    assert FisherInformation()(double(1.0)).item() == pytest.approx(exp(-15), rel=1e-6)


def test_blackout_is_its_own_grid() -> None:
    k = torch.arange(1, 1001, dtype=torch.float64)
    wanted = torch.sigmoid(fisher_bound(15.0) * (1 - 2 * (k - 1) / 999))
    assert largest(Blackout()(k / 1000), wanted) < 1e-12
    assert Blackout()(double(0.0)).item() == 1


def test_jump_is_the_product_of_its_betas() -> None:
    """beta_T is solved for such that p(1) = e^-22; log-products agree to 1e-6 at every k / T."""
    low, high = 0.0, 1.0
    for _ in range(80):
        last = (low + high) / 2
        log_p = np.log1p(-np.linspace(1e-4, last, 1000)).cumsum() / 2
        low, high = (last, high) if log_p[-1] > -22 else (low, last)
    k = torch.arange(1, 1001, dtype=torch.float64)
    assert largest(Jump()(k / 1000).log(), torch.from_numpy(log_p)) < 1e-6


@every_schedule
def test_the_ends_of_a_run_are_exact(schedule: Schedule) -> None:
    assert survival(schedule, 0.0) == 1
    assert survival(schedule, 1.0) == 0


def test_log_odds_are_finite_everywhere() -> None:
    assert log_odds(double(0.0, 0.5, 1.0)).tolist() == [-15, 0, 15]


def test_ones_own_schedule_is_welcome() -> None:
    square: Schedule = lambda t: 1 - t**2  # noqa: E731
    assert survival_schedule(square) is square
    assert survival_schedule("fi") is SURVIVAL["fi"]


BAD_SCHEDULES = {
    "everything must be dead": Cosine(0.5),
    "falls from 1 to 0": lambda t: 0.9 * (1 - t),
    "does not at t = 0.5": lambda t: torch.where(t < 0.5, 1 - t, (1 - t).clamp_max(0.4)),
    "one finite probability": lambda t: (1 - t)[:3],
    "finite": lambda t: (0.5 - t).sqrt(),
}


@pytest.mark.parametrize("said", BAD_SCHEDULES)
def test_what_is_no_schedule_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        survival_schedule(BAD_SCHEDULES[said])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="cosine, shifted, fi, blackout"):
        survival_schedule("quadratic")


# grids --------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("spacing", ["t", "log_odds"])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 1000])
def test_a_grid_has_one_move_a_network_evaluation(schedule: Schedule, spacing, steps: int) -> None:
    moves = survival_grid(schedule, steps, spacing=spacing)
    assert len(moves) == steps
    assert moves[0][0] == 1
    assert moves[-1][1] == 0
    assert all(t > s for t, s in moves)
    assert all(a[1] == b[0] for a, b in pairwise(moves))


@every_schedule
def test_a_grid_in_log_odds_is_even_and_the_same_for_all(schedule: Schedule) -> None:
    moves = survival_grid(schedule, 20, spacing="log_odds")
    inner = log_odds(schedule(double(*(s for _, s in moves[:-1]))))
    gaps = inner.diff()
    assert largest(gaps, torch.full_like(gaps, gaps.mean().item())) < 1e-6
    ends = survival_grid(SURVIVAL["cosine"], 20)[0][1], survival_grid(SURVIVAL["cosine"], 20)[-1][0]
    assert largest(inner[[0, -1]], log_odds(SURVIVAL["cosine"](double(*ends)))) < 1e-6


@every_schedule
def test_time_of_inverts_a_schedule(schedule: Schedule) -> None:
    p = double(0.001, 0.3, 0.5, 0.99)
    assert largest(schedule(time_of(schedule, p)), p) < 1e-12


def test_a_bad_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        survival_grid(Cosine(0.0), 0)
