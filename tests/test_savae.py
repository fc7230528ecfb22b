"""SAVAE: a set goes in, pairs come out one at a time, and the fast path is the slow path."""

import itertools
from dataclasses import asdict
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import ascending, equal, largest, pairs, savae
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from sed_core.chance import seeded, split
from sed_core.savae import SAVAE, SAVAEConfig, ValueTransform, gaussian_nll, smallest_sd
from sed_core.sparse import SparseBatch
from sed_core.stream import last, record

seeds = st.integers(0, 2**31)
MASKS = [
    ("flat", "past"),
    ("flat", "used"),
    ("flat", "none"),
    ("blocked", "past"),
    ("blocked", "none"),
]
WAYS = [
    {"z_cond": z_cond, "index_head": head, "mask": mask, "draft": draft}
    for z_cond, (head, mask), draft in itertools.product(
        ["bias", "prefix", "cross"], MASKS, ["base", "none"]
    )
]
SOME = WAYS[::7] + WAYS[3:9:5]  # every value of every option, and the shipped way first
PAST = [way for way in WAYS if way["mask"] == "past"][::3] + WAYS[6:7]


def over(ways: list[dict[str, str]]):
    return pytest.mark.parametrize("way", ways, ids=lambda way: "-".join(way.values()))


every_way, some_ways, past_ways = over(WAYS), over(SOME), over(PAST)


def latent(model: SAVAE, rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, model.config.latent, generator=seeded(seed))


def shuffle(batch: SparseBatch, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same sets in another order, padding last as before."""
    keys = torch.rand(batch.index.shape, generator=seeded(seed)).masked_fill(~batch.mask, 2.0)
    order = keys.argsort(1)
    return batch.index.gather(1, order), batch.value.gather(1, order), batch.mask


def keys(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None}


# encoder ----------------------------------------------------------------------------------------


@given(seeds)
def test_order_of_pairs_does_not_matter(seed: int) -> None:
    model, batch = savae(seed=1).double(), pairs(seed, empty=True)
    batch = SparseBatch(batch.index, batch.value.double(), batch.mask, batch.dim)
    mu, logvar = model.encoder(batch.index, batch.value, batch.mask)
    found = model.encoder(*shuffle(batch, seed))
    # 1e-8, not 1e-10: POOL_GAIN and random weights enlarge the rounding of the mean
    assert largest(found[0], mu) < 1e-8
    assert largest(found[1], logvar) < 1e-8


@given(seeds)
def test_padding_changes_nothing(seed: int) -> None:
    model, batch = savae(seed=1), pairs(seed, empty=True)
    mu, logvar = model.encode(batch)
    for row in range(len(batch)):
        alone = model.encode(batch[[row]])
        assert largest(alone[0][0], mu[row]) < 1e-4  # POOL_GAIN times float32 rounding
        assert largest(alone[1][0], logvar[row]) < 1e-4


def test_dimensions_that_stay_zero_change_nothing() -> None:
    """A data set of 27,000 dimensions with the same pairs: same posterior, same work."""
    small, large = savae(20, encoder_layers=2, draft="none"), savae(27_000, draft="none")
    large.encoder.load_state_dict(small.encoder.state_dict())
    batch = pairs(3)
    wide = SparseBatch(batch.index, batch.value, batch.mask, 27_000)
    work = []
    for model, data in ((small, batch), (large, wide)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            found = model.encode(data)
        work.append((counter.get_total_flops(), found))
    assert work[0][0] == work[1][0] > 0
    assert torch.equal(work[0][1][0], work[1][1][0])
    assert torch.equal(work[0][1][1], work[1][1][1])


@pytest.mark.parametrize("way", WAYS[:2], ids=["base", "none"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_empty_samples_have_finite_losses_and_gradients(way, share: float) -> None:
    model = savae(**way, pool_count=True)
    batch = pairs(0, share=share, empty=True)
    loss = model.loss(batch, generator=seeded(0))
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.encoder.empty.grad.abs().sum() > 0


def test_pool_count_tells_sets_apart_that_the_mean_can_not() -> None:
    """Pairs twice in a set leave a mean as it is; their number does not."""
    for told in (False, True):
        model = savae(pool_count=told, encoder_layers=0)
        once = torch.tensor([[3, 5]]), torch.tensor([[0.5, 0.2]]), torch.ones(1, 2).bool()
        twice = [torch.cat([part, part], 1) for part in once]
        far = largest(model.encoder(*once)[0], model.encoder(*twice)[0])
        assert (far > 1e-2) if told else (far < 1e-4)


def test_a_shallow_encoder_is_the_untrained_encoder() -> None:
    model = SAVAE(asdict_config(savae().config))
    batch = pairs(0)
    assert torch.equal(model.encode(batch)[0], model.encode(batch, shallow=True)[0])


def asdict_config(config: SAVAEConfig, **changes) -> SAVAEConfig:
    return SAVAEConfig(**{**asdict(config), **changes})


# loss -------------------------------------------------------------------------------------------


def test_kl_and_beta() -> None:
    model, batch = savae(), pairs(0)
    mu, logvar = model.encode(batch)
    law = torch.distributions.Normal(mu, (logvar / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    wanted = torch.distributions.kl_divergence(law, standard).sum(1).mean()
    light, heavy = (
        SAVAE(asdict_config(model.config, beta=beta)) for beta in (model.config.beta, 1.0)
    )
    for other in (light, heavy):
        other.load_state_dict(model.state_dict())
    losses = [other.loss(batch, generator=seeded(0)) for other in (light, heavy)]
    for loss in losses:
        assert loss.parts["kl"].item() == pytest.approx(wanted.item(), rel=1e-5)
    rise = (losses[1].total - losses[0].total).item()
    assert rise == pytest.approx((1 - 1e-6) * wanted.item(), rel=1e-4)
    assert SAVAEConfig(dim=3).beta == 1e-6


def test_loss_is_the_sum_of_its_parts_and_a_mean_over_rows() -> None:
    model, batch = savae(), pairs(0)
    z = latent(model, len(batch))
    index, value = model.nll(batch, z)
    for row in range(len(batch)):
        alone = model.nll(batch[[row]], z[[row]])
        assert alone[0].item() == pytest.approx(index[row].item(), rel=1e-4)
        assert alone[1].item() == pytest.approx(value[row].item(), rel=1e-4, abs=1e-4)
    loss = model.loss(batch, generator=seeded(0))
    parts = loss.parts
    total = parts["index"] + parts["value"] + parts["draft"] + 1e-6 * parts["kl"]
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-6)


@given(seeds)
def test_value_nll_is_a_normal_density(seed: int) -> None:
    x, mean, sd = torch.randn(3, 4, 5, generator=seeded(seed), dtype=torch.float64).unbind(0)
    sd = sd.abs() + 0.01
    wanted = -torch.distributions.Normal(mean, sd).log_prob(x)
    assert torch.allclose(gaussian_nll(x, mean, sd), wanted, rtol=1e-9)
    fixed = gaussian_nll(x, mean, torch.ones_like(sd)) - 0.5 * (x - mean) ** 2
    assert largest(fixed, torch.full_like(fixed, 0.5 * log(2 * torch.pi))) < 1e-12


@pytest.mark.parametrize("law", ["learned", "fixed"])
def test_sd_of_values_keeps_its_floor(law) -> None:
    model = savae(value_law=law, value_step=1 / 255)
    h = 100 * torch.randn(50, model.config.width, generator=seeded(0))
    with torch.no_grad():
        _, sd = model.decoder.value_law(h, torch.zeros(50, dtype=torch.int64), None)
    floor = smallest_sd(model.config)
    assert floor == pytest.approx(0.5 / 255 / 0.3)
    assert (sd >= floor * 0.999).all()
    if law == "fixed":
        assert (sd == 1).all()
    else:
        assert sd.min() == pytest.approx(floor)  # wild states do reach it


def test_draft_nll_by_hand() -> None:
    model, batch = savae(value_step=0.0), pairs(2, empty=True)
    z = latent(model, len(batch))
    found, _ = model._draft_loss(batch, z)
    logit, mean = model.draft_head(z)
    on = batch.to_dense() != 0
    bernoulli = -torch.distributions.Bernoulli(logits=logit).log_prob(on.float())
    standard = model.transform.forward(batch.to_dense())
    sd = model.draft_head.log_sd.clamp(log(0.01), 2.0).exp()
    value = -torch.distributions.Normal(mean, sd).log_prob(standard)
    wanted = bernoulli.sum(1) + (value * on).sum(1)
    assert torch.allclose(found, wanted, rtol=1e-5)


def test_which_loss_trains_what() -> None:
    """The draft's start trains encoder and draft only; the decoder never pulls at the draft."""
    batch = pairs(0)
    model = savae(draft="base")
    model.draft_loss(batch, generator=seeded(0)).total.backward()
    assert {name.split(".")[0] for name in keys(model)} == {"encoder", "draft_head"}
    assert not [name for name in keys(model) if name.startswith("encoder.blocks")]
    model.zero_grad(set_to_none=True)
    index, value = model.nll(batch, latent(model, len(batch)))
    (index + value).sum().backward()
    assert {name.split(".")[0] for name in keys(model)} == {"decoder"}
    model.zero_grad(set_to_none=True)
    model.loss(batch, generator=seeded(0)).total.backward()
    assert {name for name, _ in model.named_parameters()} == keys(model)


# values -----------------------------------------------------------------------------------------


@given(st.floats(1e-3, 1e3), st.sampled_from(["learned", "lognormal"]))
def test_transform_inverts(value: float, law) -> None:
    transform = ValueTransform(SAVAEConfig(dim=3, value_law=law, value_mean=0.3, value_sd=0.7))
    x = torch.tensor([value], dtype=torch.float64)
    assert transform.inverse(transform.forward(x)).item() == pytest.approx(value, rel=1e-6)


@given(st.floats(-10, 10))
def test_lognormal_values_are_positive(standard: float) -> None:
    config = SAVAEConfig(dim=3, value_law="lognormal", value_mean=-3.0, value_sd=4.0)
    transform = ValueTransform(config)
    assert transform.repair(transform.inverse(torch.tensor([standard]))) > 0


@given(seeds, st.booleans(), st.sampled_from([0.0, 0.25, 1 / 255]), st.sampled_from([0.0, 1.0]))
def test_repaired_values_are_values_of_the_data(seed, signed, step, largest_value) -> None:
    smallest = step or 1e-3
    config = SAVAEConfig(
        dim=3,
        signed=signed,
        value_step=step,
        value_smallest=smallest,
        value_largest=largest_value,
    )
    wild = torch.cat([torch.randn(50, generator=seeded(seed)), torch.tensor([0.0, -0.0, 1e-9])])
    found = ValueTransform(config).repair(wild)
    assert (found != 0).all()
    assert (found.abs() >= smallest * 0.999).all()
    assert signed or (found > 0).all()
    assert not largest_value or (found.abs() <= largest_value).all()
    if step:
        steps = found.double() / step
        assert largest(steps, steps.round()) < 1e-4
    good = (wild.abs() >= smallest) & (wild.abs() <= 1) & (signed | (wild > 0))
    assert largest(found[good], wild[good]) <= step / 2 + 1e-6  # else left as it is


def test_lognormal_moments_by_sampling() -> None:
    config = SAVAEConfig(dim=3, value_law="lognormal", value_mean=-1.0, value_sd=0.5)
    transform = ValueTransform(config)
    mean, sd = transform.moments(torch.tensor([0.4]), torch.tensor([0.6]))
    draws = transform.inverse(0.4 + 0.6 * torch.randn(200_000, generator=seeded(0)))
    assert draws.mean().item() == pytest.approx(mean.item(), rel=0.01)
    assert draws.std().item() == pytest.approx(sd.item(), rel=0.03)


def test_a_fixed_law_decodes_its_mean() -> None:
    model = savae(value_law="fixed")
    z = latent(model, 3)
    hot = last(model.decode(z, generator=seeded(0), detail=False))
    steps = record(model.decode(z, generator=seeded(0))).steps
    assert equal(hot, steps[-1].x)
    for step in steps:
        real = step.aux["value"] != 0
        wanted = model.transform.repair(step.aux["mean"])
        assert largest(step.aux["value"][real], wanted[real]) < 1e-6


# causality --------------------------------------------------------------------------------------


@past_ways
def test_later_pairs_do_not_reach_earlier_laws(way) -> None:
    model, batch = savae(**way).double(), pairs(4, share=0.6)
    z, i = latent(model, len(batch)).double(), 3
    value = batch.value.double().requires_grad_()
    h = model.decoder(batch.index, value, z)
    (gradient,) = torch.autograd.grad(h[:, : i + 1].square().sum(), value)
    assert (gradient[:, i:] == 0).all()  # the state at i sees pairs 0..i-1
    assert (gradient[:, :i] != 0).all()
    index = batch.index.clone()
    index[:, i:] = (index[:, i:] + 7) % model.config.dim
    other = model.decoder(index, value * 3, z)
    assert largest(other[:, 0], h[:, 0]) < 1e-12
    changed = value.detach().clone()
    changed[:, i:] *= 3
    other = model.decoder(index, changed, z)
    assert largest(other[:, : i + 1], h[:, : i + 1]) < 1e-12
    assert largest(other[:, i + 1 :], h[:, i + 1 :]) > 1e-3


def test_value_law_sees_its_own_index_but_not_its_value() -> None:
    model = savae()
    h = torch.randn(4, model.config.width, generator=seeded(0))
    a, b = (model.decoder.value_law(h, torch.full((4,), j), None)[0] for j in (3, 11))
    assert largest(a, b) > 1e-3


@pytest.mark.parametrize("z_cond", ["bias", "prefix", "cross"])
def test_the_latent_of_a_row_reaches_that_row_only(z_cond) -> None:
    model, batch = savae(z_cond=z_cond), pairs(4)
    z = latent(model, len(batch))
    h = model.decoder(batch.index, batch.value, z)
    z[2] += 1
    other = model.decoder(batch.index, batch.value, z)
    assert largest(other[2], h[2]) > 1e-2
    rest = [0, 1, 3, 4, 5, 6]
    assert torch.equal(other[rest], h[rest])


def test_cross_is_attention_over_one_key() -> None:
    model = savae(z_cond="cross")
    width, size = model.config.width, model.config.latent
    z = latent(model, 3)
    for layer, shift in enumerate(model.decoder.shifts(z)):
        inner, outer = model.decoder.condition[layer]
        peer = nn.MultiheadAttention(width, 2, kdim=size, vdim=size, batch_first=True)
        with torch.no_grad():
            peer.v_proj_weight.copy_(inner.weight)
            peer.in_proj_bias[2 * width :] = inner.bias
            peer.out_proj.weight.copy_(outer.weight)
            peer.out_proj.bias.copy_(outer.bias)
        query = torch.randn(3, 5, width, generator=seeded(layer))  # whatever asks, the key is one
        found, _ = peer(query, z[:, None], z[:, None])
        assert largest(found, shift.expand_as(found)) < 1e-5


def test_cross_equals_bias_with_the_product_of_its_weights() -> None:
    cross, batch = savae(z_cond="cross"), pairs(1)
    bias = SAVAE(asdict_config(cross.config, z_cond="bias"))
    state = {k: v for k, v in cross.state_dict().items() if "condition" not in k}
    for layer in range(cross.config.decoder_layers):
        inner, outer = cross.decoder.condition[layer]
        state[f"decoder.condition.{layer}.weight"] = outer.weight @ inner.weight
        state[f"decoder.condition.{layer}.bias"] = outer.weight @ inner.bias + outer.bias
    bias.load_state_dict(state)
    z = latent(cross, len(batch))
    for a, b in zip(cross.nll(batch, z), bias.nll(batch, z), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4)


# the cache --------------------------------------------------------------------------------------


@past_ways
def test_stepwise_states_equal_teacher_forcing_in_double_precision(way) -> None:
    model, batch = savae(**way).double(), pairs(5, share=0.5)
    z, value = latent(model, len(batch)).double(), batch.value.double()
    with torch.no_grad():
        whole = model.decoder(batch.index, value, z)
        token, layers = model.decoder.first(z), model.decoder.cached(z, size=4)
        for i in range(whole.shape[1]):
            h = model.decoder.advance(token[:, 0], layers)
            assert largest(h, whole[:, i]) < 1e-9
            if i < batch.index.shape[1]:
                token = model.decoder.embed(batch.index[:, i : i + 1], value[:, i : i + 1])


@every_way
def test_decoded_laws_equal_teacher_forced_laws(way) -> None:
    """Every law a ragged batch was decoded with, again in one parallel pass over what came out.

    Rows end at different lengths and are dropped on the way, so this covers the row book-keeping.
    """
    model = savae(**way)
    z = latent(model, 9)
    steps = record(model.decode(z, generator=seeded(3))).steps
    x = steps[-1].x
    assert len(x.nnz.unique()) > 2
    with torch.no_grad():
        base = model.base(z)
        h = model.decoder(x.index, model.transform.forward(x.value), z)
        _, before, real = model._targets(x)
        used = model._used(x) if way["mask"] == "used" else None
        value_at = base.value_at(x.index)
        mean, sd = model.decoder.value_law(h[:, :-1], x.index, value_at)
        mean, sd = model.transform.moments(mean, sd)
        for i, step in enumerate(steps):
            alive = real[:, i] if i < real.shape[1] else torch.zeros(9).bool()
            if not alive.any():
                continue
            law = model.decoder.index_head.law(
                h[:, i], before[:, i], base.index, 1.0, None if used is None else used[:, i : i + 1]
            )
            assert largest(step.aux["next"][alive], law[alive]) < 1e-4
            assert torch.equal(step.aux["index"] == -1, ~alive)
            assert torch.equal(step.aux["stop"], step.aux["next"][:, -1])
            assert (step.aux["next"][alive].sum(1) - 1).abs().max() < 1e-5
            chose = alive & (step.aux["index"] < model.config.dim)
            if chose.any():
                assert torch.equal(step.aux["index"][chose], x.index[chose, i])
                assert torch.equal(step.aux["value"][chose], x.value[chose, i])
                assert largest(step.aux["mean"][chose], mean[chose, i]) < 1e-4
                assert largest(step.aux["sd"][chose], sd[chose, i]) < 1e-4
                prob = law.gather(1, step.aux["index"].clamp_min(0)[:, None])[:, 0]
                assert largest(step.aux["prob"][chose], prob[chose]) < 1e-4
            assert (step.aux["value"][~chose] == 0).all()
            top = law[:, :-1].topk(5).values
            assert largest(step.aux["top_prob"][alive], top[alive]) < 1e-4


@past_ways
def test_decoded_laws_add_up_to_the_nll(way) -> None:
    model = savae(**way)
    z = latent(model, 6)
    steps = record(model.decode(z, generator=seeded(3))).steps
    of_index, of_value = torch.zeros(2, 6, dtype=torch.float64)
    for step in steps:
        alive = step.aux["index"] >= 0
        of_index -= torch.where(alive, step.aux["prob"].double().log(), 0.0)
        chose = alive & (step.aux["index"] < model.config.dim)
        value, mean, sd = (step.aux[name].double() for name in ("value", "mean", "sd"))
        density = gaussian_nll(value, mean, sd.clamp_min(1e-9)) - log(model.config.value_sd)
        of_value += torch.where(chose, density, 0.0)
    index, value = model.nll(steps[-1].x, z)
    assert largest(of_index, index.double()) < 1e-3  # some thirty float32 logs a row
    assert torch.allclose(of_value, value.double(), rtol=1e-3, atol=1e-3)


# decoding ---------------------------------------------------------------------------------------


@some_ways
def test_detail_changes_nothing_but_the_detail(way) -> None:
    model = savae(**way)
    z = latent(model, 9)
    plain = record(model.decode(z, generator=seeded(3), detail=False)).steps
    told = record(model.decode(z, generator=seeded(3))).steps
    assert [(s.i, s.n, s.t) for s in plain] == [(s.i, s.n, s.t) for s in told]
    assert all(equal(a.x, b.x) for a, b in zip(plain, told, strict=True))
    assert all(not step.aux for step in plain)


@some_ways
def test_each_row_is_the_same_alone(way) -> None:
    model = savae(**way)
    z, n = latent(model, 9), 9
    whole = last(model.decode(z, generator=seeded(3), detail=False))
    assert len(whole.nnz.unique()) > 2
    for k in range(n):
        chance = split(seeded(3), n)[k : k + 1]
        alone = last(model.decode(z[k : k + 1], generator=chance, detail=False))
        assert torch.equal(alone.pairs(0)[0], whole.pairs(k)[0])
        assert largest(alone.pairs(0)[1], whole.pairs(k)[1]) < 1e-4


@pytest.mark.parametrize("head", ["flat", "blocked"])
def test_long_rows_are_the_same_alone_after_others_have_left(head) -> None:
    """Beyond the first chunk of noise, and with two rows of three dropped at the first step."""
    model, n = savae(150, index_head=head), 6
    with torch.no_grad():
        model.draft_head.logit.bias += 2.0
    z, first = latent(model, n), torch.tensor([150, 0, 150, 150, 150, 0])
    whole = last(model.decode(z, choose=first, generator=seeded(3), detail=False))
    assert whole.nnz[first > 0].tolist() == [0] * 4
    for k in (1, 5):
        assert whole.nnz[k] > 80
        chance = split(seeded(3), n)[k : k + 1]
        alone = last(model.decode(z[[k]], choose=first[[k]], generator=chance, detail=False))
        assert torch.equal(alone.pairs(0)[0], whole.pairs(k)[0])
        assert largest(alone.pairs(0)[1], whole.pairs(k)[1]) < 1e-4


@some_ways
def test_steps_count_pairs(way) -> None:
    model = savae(**way)
    before = None
    trace = record(model.decode(latent(model, 9), generator=seeded(3)))
    for i, step in enumerate(trace.steps, start=1):
        assert (step.stage, step.i) == ("pairs", i)
        assert step.n >= step.i
        assert 0 <= step.t <= 1
        stops = step.aux["index"] == model.config.dim
        grew = step.aux["index"] >= 0
        nnz = torch.zeros(9).long() if before is None else before.x.nnz
        assert torch.equal(step.x.nnz, nnz + (grew & ~stops))
        if before is not None:
            assert step.n <= before.n
            assert step.t <= before.t
            width = before.x.index.shape[1]
            assert torch.equal(step.x.index[:, :width], before.x.index)
            assert torch.equal(step.x.value[:, :width], before.x.value)
        before = step
    assert [step.i == step.n for step in trace.steps] == [False] * (len(trace.steps) - 1) + [True]
    assert trace.steps[-1].t == 0


@past_ways
def test_constrained_decodes_of_random_weights_are_valid(way) -> None:
    """10,000 in all over the ways of this test, of models that know nothing."""
    dim, rows = 12, 10_000 // len(PAST) + 1
    for seed in range(3):
        model = savae(dim, seed, **{**way, "max_pairs": 0})
        z = latent(model, rows // 3 + 1, seed)
        states = [step.x for step in model.decode(z, generator=seeded(seed), detail=False)]
        x, steps = states[-1], len(states)
        SparseBatch(x.index, x.value, x.mask, x.dim)  # ascending, in range, no zero, clean padding
        assert ascending(x)
        assert steps <= dim + 1
        assert x.nnz.max() == steps - 1
        full = x.to_dense()
        assert torch.equal((full != 0).sum(1), x.nnz)
        assert (x.to_csr().toarray() == full.numpy()).all()


def test_without_a_mask_order_goes_wrong() -> None:
    model = savae(12, mask="none", max_pairs=18)
    x = last(model.decode(latent(model, 200), generator=seeded(0), detail=False))
    wrong = sum(x.pairs(k)[0].tolist() != sorted(set(x.pairs(k)[0].tolist())) for k in range(200))
    assert wrong > 20
    assert not ascending(x)
    assert x.nnz.max() <= 12


def test_used_dimensions_come_once() -> None:
    model = savae(12, mask="used")
    x = last(model.decode(latent(model, 200), generator=seeded(0), detail=False))
    for k in range(200):
        index = x.pairs(k)[0]
        assert len(index.unique()) == len(index)
    assert not ascending(x)


def test_a_cap_ends_rows() -> None:
    model = savae(max_pairs=3)
    steps = record(model.decode(latent(model, 30), generator=seeded(0))).steps
    assert steps[-1].x.nnz.max() == 3
    assert len(steps) == 4
    assert steps[0].n <= 4


@some_ways
def test_temperature_zero_needs_no_chance(way) -> None:
    model = savae(**way)
    z = latent(model, 5)
    cold = {"temperature": 0, "value_temperature": 0}
    a, b = (last(model.decode(z, generator=seeded(s), **cold, detail=False)) for s in (1, 2))
    assert equal(a, b)
    steps = record(model.decode(z, generator=seeded(3), **cold)).steps
    assert equal(steps[-1].x, a)
    for step in steps:
        going = step.aux["index"] >= 0
        if step.i <= model.config.dim:  # beyond, stop is forced
            assert (step.aux["prob"][going] == 1).all()
        chose = going & (step.aux["index"] < model.config.dim)
        wanted = model.transform.repair(step.aux["mean"])
        assert largest(step.aux["value"][chose], wanted[chose]) < 1e-6


def test_low_temperatures_approach_zero() -> None:
    """A flat head nearly at temperature 0 follows its most probable path."""
    model = savae()
    z = latent(model, 5)
    cold = last(model.decode(z, temperature=0, generator=seeded(1), detail=False))
    cool = last(model.decode(z, temperature=1e-3, generator=seeded(1), detail=False))
    assert equal(cold, cool)


# forks ------------------------------------------------------------------------------------------


@past_ways
def test_same_prefix_and_chance_go_on_the_same(way) -> None:
    model = savae(**way)
    z = latent(model, 5)
    steps = record(model.decode(z, generator=seeded(3))).steps
    for cut in (1, 2, 3):
        prefix = steps[cut - 1].x
        again = record(model.decode(z, prefix=prefix, generator=seeded(3))).steps
        start = int(prefix.nnz.min())
        assert [s.i for s in again] == list(range(start + 1, len(steps) + 1))
        assert [s.n for s in again] == [s.n for s in steps[start:]]
        for a, b in zip(again[cut - start :], steps[cut:], strict=True):
            assert equal(a.x, b.x)
            assert largest(a.aux["next"], b.aux["next"]) < 1e-6


@past_ways
def test_a_fork_differs_after_the_chosen_pair_only(way) -> None:
    model = savae(**way)
    z = latent(model, 12)
    chance = [seeded(5) for _ in range(12)]
    longest = last(model.decode(z, generator=chance, detail=False)).nnz.argmax()
    z = z[longest][None]
    steps = record(model.decode(z, generator=seeded(5))).steps
    assert len(steps) > 4
    prefix, taken = steps[1].x, int(steps[2].aux["index"])
    law = steps[2].aux["next"][0].clone()
    law[taken] = 0
    other = law[:-1].argmax()[None]
    fork = record(model.decode(z, prefix=prefix, choose=other, generator=seeded(5))).steps
    x = fork[-1].x
    index, value = x.pairs(0)
    assert torch.equal(index[:2], prefix.pairs(0)[0])
    assert torch.equal(value[:2], prefix.pairs(0)[1])
    assert index[2] == other
    assert largest(fork[0].aux["next"], steps[2].aux["next"]) < 1e-6
    assert fork[0].aux["prob"].item() == pytest.approx(law[other].item(), rel=1e-4)
    same = record(model.decode(z, prefix=prefix, choose=torch.tensor([taken]), generator=seeded(5)))
    assert equal(same.x, steps[-1].x)


@past_ways
def test_ragged_prefixes_equal_each_alone(way) -> None:
    model = savae(**way)
    z, n = latent(model, 6), 6
    whole = last(model.decode(z, generator=seeded(3), detail=False))
    keep = torch.arange(whole.index.shape[1]) < (torch.arange(n) % 4)[:, None]
    dense = SparseBatch.from_dense(whole.to_dense())
    mask = dense.mask & keep
    prefix = SparseBatch(dense.index * mask, dense.value * mask, mask, dense.dim)
    assert len(prefix.nnz.unique()) > 2
    open_dims = torch.where(mask, prefix.index, -1).max(1).values + 1  # the next, or stop
    together = last(
        model.decode(z, prefix=prefix, choose=open_dims, generator=seeded(9), detail=False)
    )
    for k in range(n):
        alone = last(
            model.decode(
                z[k : k + 1],
                prefix=prefix[[k]],
                choose=open_dims[k : k + 1],
                generator=split(seeded(9), n)[k : k + 1],
                detail=False,
            )
        )
        assert torch.equal(alone.pairs(0)[0], together.pairs(k)[0])
        assert largest(alone.pairs(0)[1], together.pairs(k)[1]) < 1e-4
        length = int(prefix.nnz[k])
        assert torch.equal(together.pairs(k)[0][:length], prefix.pairs(k)[0])
        assert torch.equal(together.pairs(k)[1][:length], prefix.pairs(k)[1])
        if open_dims[k] < 20:
            assert together.pairs(k)[0][length] == open_dims[k]


def test_choosing_stop_ends_the_row() -> None:
    model = savae()
    z = latent(model, 2)
    prefix = record(model.decode(z, generator=seeded(3))).steps[0].x
    trace = record(
        model.decode(z, prefix=prefix, choose=torch.tensor([20, 20]), generator=seeded(3))
    )
    assert len(trace.steps) == 1
    assert equal(trace.x, prefix)
    nothing = last(model.decode(z, choose=torch.tensor([20, 20]), generator=seeded(3)))
    assert nothing.nnz.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or a positive number, got -1"),
        ({"value_temperature": float("nan")}, "temperature must be 0 or a positive number"),
        ({"prefix": pairs(0, rows=2, dim=21)}, "2 rows of 20 dimensions, got 2 of 21"),
        ({"prefix": pairs(0, rows=3)}, "2 rows of 20 dimensions, got 3 of 20"),
        ({"prefix": pairs(0, rows=2, share=1.0)}, "up to 20 pairs, this model stops at 15"),
        ({"choose": torch.tensor([1, 21])}, r"from 0 to 20 \(stop\)"),
        ({"choose": torch.tensor([-1, 3])}, r"from 0 to 20 \(stop\)"),
        ({"generator": [seeded(0)]}, "one generator a sample"),
        (
            {"prefix": pairs(0, rows=2, share=0.5), "choose": torch.tensor([20, 0])},
            "row 1 can't choose 0 after its prefix",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(options, message: str) -> None:
    model = savae(max_pairs=15)
    with pytest.raises(ValueError, match=message):
        model.decode(latent(model, 2), **{"generator": seeded(0), **options})


def test_a_latent_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="latent has 6 entries, got 7"):
        savae().decode(torch.zeros(2, 7), generator=seeded(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 15}, "width must be even and divide by heads, got 15"),
        ({"index_head": "blocked", "mask": "used"}, "'used' needs the flat head"),
        ({"value_law": "lognormal", "signed": True}, "positive data"),
    ],
)
def test_configurations_that_can_not_be_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAVAEConfig(dim=20, **options)


# work -------------------------------------------------------------------------------------------


def test_work_of_a_pair_is_the_formula() -> None:
    """Multiply-adds of one cached step: 12 d^2 L + 2 t d L + d (s + 1) (sed.md, 9.2)."""
    d, layers, s, t = 64, 3, 784, 40
    model = savae(s, width=d, heads=4, decoder_layers=layers, draft="none")
    z = latent(model, 1)
    h, token, blocks = torch.zeros(1, d), model.decoder.first(z)[:, 0], model.decoder.cached(z)
    for block in blocks:
        block.length = t
    last_index, u = torch.tensor([-1]), torch.zeros(1)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counted = {
        kernel: lambda q, k, v, *_, **__: sdpa_flop(q, k, v),
        torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    }
    with FlopCounterMode(display=False, custom_mapping=counted) as counter, torch.no_grad():
        model.decoder.advance(token, blocks)
        model.decoder.index_head.pick(h, last_index, None, u, 1.0)
    formula = 12 * d**2 * layers + 2 * t * d * layers + d * (s + 1)
    assert counter.get_total_flops() / 2 == pytest.approx(formula, rel=0.05)
