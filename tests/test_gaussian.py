"""Gaussian diffusion: laws, closed forms, and the steps of a public peer."""

import itertools
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import largest, untouched_global_chance
from torch import Tensor

from sed_core.chance import normal, seeded, split
from sed_core.gaussian import (
    Denoiser,
    add_noise,
    ddim,
    ddim_step,
    ddpm,
    ddpm_step,
    guess,
    target,
    time_grid,
)
from sed_core.schedules import SCHEDULES, Cosine, Schedule
from sed_core.stream import last, record

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
MEAN, SD = 0.7, 0.4


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """Some denoiser, neither right nor linear."""
    return torch.sin(x + 2 * t[:, None])


def posterior_mean(schedule: Schedule) -> Denoiser:
    """The ideal denoiser where x0 ~ N(MEAN, SD^2)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        ab = schedule(t.double())[:, None]
        gain = SD**2 * ab.sqrt() / (ab * SD**2 + 1 - ab)
        return (MEAN + gain * (x - ab.sqrt() * MEAN)).to(x)

    return denoise


# forward process --------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_variance_of_the_forward_process(schedule: Schedule, t: float) -> None:
    n = 40_000
    x0, eps, time = SD * noise(0, n, 1), noise(1, n, 1), torch.full((n,), t)
    ab = schedule(time[:1].double()).item()
    wanted = ab * SD**2 + 1 - ab
    found = add_noise(schedule, x0, time, eps).var().item()
    assert abs(found - wanted) < 3 * wanted * sqrt(2 / n)  # three standard errors


@every_schedule
@given(st.integers(0, 1000), st.floats(0.01, 0.99))
@pytest.mark.parametrize("kind", ["x0", "eps", "v"])
def test_the_true_target_guesses_the_true_x0(kind, schedule: Schedule, seed: int, t: float) -> None:
    x0, eps, time = noise(seed, 2, 3), noise(seed + 1, 2, 3), torch.tensor([t, 0.5])
    x_t = add_noise(schedule, x0, time, eps)
    found = guess(kind, schedule, target(kind, schedule, x0, time, eps), x_t, time)
    assert largest(found, x0) < 1e-9


# loops ------------------------------------------------------------------------------------------


@given(st.integers(1, 300))
def test_time_grid_falls_from_one_to_zero(steps: int) -> None:
    moves = time_grid(steps)
    assert len(moves) == steps
    assert moves[0][0] == 1
    assert moves[-1][1] == 0
    assert all(t > s for t, s in moves)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(moves))


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_an_oracle_is_believed_to_the_end(sampler, steps: int, schedule: Schedule) -> None:
    truth = noise(3, 2, 4)
    trace = record(
        sampler(lambda *_: truth, schedule, noise(4, 2, 4), steps=steps, generator=seeded(0))
    )
    assert torch.equal(trace.x, truth)  # without the last-step rule the error is about 0.0125
    assert [step.i for step in trace.steps] == list(range(1, steps + 1))
    assert {step.n for step in trace.steps} == {steps}
    assert trace.steps[-1].t == 0
    assert all(torch.equal(step.x0, truth) for step in trace.steps)


def test_ddim_without_eta_draws_nothing() -> None:
    x, a, b = noise(0, 3, 2), seeded(1), seeded(2)
    before = a.get_state()
    with untouched_global_chance():
        first = last(ddim(wavy, Cosine(), x, steps=10, generator=a))
        second = last(ddim(wavy, Cosine(), x, steps=10, generator=b))
    assert torch.equal(first, second)
    assert torch.equal(a.get_state(), before)


@every_schedule
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_ddim_with_eta_one_is_ddpm(steps: int, schedule: Schedule) -> None:
    """Mean and spread: a step of each from the same state, with two different noises."""
    x = noise(5, 1, 6)
    for t, s in time_grid(steps):
        a, b = (
            torch.cat(
                [
                    step(wavy, schedule, x, t, s, generator=[seeded(seed)], **options)[0]
                    for seed in (0, 1)
                ]
            )
            for step, options in ((ddim_step, {"eta": 1.0}), (ddpm_step, {}))
        )
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)
        assert torch.allclose(a[0] - a[1], b[0] - b[1], rtol=1e-6, atol=1e-12)


def test_ddpm_step_is_the_posterior_of_the_forward_process() -> None:
    """Bayes by hand: x_s | x_t, x0 is the product of two Gaussians in x_s."""
    schedule, t, s, x0 = Cosine(), 0.6, 0.5, 0.3
    ab_t, ab_s = (schedule(torch.tensor(u, dtype=torch.float64)).item() for u in (t, s))
    step_variance, step = 1 - ab_t / ab_s, sqrt(ab_t / ab_s)
    precision = 1 / (1 - ab_s) + step**2 / step_variance
    mean = (sqrt(ab_s) * x0 / (1 - ab_s) + step * 0.9 / step_variance) / precision
    x_t = torch.full((1, 50_000), 0.9, dtype=torch.float64)
    truth = torch.full_like(x_t, x0)
    found, _ = ddpm_step(lambda *_: truth, schedule, x_t, t, s, generator=[seeded(0)])
    error = 1 / sqrt(precision * 50_000)
    assert abs(found.mean().item() - mean) < 4 * error
    assert found.var().item() == pytest.approx(1 / precision, rel=4 * sqrt(2 / 50_000))


def test_ddpm_reaches_a_known_gaussian() -> None:
    x = normal(split(seeded(0), 4), 10_000)
    x = last(ddpm(posterior_mean(Cosine()), Cosine(), x, steps=1000, generator=seeded(1)))
    assert abs(x.mean().item() - MEAN) < 0.02 * SD  # four standard errors
    assert x.var().item() == pytest.approx(SD**2, rel=0.03)


def test_ddim_reaches_a_known_gaussian() -> None:
    x = normal(split(seeded(0), 4), 10_000)
    x = last(ddim(posterior_mean(Cosine()), Cosine(), x, steps=250, generator=seeded(1)))
    assert abs(x.mean().item() - MEAN) < 0.02 * SD
    assert x.var().item() == pytest.approx(SD**2, rel=0.05)


def test_ddim_converges_to_the_flow_at_first_order() -> None:
    """For a Gaussian the probability flow is known: x0 = m + s x1 / sd(x1)."""
    x = noise(0, 1, 50)
    truth = MEAN + SD * x  # sd(x1) = 1 and alpha_bar(1) = 0 to double precision
    errors = [
        largest(
            last(ddim(posterior_mean(Cosine()), Cosine(), x, steps=n, generator=seeded(0))), truth
        )
        for n in (50, 100, 200, 400)
    ]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(1.7 < ratio < 2.4 for ratio in ratios), ratios  # order one: halved each time


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_batched_equals_one_by_one(sampler) -> None:
    chance = {"eta": 0.7} if sampler is ddim else {}
    x = noise(0, 3, 2)
    run = lambda x, generator: last(  # noqa: E731
        sampler(wavy, Cosine(), x, steps=9, generator=generator, **chance)
    )
    whole = run(x, split(seeded(7), 3))
    for k in range(3):
        alone = run(x[k : k + 1], split(seeded(7), 3)[k : k + 1])
        assert largest(alone[0], whole[k]) < 1e-12


# a public peer ----------------------------------------------------------------------------------


def peer_of(kind: type[Any], schedule: Schedule, steps: int, **options: Any) -> Any:
    """A scheduler of diffusers whose alpha_bar is ours at the times of our grid, clean at the end.

    Its table is kept in double precision: in float32 its eta = 1 loses the noisiest step of the
    cosine to cancellation (1 - alpha_bar - sigma^2 is zero there).
    """
    alpha_bar = schedule(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    alpha_bar[0] = 1
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
    peer = kind(steps, trained_betas=betas, prediction_type="sample", clip_sample=False, **options)
    assert largest(peer.alphas_cumprod, alpha_bar[1:]) < 1e-5
    peer.alphas_cumprod = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
    peer.set_timesteps(steps)
    return peer


@every_schedule
@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_equals_diffusers(eta: float, steps: int, schedule: Schedule) -> None:
    from diffusers import DDIMScheduler

    peer = peer_of(DDIMScheduler, schedule, steps, set_alpha_to_one=True)
    x = theirs = noise(0, 1, 32).float()
    ours, chance = seeded(3), seeded(3)
    for (t, s), k in zip(time_grid(steps), peer.timesteps, strict=True):
        x, _ = ddim_step(wavy, schedule, x, t, s, eta=eta, generator=[ours])
        output = wavy(theirs, torch.tensor([t]))
        theirs = peer.step(output, int(k), theirs, eta=eta, generator=chance).prev_sample
        assert largest(x, theirs) < 1e-5


@every_schedule
@pytest.mark.parametrize("steps", [5, 50])
def test_ddpm_equals_diffusers(steps: int, schedule: Schedule) -> None:
    from diffusers import DDPMScheduler

    peer = peer_of(DDPMScheduler, schedule, steps)
    x = theirs = noise(0, 1, 32).float()
    ours, chance = seeded(3), seeded(3)
    for (t, s), k in zip(time_grid(steps), peer.timesteps, strict=True):
        x, _ = ddpm_step(wavy, schedule, x, t, s, generator=[ours])
        output = wavy(theirs, torch.tensor([t]))
        theirs = peer.step(output, int(k), theirs, generator=chance).prev_sample
        assert largest(x, theirs) < 1e-5
