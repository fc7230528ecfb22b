"""The peers of CountsDiff are sound: with an ideal denoiser each of them reaches the right law."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import small
import torch
from small import largest, masked, untouched_global_chance
from torch import Tensor

from sed_core.baselines import (
    DenseValues,
    LogGaussian,
    MaskedConfig,
    MaskedDiffusion,
)
from sed_core.baselines.masked import MASK, Law, draw, hide_some, show
from sed_core.baselines.values import whole
from sed_core.births import moves
from sed_core.chance import seeded, split
from sed_core.domains.toy import TOY, SizeFactorLaw, log_negative_binomial
from sed_core.gaussian import time_grid
from sed_core.sparse import SparseBatch
from sed_core.stream import last, record
from sed_core.thinning import Linear

JOINT = torch.tensor([[0.30, 0.02, 0.03], [0.02, 0.20, 0.00], [0.03, 0.10, 0.30]]).double()
ATTRITION: Any = {"attrition": "rescaled", "strength": 0.5}
FOUR = SizeFactorLaw(TOY.mu[[0, 1, 5, 7]], TOY.theta[[0, 1, 5, 7]])


def log_gaussian(law: SizeFactorLaw = FOUR, classes: int = 0) -> LogGaussian:
    """A Gaussian diffusion of random weights in the units of counts of that law."""
    return small.log_gaussian(law.sample(2000, generator=seeded(9)), classes)


MODELS: list[Callable[[], Any]] = [masked, lambda: log_gaussian(classes=3)]
every_model = pytest.mark.parametrize("make", MODELS, ids=["masked", "log_gaussian"])


# -- both ------------------------------------------------------------------------------------------


@every_model
def test_samples_are_counts_of_the_data_s_range(make: Callable[[], Any]) -> None:
    model = make()
    most = model.config.largest if isinstance(model, MaskedDiffusion) else model.values.largest
    for n, steps in ((1, 1), (7, 5)):
        trace = record(model.stream(n, steps=steps, label=1, guidance=2.0, generator=seeded(0)))
        assert [(step.i, step.n, step.stage) for step in trace.steps] == [
            (i, steps, "counts") for i in range(1, steps + 1)
        ]
        assert trace.steps[-1].t == 0
        for step in trace.steps:
            assert step.x.dtype == step.x0.dtype == torch.int64
            assert step.x.shape == step.x0.shape == (n, model.dim)
            assert step.x0.min() >= 0 and step.x0.max() <= most
        assert trace.x.min() >= 0 and trace.x.max() <= most


@every_model
def test_a_row_does_not_depend_on_the_others_and_the_global_generator_is_left_alone(
    make: Callable[[], Any],
) -> None:
    model = make()
    with untouched_global_chance():
        whole_batch = model.sample(6, steps=4, label=1, guidance=2.0, generator=seeded(5))
        model.loss(whole_batch, label=1, generator=seeded(0))
    alone = model.sample(1, steps=4, label=1, guidance=2.0, generator=split(seeded(5), 4)[3:])
    assert torch.equal(alone[0], whole_batch[3])
    again = model.sample(6, steps=4, label=1, guidance=2.0, generator=seeded(5))
    assert torch.equal(again, whole_batch)
    first = [next(model.stream(6, steps=4, generator=seeded(seed))).x for seed in (5, 6)]
    assert not torch.equal(*first)


@every_model
def test_the_loss_reaches_every_weight_and_training_lowers_it(make: Callable[[], Any]) -> None:
    model = make().train()
    x = torch.poisson(torch.full((64, model.dim), 1.5), generator=seeded(0)).clamp_max(6).long()
    label = torch.arange(64) % 3
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(60):
        loss = model.loss(x, label=label, generator=seeded(step)).total
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@every_model
def test_pairs_and_dense_counts_are_the_same_data(make: Callable[[], Any]) -> None:
    model = make()
    x = torch.poisson(torch.full((9, model.dim), 1.0), generator=seeded(0)).clamp_max(5).long()
    dense = model.loss(x, generator=seeded(0)).total
    pairs = model.loss(SparseBatch.from_dense(x.float()), generator=seeded(0)).total
    assert dense.item() == pairs.item()


@every_model
def test_what_is_no_count_is_refused(make: Callable[[], Any]) -> None:
    model = make()
    x = torch.ones(3, model.dim)
    for bad in (-1.0, 0.5, torch.nan, torch.inf):
        spoilt = x.clone()
        spoilt[1, 2] = bad
        with pytest.raises(ValueError, match=r"whole numbers from 0 up, got .* in row 1, column 2"):
            model.loss(spoilt, generator=seeded(0))
    with pytest.raises(ValueError, match=f"rows of {model.dim} dimensions, got"):
        model.loss(x[:, 1:], generator=seeded(0))
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        model.sample(3, steps=0, generator=seeded(0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model.sample(0, generator=seeded(0))
    with pytest.raises(ValueError, match="from 0 to 2, got 7"):
        model.sample(2, label=7, generator=seeded(0))
    assert whole(x, model.dim).dtype == torch.int64


# -- log Gaussian: closed form ---------------------------------------------------------------------


def atoms(model: LogGaussian, law: SizeFactorLaw) -> tuple[Tensor, Tensor]:
    """Network units of the counts 0, 1, ... and the probability of each in each dimension."""
    most = int(model.values.largest)
    pmf = law.pmf(most)
    return model.values.forward(torch.arange(most + 1).double()), pmf / pmf.sum(1, keepdim=True)


def ideal_guess(model: LogGaussian, law: SizeFactorLaw) -> Callable[..., Tensor]:
    """E[x0 | x_t], exact where the dimensions are independent: a mean over the atoms."""
    place, pmf = atoms(model, law)

    def guess(x_t: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        ab = model.denoiser.schedule(t[0].double())
        distance = (x_t[:, :, None] - ab.sqrt() * place).square()
        weight = (pmf.log() - distance / (2 * (1 - ab))).softmax(-1)
        return (weight @ place).to(x_t)

    return guess


def far(x: Tensor, pmf: Tensor) -> list[float]:
    """Total variation of each dimension from its law."""
    counted = torch.stack([torch.bincount(c, minlength=pmf.shape[1]) for c in x.T]) / len(x)
    return (0.5 * (counted - pmf).abs().sum(1)).tolist()


def test_log_gaussian_with_the_ideal_denoiser_draws_the_law_of_the_counts() -> None:
    model = log_gaussian()
    model.denoiser.guess = ideal_guess(model, FOUR)
    _, pmf = atoms(model, FOUR)
    n = 4000
    x = model.sample(n, steps=200, generator=seeded(0))
    k = torch.arange(pmf.shape[1]).double()
    mean, square, fourth = pmf @ k, pmf @ k.square(), pmf @ k**4
    error = ((fourth - square.square()) / n).sqrt()
    assert ((x.double().mean(0) - mean).abs() < 5 * ((square - mean**2) / n).sqrt()).all()
    assert ((x.double().square().mean(0) - square).abs() < 5 * error).all()
    # total variation of 4,000 draws from up to 66 counts is about 0.03 by chance
    assert max(far(x, pmf)) < 0.04


def test_noise_drawn_afresh_loses_half_the_variance_of_the_same_denoiser() -> None:
    """The notebook's sampler (countsdiff.md 8): 0.39 of 0.78, 2.09 of 4.65, 6.05 of 15.74."""
    model = log_gaussian()
    guess, chance = ideal_guess(model, FOUR), seeded(0)
    x = torch.randn(2000, 4, generator=chance)
    for t, s in time_grid(200):
        x0 = guess(x, torch.full((2000,), t))
        ab = model.denoiser.schedule(torch.tensor(s))
        x = ab.sqrt() * x0 + (1 - ab).sqrt() * torch.randn(x.shape, generator=chance)
    collapsed = model.values.inverse(x0).round().double().var(0) / FOUR.variance
    assert (collapsed < 0.7).all()
    model.denoiser.guess = guess
    kept = model.sample(2000, steps=200, generator=seeded(0)).double().var(0) / FOUR.variance
    assert ((kept - 1).abs() < 0.25).all()


def test_sampling_is_ancestral_unless_another_sampler_is_asked_for() -> None:
    model = log_gaussian()
    model.denoiser.guess = ideal_guess(model, FOUR)
    default, ancestral, other = (
        model.sample(50, steps=5, generator=seeded(0), **options)
        for options in ({}, {"sampler": "ddpm"}, {"sampler": "ddim"})
    )
    assert torch.equal(default, ancestral)
    assert not torch.equal(default, other)


def test_counts_enter_with_mean_zero_and_sd_one_and_come_back() -> None:
    x = TOY.sample(500, generator=seeded(0))
    values = DenseValues.of_counts(x)
    y = values.forward(x.double())
    assert y.mean().item() == pytest.approx(0, abs=1e-4)
    assert y.std().item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(values.inverse(y).round().long(), x)
    assert values.inverse(torch.full((1, 10), 99.0)).eq(x.max()).all()
    assert DenseValues.of_counts(torch.zeros(3, 2).long()).sd == 1  # all zero: no scale


# -- masked: the step ------------------------------------------------------------------------------


def test_without_attrition_what_is_shown_stays_and_a_share_appears_a_step() -> None:
    model = masked(dim=40)
    steps = record(model.stream(300, steps=10, generator=seeded(0))).steps
    for before, after in pairwise(steps):
        kept = before.x != MASK
        assert torch.equal(after.x[kept], before.x[kept])
        assert torch.equal(after.x[after.x != MASK], after.x0[after.x != MASK])
    for step in steps:
        share = (step.x == MASK).double().mean().item()
        # 12,000 entries: standard error 0.0046 at most; all at once would be 0 from the first step
        assert share == pytest.approx(step.t, abs=0.023)


def test_with_attrition_shown_entries_are_hidden_again_and_the_share_is_kept() -> None:
    model = masked(dim=40)
    steps = record(model.stream(300, steps=10, **ATTRITION, generator=seeded(0))).steps
    hidden_again = sum(((a.x != MASK) & (b.x == MASK)).sum().item() for a, b in pairwise(steps))
    assert hidden_again > 10_000
    for step in steps:
        assert (step.x == MASK).double().mean().item() == pytest.approx(step.t, abs=0.023)
    with pytest.raises(ValueError, match=r"rescaled attrition is from 0 to 1, got 1.5"):
        model.sample(2, attrition="rescaled", strength=1.5, generator=seeded(0))


def test_a_class_is_drawn_with_its_probability_and_never_with_none() -> None:
    p = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    u = torch.arange(10_000) / 10_000
    drawn = draw(p.log().expand(10_000, 1, -1), u[:, None])[:, 0]
    assert torch.bincount(drawn, minlength=5).tolist() == [0, 3000, 0, 7000, 0]


def test_each_number_of_entries_is_masked_as_often_and_each_set_too() -> None:
    masks = hide_some(60_000, 3, generator=seeded(0))
    number = torch.bincount(masks.sum(1), minlength=4)
    assert number[0] == 0
    assert ((number[1:] / 60_000 - 1 / 3).abs() < 5 * (2 / 9 / 60_000) ** 0.5).all()
    ones = masks[masks.sum(1) == 1].double().mean(0)
    assert ((ones - 1 / 3).abs() < 5 * (2 / 9 / 20_000) ** 0.5).all()


# -- masked: ideal denoiser ------------------------------------------------------------------------


def enumerated(x_t: Tensor, *_: Tensor) -> Tensor:
    """log p(x0_j | shown) under JOINT, of rows of two counts."""
    first, second = x_t.T
    rows = torch.where(first[:, None] == MASK, 1.0, torch.eye(3).double()[first.clamp_min(0)])
    columns = torch.where(second[:, None] == MASK, 1.0, torch.eye(3).double()[second.clamp_min(0)])
    kept = JOINT * rows[:, :, None] * columns[:, None]
    return torch.stack([kept.sum(2), kept.sum(1)], 1).log()


def away(x: Tensor, law: Tensor = JOINT) -> float:
    """Total variation of pairs of counts from their law."""
    counted = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).view(3, 3) / len(x)
    return 0.5 * (counted - law).abs().sum().item()


def hidden(n: int, dim: int = 2) -> Tensor:
    return torch.full((n, dim), MASK)


def shown(law: Law, n: int, dim: int, steps: int, strength: float = 0.0) -> Tensor:
    """n rows drawn from a law of what is hidden given what is shown."""
    plan = moves(Linear(), steps, attrition="rescaled", strength=strength)
    return last(show(law, hidden(n, dim), plan, generator=seeded(0)))


@pytest.mark.parametrize("strength", [0.0, 0.02])
def test_masked_with_the_ideal_denoiser_draws_the_joint_law(strength: float) -> None:
    x = shown(enumerated, 8000, 2, steps=100, strength=strength)
    # two of two entries appear in one step with probability 1 / 100; chance adds about 0.011
    assert away(x) < 0.02
    product = torch.outer(JOINT.sum(1), JOINT.sum(0))
    assert away(x, product) > 0.3  # all at once, the entries would be independent


def test_all_at_once_the_entries_are_independent() -> None:
    """One step is what the authors' masked peer did (countsdiff.md 9.2, 12)."""
    x = shown(enumerated, 8000, 2, steps=1)
    assert away(x, torch.outer(JOINT.sum(1), JOINT.sum(0))) < 0.02
    assert away(x) > 0.3


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_one_count_alone_has_its_law_at_any_number_of_steps(steps: int, strength: float) -> None:
    p = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()

    def law(x_t: Tensor) -> Tensor:
        return p.log().expand(len(x_t), 1, -1)

    x = shown(law, 20_000, 1, steps=steps, strength=strength)
    share = torch.bincount(x[:, 0], minlength=4) / 20_000
    assert ((share - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_the_bound_is_the_entropy_where_the_denoiser_is_ideal() -> None:
    """D E_k (1 / k) sum of the conditional entropies is the chain rule, averaged over orders."""
    model = masked(dim=2, largest=2, classes=0)
    model.forward = enumerated  # type: ignore[method-assign]
    n = 40_000
    row = torch.multinomial(JOINT.flatten(), n, replacement=True, generator=seeded(0))
    x = torch.stack([row // 3, row % 3], 1)
    loss = model.loss(x, generator=seeded(0))
    entropy = -torch.xlogy(JOINT, JOINT).sum().item()
    # a row's bound is at most 2 * -log 0.02 = 7.8 nats and has an sd of about 1.2
    assert loss.parts["nats"].item() == pytest.approx(entropy, abs=5 * 1.2 / n**0.5)
    assert loss.total.item() == pytest.approx(loss.parts["nats"].item() / 2)


def size_factor_ideal(law: SizeFactorLaw, most: int) -> Callable[[Tensor], Tensor]:
    """log p(x0_j | shown) of the toy: what is shown tells of s, and s of what is hidden."""
    k = torch.arange(most + 1).double()
    size = law._sizes()[..., None]
    table = log_negative_binomial(k, size * law.mu[:, None], law.theta[:, None]).exp()

    def ideal(x_t: Tensor) -> Tensor:
        seen = x_t != MASK
        weight = law.size_posterior(x_t * seen, seen.double())
        return torch.einsum("bs,sdk->bdk", weight, table).log()

    return ideal


def test_masked_with_the_ideal_denoiser_draws_the_toy() -> None:
    n = 2000
    ideal = size_factor_ideal(FOUR, 150)
    x = shown(ideal, n, 4, steps=40).double()
    assert ((x.mean(0) - FOUR.mean).abs() < 5 * (FOUR.variance / n).sqrt()).all()
    centred = x - FOUR.mean
    product = centred[:, :, None] * centred[:, None]
    assert ((product.mean(0) - FOUR.covariance).abs() < 5 * product.std(0) / n**0.5).all()
    at_once = shown(ideal, n, 4, steps=1).double()
    assert at_once.T.cov()[1, 3] < 0.3 * FOUR.covariance[1, 3] < 0.5 * x.T.cov()[1, 3]


# -- masked: guidance and imputation ---------------------------------------------------------------


def test_guidance_multiplies_powers_of_the_two_laws() -> None:
    model = masked(dim=1, largest=3, classes=2)
    given = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    plain = torch.tensor([0.25, 0.25, 0.4, 0.1])
    laws = torch.stack([*given, plain]).log()
    model.forward = lambda x_t, label: laws[label][:, None]  # type: ignore[method-assign]
    for guidance in (0.0, 0.5, 1.0, 2.0):
        wanted = given[1] ** guidance * plain ** (1 - guidance)
        wanted = wanted / wanted.sum()
        x = model.sample(20_000, steps=3, label=1, guidance=guidance, generator=seeded(0))
        share = torch.bincount(x[:, 0], minlength=4) / 20_000
        assert ((share - wanted).abs() < 5 * (wanted * (1 - wanted) / 20_000).sqrt()).all()


def test_imputation_keeps_what_is_observed_and_sees_nothing_else() -> None:
    model = masked()
    x = torch.poisson(torch.full((8, 5), 1.0), generator=seeded(0)).clamp_max(6).long()
    observed = torch.rand(8, 5, generator=seeded(1)) < 0.5
    for strength in (0.0, 1.0):
        options: Any = {"steps": 6, "attrition": "rescaled", "strength": strength}
        got = model.impute(x, observed, draws=3, generator=seeded(2), **options)
        assert got.shape == (3, 8, 5)
        assert torch.equal(got[:, observed], x[observed].expand(3, -1))
        assert got.min() >= 0
        for spoilt in (torch.where(observed, x.double(), torch.nan), torch.where(observed, x, -7)):
            again = model.impute(spoilt, observed, draws=3, generator=seeded(2), **options)
            assert torch.equal(again, got)
        fewer = model.impute(x, observed, draws=2, generator=seeded(2), **options)
        assert torch.equal(fewer, got[:2])
        row = model.impute(
            x[4:5], observed[4:5], draws=3, generator=split(seeded(2), 5)[4:], **options
        )
        assert torch.equal(row[:, 0], got[:, 4])
    everything = torch.ones_like(observed)
    assert torch.equal(model.impute(x, everything, generator=seeded(0))[0], x)
    nothing = model.impute(x, ~everything, steps=6, generator=seeded(2))[0]
    assert torch.equal(nothing, model.sample(8, steps=6, generator=seeded(2)))
    with pytest.raises(ValueError, match="counts up to 6, got 7"):
        model.impute(x + 7 - x.max(), everything, generator=seeded(0))


def test_imputation_with_the_ideal_denoiser_draws_the_conditional_law() -> None:
    model = masked(dim=2, largest=2, classes=0)
    model.forward = enumerated  # type: ignore[method-assign]
    x = torch.tensor([[0, 0], [1, 0], [2, 0]]).repeat(2000, 1)
    observed = torch.tensor([True, False]).expand(6000, 2)
    got = model.impute(x, observed, draws=2, steps=3, generator=seeded(0))[..., 1]
    for row in range(3):
        wanted = JOINT[row] / JOINT[row].sum()
        share = torch.bincount(got[:, row::3].flatten(), minlength=3) / 4000
        assert ((share - wanted).abs() <= 5 * (wanted * (1 - wanted) / 4000).sqrt()).all()


def test_a_count_that_is_no_class_is_refused() -> None:
    model = masked()
    with pytest.raises(ValueError, match=r"counts up to 6, got 9; set `largest`"):
        model.loss(torch.full((2, 5), 9), generator=seeded(0))
    with pytest.raises(ValueError, match="a dimension and a count, got 0 and 5"):
        MaskedConfig(dim=0, largest=5)


def test_masked_starts_from_the_frequencies_of_the_counts() -> None:
    model = masked(dim=10, largest=80)
    for parameter in model.network.leave.parameters():
        torch.nn.init.zeros_(parameter)  # a network that has no opinion yet
    x = TOY.sample(2000, generator=seeded(0))
    model.start_from(x)
    got = model(hidden(1, 10), torch.zeros(1).long()).softmax(-1)[0]
    wanted = (torch.bincount(x.flatten(), minlength=81) + 0.5) / (20_000 + 81 / 2)
    torch.testing.assert_close(got, wanted.expand(10, -1))
    assert got.min() > 0  # a count that was not seen may still come
    with pytest.raises(ValueError, match="counts up to 80, got 81"):
        model.start_from(torch.full((1, 10), 81))


def test_the_size_hardly_grows_with_the_largest_count() -> None:
    small, large = (sum(p.numel() for p in masked(largest=most).parameters()) for most in (10, 110))
    assert large - small == 100 * (4 + 1)  # an embedding and a bias for each


def test_masked_listens_to_class_and_to_what_is_shown() -> None:
    model = masked()
    x = hidden(1, 5)
    one, other = (model(x, torch.tensor([label])) for label in (0, 2))
    assert largest(one, other) > 1e-3
    zero = x.clone()
    zero[0, 0] = 0  # a count of zero is not the mask
    assert largest(model(zero, torch.tensor([0])), one) > 1e-3
