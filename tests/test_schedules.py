"""Schedules: from clean to noise, without a turn."""

from math import pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sed_core.schedules import SCHEDULES, Cosine, Linear, Schedule, log_snr, slope

GRID = torch.linspace(0, 1, 2001, dtype=torch.float64)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
def test_falls_strictly_from_one_to_zero(schedule: Schedule) -> None:
    alpha_bar = schedule(GRID)
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[0] == pytest.approx(1, abs=2e-4)
    assert 0 <= alpha_bar[-1] < 1e-4


def test_ends_of_the_cosine() -> None:
    assert Cosine()(GRID)[0] == pytest.approx(0.99984, abs=1e-5)
    assert Cosine()(GRID)[-1] < 1e-6


def test_log_snr_of_the_cosine_is_the_formula_of_bit_diffusion() -> None:
    t = GRID[(GRID >= 0.01) & (GRID <= 0.99)]
    formula = -torch.log(torch.cos((t + 0.008) / 1.008 * pi / 2) ** -2 - 1)
    assert torch.allclose(log_snr(Cosine(), t), formula, atol=1e-9)
    assert torch.allclose(torch.sigmoid(log_snr(Cosine(), t)), Cosine()(t), atol=1e-6)


def test_log_snr_of_the_linear_is_the_formula_of_bit_diffusion() -> None:
    t = GRID[(GRID >= 0.01) & (GRID <= 0.99)]
    formula = -torch.log(torch.expm1(1e-4 + 10 * t**2))
    assert torch.allclose(log_snr(Linear(), t), formula, atol=1e-9)


@every_schedule
@given(st.floats(0.01, 0.99))
def test_slope_is_the_finite_difference(schedule: Schedule, t: float) -> None:
    at, h = torch.tensor([t], dtype=torch.float64), 1e-5
    difference = (schedule(at + h) - schedule(at - h)) / (2 * h)
    assert slope(schedule, at).item() == pytest.approx(difference.item(), abs=1e-7)


def test_slope_leaves_grad_mode_and_its_argument_alone() -> None:
    t = torch.tensor([0.5])
    with torch.no_grad():
        found = slope(Cosine(), t)
        assert not torch.is_grad_enabled()
    assert not t.requires_grad
    assert not found.requires_grad
