"""SED: guidance, self-conditioning, standard latents, and one stream from noise to pairs."""

import hashlib

import pytest
import torch
from small import equal, largest, pairs, savae, sed, untouched_global_chance
from torch import Tensor

from sed_core.chance import seeded, split
from sed_core.diffusion import hide
from sed_core.sed import SED
from sed_core.stream import last, record
from sed_core.training import fit


def latent(model: SED, rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, model.savae.config.latent, generator=seeded(seed))


def end(model: SED, n: int = 4, seed: int = 7, **options) -> Tensor:
    return last(model.diffuse(n, steps=6, generator=seeded(seed), **options))


def digest(module: torch.nn.Module) -> str:
    parts = [p.detach().numpy().tobytes() for p in module.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# latents ----------------------------------------------------------------------------------------


def test_public_latents_are_standardised() -> None:
    model, batch = sed(), pairs(0, rows=300)
    with torch.no_grad():
        raw, raw_logvar = model.savae.encode(batch)
        model.standardise(raw)
        mu, logvar = model.encode(batch)
    assert largest(mu.mean(0), torch.zeros(6)) < 1e-4
    assert largest(mu.var(0), torch.ones(6)) < 0.02
    assert largest(model._raw(mu), raw) < 1e-6 * raw.abs().max()  # the normaliser inverts
    sd = (raw_logvar / 2).exp()
    assert largest((logvar / 2).exp() * model.latent_sd, sd) < 1e-4 * sd.max()


def test_decode_and_draft_see_what_encode_gives() -> None:
    """Standardising changes units, not results."""
    model = sed()
    z = latent(model, 5)
    raw = z * model.latent_sd + model.latent_mean
    ours = last(model.decode(z, generator=seeded(1), detail=False))
    inner = last(model.savae.decode(raw, generator=seeded(1), detail=False))
    assert equal(ours, inner)
    for a, b in zip(model.draft(z), model.savae.draft(raw), strict=True):
        assert torch.equal(a, b)


def test_draft_is_a_probability_and_a_value_of_the_data() -> None:
    model = sed(value_step=1 / 255, value_smallest=1 / 255, value_largest=1.0)
    prob, value = model.draft(latent(model, 3))
    assert prob.shape == value.shape == (3, 20)
    assert ((prob > 0) & (prob < 1)).all()
    assert ((value > 0) & (value <= 1)).all()
    with pytest.raises(ValueError, match="has no draft head"):
        sed(draft="none").draft(latent(model, 3))


def test_reconstruct_is_the_cold_decoding_of_the_mean() -> None:
    model, batch = sed(), pairs(0)
    with untouched_global_chance():
        first, again = model.reconstruct(batch), model.reconstruct(batch)
    assert equal(first, again)
    mu, _ = model.encode(batch)
    cold = {"temperature": 0, "value_temperature": 0, "detail": False}
    assert equal(first, last(model.decode(mu.detach(), generator=seeded(9), **cold)))


# denoiser ---------------------------------------------------------------------------------------


def test_guidance_zero_is_unconditional_and_one_is_conditional() -> None:
    model = sed()
    plain, asked = end(model), end(model, label=1, guidance=1.0)
    assert torch.equal(end(model, label=1, guidance=0.0), plain)
    assert largest(asked, plain) > 1e-3
    assert largest(end(model, label=2), asked) > 1e-3
    assert torch.equal(end(model, guidance=3.0), plain)  # nothing to guide to


def test_guidance_extrapolates_from_plain_to_asked() -> None:
    """One step from noise: the guess itself, on a line through both answers."""
    model = sed()
    step = lambda **options: last(model.diffuse(4, steps=1, generator=seeded(7), **options))  # noqa: E731
    plain, asked = step(), step(label=1)
    for guidance in (0.5, 2.0, 4.0):
        wanted = plain + guidance * (asked - plain)
        assert largest(step(label=1, guidance=guidance), wanted) < 1e-4


def test_labels_are_one_for_all_or_one_a_sample() -> None:
    model = sed()
    each = end(model, n=3, label=torch.tensor([2, 0, 2]))
    for label in (0, 2):
        rows = torch.tensor([2, 0, 2]) == label
        assert largest(each[rows], end(model, n=3, label=label)[rows]) < 1e-5


def test_each_step_is_told_the_guess_before() -> None:
    model = sed()
    seen: list[Tensor] = []
    model.denoiser.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    steps = record(model.diffuse(2, steps=5, generator=seeded(0))).steps
    assert (seen[0] == 0).all()
    for told, step in zip(seen[1:], steps, strict=False):
        assert torch.equal(told, step.x0)


def test_streams_side_by_side_do_not_share_memory() -> None:
    model = sed()
    alone = end(model)
    a, b = (model.diffuse(4, steps=6, generator=seeded(seed)) for seed in (7, 8))
    ends = [step.x for step, _ in zip(a, b, strict=True)]
    assert torch.equal(ends[-1], alone)


def test_self_conditioning_is_used_half_the_time_and_carries_no_gradient() -> None:
    model, z, calls = sed(), torch.ones(1, 6), []
    whole = model.denoiser.forward
    model.denoiser.forward = lambda z_t, *_: z_t  # counting needs no network
    model.denoiser.register_forward_hook(
        lambda module, given, output: calls.append((given[2], output.requires_grad))
    )
    chance = seeded(0)
    with torch.no_grad():
        for _ in range(2000):
            model.latent_loss(z, generator=chance)
    doubled = len(calls) - 2000
    assert abs(doubled / 2000 - 0.5) < 4 * 0.5 / 2000**0.5  # four standard errors
    calls.clear()
    model.denoiser.forward = whole
    while len(calls) < 2:
        calls.clear()
        model.latent_loss(z, generator=chance)
    (nothing, first_grad), (guess, second_grad) = calls
    assert (nothing == 0).all()
    assert (guess != 0).any()
    assert not guess.requires_grad
    assert (first_grad, second_grad) == (False, True)


def test_without_self_conditioning_the_guess_is_zero() -> None:
    """Zeros are the "none" path: with it never used, one call a step, told zeros."""
    model = sed()
    object.__setattr__(model.denoiser.config, "self_conditioning", 0.0)
    told: list[Tensor] = []
    model.denoiser.register_forward_pre_hook(lambda _, given: told.append(given[2]))
    for seed in range(20):
        model.latent_loss(latent(model, 2), generator=seeded(seed))
    assert len(told) == 20
    assert all((part == 0).all() for part in told)


def test_labels_are_hidden_at_the_stated_share() -> None:
    model, n = sed(), 20_000
    c = model.denoiser.config
    hidden = hide(torch.ones(n, dtype=torch.int64), c.classes, c.label_dropout, seeded(0))
    share = (hidden == c.classes).float().mean().item()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5
    assert (hidden[hidden != 3] == 1).all()


def test_latent_training_leaves_the_autoencoder_alone() -> None:
    model = sed()
    model.requires_grad_(True)
    before = digest(model.savae)
    z = latent(model, 8)
    run = fit(
        model.denoiser,
        [z] * 5,
        lr=1e-2,
        precision="float32",
        generator=seeded(0),
        loss=lambda batch, chance: model.latent_loss(batch, label=1, generator=chance),
    )
    start = digest(model.denoiser)
    list(run)
    assert digest(model.savae) == before
    assert digest(model.denoiser) != start


def test_no_gradient_of_the_latent_loss_reaches_the_autoencoder() -> None:
    model, batch = sed(), pairs(0)
    chance = seeded(0)
    whole = model.loss(batch, label=1, generator=chance)
    whole.parts["denoiser"].backward()
    assert all(p.grad is None for p in model.savae.parameters())
    assert all(p.grad is not None for p in model.denoiser.parameters())


@pytest.mark.parametrize("target", ["x0", "eps", "v"])
def test_every_target_is_a_different_view_of_one_guess(target) -> None:
    """A network that outputs the true target is an oracle, whatever the target."""
    from sed_core.gaussian import target as true_target

    model = sed()
    object.__setattr__(model.denoiser.config, "target", target)
    z0 = latent(model, 4)
    schedule = model.denoiser.schedule

    def oracle(z_t: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        ab = schedule(t.double())[:, None]
        eps = ((z_t - ab.sqrt() * z0) / (1 - ab).sqrt()).float()
        return true_target(target, schedule, z0, t, eps)

    model.denoiser.forward = oracle
    assert largest(end(model), z0) < 1e-4  # eps divides by a small signal at t = 1


# streams ----------------------------------------------------------------------------------------


def test_a_stream_is_its_latent_part_and_its_pairs_part() -> None:
    model = sed()
    options = {"steps": 4, "label": 2, "guidance": 2.0, "eta": 0.5}
    whole = record(model.stream(3, **options, temperature=0.8, generator=seeded(7))).steps
    chance = split(seeded(7), 3)
    first = record(model.diffuse(3, **options, generator=chance))
    rest = record(model.decode(first.x, temperature=0.8, generator=chance))
    assert [s.stage for s in whole] == ["latent"] * 4 + ["pairs"] * len(rest.steps)
    assert all(torch.equal(a.x, b.x) for a, b in zip(whole[:4], first.steps, strict=True))
    assert all(equal(a.x, b.x) for a, b in zip(whole[4:], rest.steps, strict=True))
    assert equal(model.sample(3, **options, temperature=0.8, generator=seeded(7)), rest.x)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sample_three_of_seed_seven_is_the_same_alone(sampler) -> None:
    model = sed()
    options = {"steps": 5, "sampler": sampler, "label": 1, "guidance": 2.0}
    whole = model.sample(12, generator=seeded(7), **options)
    assert len(whole.nnz.unique()) > 2
    for k in (0, 3, 11):
        alone = model.sample(1, generator=split(seeded(7), k + 1)[k:], **options)
        assert torch.equal(alone.pairs(0)[0], whole.pairs(k)[0])
        assert largest(alone.pairs(0)[1], whole.pairs(k)[1]) < 1e-4


def test_ddpm_and_noisy_ddim_draw_their_own_noise() -> None:
    model = sed()
    deterministic = end(model)
    assert largest(end(model, eta=1.0), deterministic) > 1e-3
    assert largest(end(model, sampler="ddpm"), deterministic) > 1e-3
    # the noise of a sample is one stream, so eta = 1 and ddpm are one law and one draw
    assert largest(end(model, eta=1.0), end(model, sampler="ddpm")) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "number of samples must be a whole number of at least 1, got 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"eta": 1.5}, r"eta must be from 0 to 1, got 1\.5"),
        ({"eta": float("nan")}, "eta must be from 0 to 1, got nan"),
        ({"guidance": -1.0}, "guidance must be from 0 to 100, got -1"),
        ({"label": 4}, "label must be from 0 to 2, got 4"),
        ({"label": -1}, "label must be from 0 to 2, got -1"),
        ({"label": torch.tensor([1, 2, 0])}, "one for each of 2 samples"),
        ({"generator": [seeded(0)] * 3}, r"one generator a sample \(2\), got 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(options, message: str) -> None:
    model = sed()
    given = {"n": 2, "generator": seeded(0), **options}
    with pytest.raises(ValueError, match=message):
        model.stream(given.pop("n"), **given)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises((ValueError, TypeError)):  # in tests jaxtyping's hook is there first
        sed().stream(2, sampler="euler", generator=seeded(0))  # type: ignore[arg-type]


def test_a_model_without_classes_takes_no_label() -> None:
    with pytest.raises(ValueError, match="trained without classes"):
        sed(classes=0).sample(2, label=1, generator=seeded(0))
    assert len(sed(classes=0).sample(2, steps=2, generator=seeded(0))) == 2


def test_data_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="for 20 dimensions, got data of 21"):
        sed().encode(pairs(0, dim=21))


def test_parts_of_different_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="share one latent size, got 6 and 7"):
        SED(savae().config, type(sed().denoiser.config)(latent=7))
