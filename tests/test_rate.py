"""Rate and distortion: an ideal denoiser pays what theory says, and nothing for what it knows."""

import itertools
from math import log, log2, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import untouched_global_chance
from torch import Tensor

from sed_core.chance import seeded
from sed_core.metrics.rate import rate_distortion
from sed_core.schedules import SCHEDULES, Cosine


def ideal(sd: float, schedule=None):
    """E[x0 | x_t] of x0 ~ N(0, sd^2)."""
    schedule = schedule or Cosine()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        ab = schedule(t.double())[:, None].to(x_t)
        return x_t * ab.sqrt() * sd**2 / (ab * sd**2 + 1 - ab)

    return denoise


def draw(rows: int, dim: int, sd: float, zeros: int = 0, seed: int = 0) -> Tensor:
    x = sd * torch.randn(rows, dim, generator=seeded(seed))
    x[:, :zeros] = 0
    return x


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("sd", [0.3, 1.0, 4.0])
def test_an_ideal_gaussian_denoiser_pays_the_mutual_information(name: str, sd: float) -> None:
    """0.5 log2(1 + sd^2 SNR(0)) bits a dimension, as the steps grow fine."""
    schedule = SCHEDULES[name]
    x = draw(1000, 20, sd)
    options = {"steps": 2000, "generator": seeded(1)}
    curve = rate_distortion(ideal(sd, schedule), schedule, x, x == 0, **options)
    ab = float(schedule(torch.tensor(0.0, dtype=torch.float64)))
    wanted = 0.5 * log2(1 + sd**2 * ab / (1 - ab))
    # the grid's last steps multiply SNR by up to 1.1, so the sum lies above the integral
    assert wanted < curve.nonzero.total / 20 < 1.04 * wanted
    assert curve.zero.total == 0


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_every_step_pays_half_the_rise_of_snr_times_the_error(steps: int) -> None:
    """Against the exact expectation sd^2 / (1 + sd^2 SNR) of the squared error."""
    sd, x = 0.7, draw(4000, 20, 0.7)
    curve = rate_distortion(ideal(sd), Cosine(), x, x == 0, steps=steps, generator=seeded(1))
    t = 1 - torch.arange(steps + 1).double() / steps
    ab = Cosine()(t)
    snr = ab / (1 - ab)
    error = sd**2 / (1 + sd**2 * snr[:-1])
    assert torch.allclose(curve.nonzero.rmse, error.sqrt(), rtol=0.02)  # 80,000 draws: 0.25 %
    spent = 0.5 * snr.diff() * error / log(2)
    wanted = torch.cat([torch.zeros(1).double(), spent.cumsum(0)[:-1]])
    assert torch.allclose(curve.nonzero.bits, wanted, rtol=0.02, atol=1e-9)
    assert curve.nonzero.total == pytest.approx(20 * spent.sum().item(), rel=0.02)
    assert torch.equal(curve.t, t[:-1])


def test_zeros_that_are_known_cost_nothing() -> None:
    x = draw(50, 12, 1.0, zeros=9)
    known = x != 0
    blind = ideal(1.0)

    def knowing(x_t: Tensor, t: Tensor) -> Tensor:
        return blind(x_t, t) * known

    options = {"steps": 30, "generator": seeded(1)}
    curve = rate_distortion(knowing, Cosine(), x, ~known, **options)
    assert curve.zero.total == 0
    assert (curve.zero.bits == 0).all() and (curve.zero.rmse == 0).all()
    assert curve.share_of_bits == 0
    assert curve.share_of_dimensions == 9 / 12
    assert curve.nonzero.total > 0
    unknowing = rate_distortion(blind, Cosine(), x, ~known, steps=30, generator=seeded(1))
    assert unknowing.zero.total > 0
    assert unknowing.nonzero.total == pytest.approx(curve.nonzero.total)


def test_a_perfect_guess_costs_nothing_at_all() -> None:
    x = draw(5, 6, 1.0, zeros=2)
    curve = rate_distortion(lambda x_t, t: x, Cosine(), x, x == 0, steps=10, generator=seeded(0))
    assert curve.zero.total == curve.nonzero.total == 0
    assert curve.share_of_bits == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_every_x_t_of_the_path_follows_the_forward_process(seed: int) -> None:
    """Mean sqrt(ab) x0 and variance 1 - ab at each time; neighbours share their noise."""
    seen: list[tuple[float, Tensor]] = []
    x = torch.full((20_000, 3), 1.5)

    def spy(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((float(t[0]), x_t))
        return torch.zeros_like(x_t)

    rate_distortion(spy, Cosine(), x, x == 0, steps=6, generator=seeded(seed))
    assert [round(t, 6) for t, _ in seen] == [round(1 - k / 6, 6) for k in range(6)]
    for t, x_t in seen:
        ab = float(Cosine()(torch.tensor(t).double()))
        noise = x_t - sqrt(ab) * 1.5
        # 60,000 draws: standard errors 0.004 of the mean, 0.006 of the variance; five of them
        assert abs(noise.mean().item()) < 0.02 * sqrt(1 - ab)
        assert noise.var().item() == pytest.approx(1 - ab, rel=0.03)
    for (t, a), (s, b) in itertools.pairwise(seen):
        ab, ab_s = (float(Cosine()(torch.tensor(at).double())) for at in (t, s))
        kept = ab / (1 - ab) * (1 - ab_s) / ab_s  # the noise of q(x_t | x_s) is independent of x_s
        got = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
        assert got == pytest.approx(sqrt(kept), abs=0.02)  # 5 standard errors


def test_order_of_rows_and_dimensions_changes_nothing_but_noise() -> None:
    """A constant guess makes the error independent of the noise, so sums must agree exactly."""
    x = draw(8, 10, 1.0, zeros=4)
    order, columns = torch.randperm(8, generator=seeded(2)), torch.randperm(10, generator=seeded(3))
    turned = x[order][:, columns]
    guess = lambda x_t, t: torch.zeros_like(x_t)  # noqa: E731
    a, b = (
        rate_distortion(guess, Cosine(), y, y == 0, steps=5, generator=seeded(0))
        for y in (x, turned)
    )
    assert torch.allclose(a.nonzero.bits, b.nonzero.bits)
    assert a.zero.total == b.zero.total == 0


def test_chance_is_the_generators_and_bad_calls_are_refused() -> None:
    x = draw(4, 5, 1.0, zeros=2)
    call = lambda seed: rate_distortion(  # noqa: E731
        ideal(1.0), Cosine(), x, x == 0, steps=4, generator=seeded(seed)
    )
    with untouched_global_chance():
        assert torch.equal(call(0).nonzero.bits, call(0).nonzero.bits)
        assert not torch.equal(call(0).nonzero.bits, call(1).nonzero.bits)
    for bad in ({"steps": 0}, {"zero": (x == 0)[:, :3]}):
        options = {"zero": x == 0, "steps": 4} | bad
        zero = options.pop("zero")
        with pytest.raises(ValueError, match="wanted rows"):
            rate_distortion(ideal(1.0), Cosine(), x, zero, generator=seeded(0), **options)
