"""The dense peers are sound: with an ideal denoiser each of them reaches the right law."""

from itertools import product
from math import pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from small import bits, ddpm, largest, ldm, pairs, randomise, sarm
from torch import Tensor

from sed_core.baselines import (
    DDPM,
    SARM,
    DDPMConfig,
    DenseValues,
    SARMConfig,
    cut,
    fit_threshold,
)
from sed_core.baselines.sarm import draw_mixture, mixture_nll, ranks
from sed_core.chance import seeded
from sed_core.sparse import SparseBatch
from sed_core.unet import ImageUNet

SAMPLERS = [("ddim", 250), ("ddpm", 400)]
every_sampler = pytest.mark.parametrize(("sampler", "steps"), SAMPLERS)


def gaussian_guess(model: DDPM, mean: float, sd: float):
    """E[x0 | x_t] where every network number of the data is N(mean, sd^2)."""

    def guess(x_t: Tensor, t: Tensor, seen: Tensor, label: Tensor) -> Tensor:
        ab = model.denoiser.schedule(t.double()).to(x_t)[:, None]
        weight = sd**2 * ab.sqrt() / (sd**2 * ab + 1 - ab)
        return mean + weight * (x_t - ab.sqrt() * mean)

    return guess


def bit_guess(model: DDPM, share: float):
    """E[x0 | x_t] where value and bit are +1 together with this probability, else -1."""
    prior = torch.tensor(share / (1 - share)).log()

    def guess(x_t: Tensor, t: Tensor, seen: Tensor, label: Tensor) -> Tensor:
        ab = model.denoiser.schedule(t.double()).to(x_t)[:, None]
        value, bit = x_t.chunk(2, 1)
        both = torch.tanh(ab.sqrt() / (1 - ab) * (value + bit) + prior / 2)
        return torch.cat([both, both], 1)

    return guess


@every_sampler
def test_ddpm_with_the_ideal_denoiser_draws_the_law_of_the_data(sampler: str, steps: int) -> None:
    model = ddpm(dim=4)
    model.denoiser.guess = gaussian_guess(model, mean=0.1, sd=0.2)
    x = model.sample(4000, steps=steps, sampler=sampler, generator=seeded(0))
    # x = y / 2 + 1/2; standard error of the mean of 16,000 numbers of sd 0.1 is 0.0008
    assert abs(x.mean().item() - 0.55) < 0.004
    assert abs(x.std().item() / 0.1 - 1) < 0.05


@every_sampler
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_bits_with_the_ideal_denoiser_open_as_often_as_in_the_data(
    sampler: str, steps: int, share: float
) -> None:
    model = bits()
    model.denoiser.guess = bit_guess(model, share)
    x = model.sample(500, steps=steps, sampler=sampler, generator=seeded(0))
    assert set(x.unique().tolist()) <= {0.0, 1.0}  # exact zeros, and the one value of the data
    # standard error of the share of 10,000 gates: 0.005; the grid adds a little
    assert abs((x != 0).double().mean().item() - share) < 0.03


@every_sampler
def test_ldm_with_the_ideal_denoiser_decodes_latents_of_the_right_law(
    sampler: str, steps: int
) -> None:
    model = ldm()
    model.denoiser.guess = gaussian_guess(model, mean=0.0, sd=1.0)  # type: ignore[arg-type]
    steps_ = list(model.stream(3000, steps=steps, sampler=sampler, generator=seeded(0)))
    z = steps_[-2].x
    assert z.mean().abs().item() < 0.03
    assert abs(z.std().item() - 1) < 0.03
    assert torch.equal(steps_[-1].x, model.decode(z))


# -- data units ------------------------------------------------------------------------------------


def test_values_come_back_and_stay_inside_the_range_of_the_data() -> None:
    x = torch.rand(5, 20, generator=seeded(0))
    assert largest(DenseValues().inverse(DenseValues().forward(x)), x) < 1e-6
    assert DenseValues().bound == 1
    far = DenseValues().inverse(torch.tensor([[-9.0, 9.0]]))
    assert far.tolist() == [[0.0, 1.0]]


def test_energies_have_mean_zero_and_sd_one_over_all_cells() -> None:
    chance = seeded(0)
    energy = torch.randn(400, 30, generator=chance).mul(2).exp()
    energy = energy * (torch.rand(400, 30, generator=chance) < 0.1)
    values = DenseValues.of_energies(SparseBatch.from_dense(energy))
    y = values.forward(energy)
    assert abs(y.mean().item()) < 1e-4
    assert abs(y.std().item() - 1) < 1e-3
    torch.testing.assert_close(values.inverse(y), energy, rtol=1e-3, atol=1e-4)
    assert values.bound == 0  # a guess of a logarithm is not clipped


def test_rows_of_another_size_are_refused() -> None:
    for model in (ddpm(), bits(), ldm(), sarm()):
        with pytest.raises(ValueError, match="20 dimensions, got"):
            model.loss(torch.zeros(2, 21), generator=seeded(0))


def test_a_picture_that_patches_do_not_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="patches of 2 do not tile a picture of side 5"):
        DDPMConfig(dim=25, side=5)
    with pytest.raises(ValueError, match="no picture of side 5"):
        DDPMConfig(dim=26, side=5)


@pytest.mark.parametrize("side", [4, 6, 14, 28])
def test_the_image_network_keeps_the_side_and_listens_to_its_condition(side: int) -> None:
    network = ImageUNet(2, 1, (8, 16, 8), 2, 5)
    randomise(network)
    x, c = torch.randn(2, 2, side, side, generator=seeded(0)), torch.zeros(2, 5)
    assert network(x, c).shape == (2, 1, side, side)
    assert largest(network(x, c), network(x, c + 1)) > 1e-3


def test_every_pixel_reaches_every_other_one() -> None:
    """The U-Net sees the whole picture: a change in one corner arrives in the opposite one."""
    network = ImageUNet(1, 1, (8, 16), 2, 5)
    randomise(network)
    x = torch.randn(1, 1, 12, 12, generator=seeded(0), requires_grad=True)
    network(x, torch.zeros(1, 5))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert x.grad[0, 0, -1, -1].abs() > 0


# -- thresholds ------------------------------------------------------------------------------------


@given(st.floats(0.02, 0.98), st.integers(0, 99))
def test_match_cuts_to_the_share_of_zeros_of_the_training_rows(share: float, seed: int) -> None:
    training = pairs(seed, rows=30, dim=40, share=1 - share)
    generated = torch.randn(25, 40, generator=seeded(seed))
    if not training.mask.any():
        return
    zeros = (cut(generated, fit_threshold("match", generated, training)) == 0).double().mean()
    assert abs(zeros.item() - training.sparsity) <= 1 / generated.numel()


def test_half_min_is_half_the_smallest_training_value() -> None:
    training = SparseBatch.from_dense(torch.tensor([[0.0, 0.5, 0.25]]))
    tau = fit_threshold("half_min", torch.ones(1, 3), training)
    assert tau == 0.125
    assert cut(torch.tensor([[-0.2, 0.1, 0.125, 0.3]]), tau).tolist() == [
        pytest.approx([-0.2, 0.0, 0.0, 0.3])
    ]


def test_a_threshold_without_data_is_refused() -> None:
    some = pairs()
    with pytest.raises(ValueError, match="needs generated rows"):
        fit_threshold("match", torch.zeros(0, 20), some)


# -- SARM ------------------------------------------------------------------------------------------


def test_a_pixel_knows_only_those_before_it_on_the_path() -> None:
    model = sarm(side=6)
    gate = torch.rand(1, 36, generator=seeded(0)).requires_grad_()
    value = torch.rand(1, 36, generator=seeded(1)).requires_grad_()
    rank = ranks(model.config)
    for pixel in (0, 7, 21, 35):
        law = model.law(gate, value, torch.tensor([0]))[0, pixel].sum()
        for grad in torch.autograd.grad(law, (gate, value), allow_unused=True):
            assert not grad[0, rank >= rank[pixel]].any()
            if rank[pixel] > 2:
                assert grad[0, rank < rank[pixel]].any()


def test_the_spiral_starts_in_the_centre_and_visits_every_pixel_once() -> None:
    path = ranks(SARMConfig(dim=36, side=6)).argsort()
    assert sorted(path.tolist()) == list(range(36))
    assert set(path[:4].tolist()) == {14, 15, 20, 21}
    ring = torch.maximum((path // 6 - 2.5).abs(), (path % 6 - 2.5).abs())
    assert torch.equal(ring, ring.sort().values)


def gate_law(model: SARM) -> dict[tuple[int, ...], float]:
    """The exact law of the gates of a model whose values all are 1, by enumeration."""
    laws = {}
    for gates in product((0, 1), repeat=model.dim):
        gate = torch.tensor([gates], dtype=torch.float32)
        logit = model.law(gate, gate, torch.tensor([model.classes]))[0, :, 0]
        laws[gates] = torch.where(gate[0] > 0, logit.sigmoid(), 1 - logit.sigmoid()).prod().item()
    return laws


def test_samples_follow_the_likelihood_that_is_trained() -> None:
    """Total variation to the enumerated law of 16 gate patterns; values are pinned to 1."""
    config = SARMConfig(dim=4, hidden=32, classes=2, step=1.0, smallest=1.0)
    model = SARM(DenseValues(mean=0.0, sd=1.0), config)
    randomise(model, seed=3)
    exact = gate_law(model)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    x = model.sample(20_000, generator=seeded(0))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    drawn = [(x == torch.tensor(gates)).all(1).double().mean().item() for gates in exact]
    distance = 0.5 * sum(abs(a - b) for a, b in zip(drawn, exact.values(), strict=True))
    assert distance < 0.02  # sampling noise of 20,000 draws over 16 patterns is about 0.008
    assert max(exact.values()) < 0.9  # a law worth the name


def test_the_value_mixture_is_a_density_and_is_what_is_drawn() -> None:
    law = torch.tensor([[0.0, 1.0, -1.0, 2.0, -0.5, 0.1]])  # weights, means, log sds of two parts
    grid = torch.linspace(-12, 12, 20_001)
    density = (-mixture_nll(grid, law.expand(len(grid), -1))).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)
    chance = seeded(0)
    n = 50_000
    uniform, noise = torch.rand(n, generator=chance), torch.randn(n, generator=chance)
    drawn = draw_mixture(law.expand(n, -1), uniform, noise)
    weight = torch.tensor([0.0, 1.0]).softmax(0)
    assert drawn.mean().item() == pytest.approx((-weight[0] + 2 * weight[1]).item(), abs=0.02)
    below = (weight * torch.tensor(norm.cdf([1 / 0.60653, -2 / 1.10517]))).sum().item()
    assert (drawn < 0).double().mean().item() == pytest.approx(below, abs=0.01)
    one = mixture_nll(torch.tensor([0.3]), torch.tensor([[5.0, 0.0, 0.0]]))
    assert one.item() == pytest.approx(0.5 * 0.09 + 0.5 * torch.tensor(2 * pi).log().item())


def test_guidance_of_sarm_moves_gates_from_unknown_to_class_and_beyond() -> None:
    model = sarm()
    draws = {
        w: model.sample(400, label=1, guidance=w, generator=seeded(0)).ne(0).double().mean(0)
        for w in (0.0, 1.0, 3.0)
    }
    plain = model.sample(400, generator=seeded(0)).ne(0).double().mean(0)
    assert largest(draws[0.0], plain) == 0
    assert (draws[3.0] - draws[1.0]).abs().mean() > 0.01
