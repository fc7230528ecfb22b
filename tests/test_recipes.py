"""A recipe end to end at toy size: three stages, a checkpoint that loads, a rerun that resumes."""

from pathlib import Path

import pytest
import torch

from sed_core import hub, recipes
from sed_core.chance import seeded
from sed_core.domains.digits import Digits
from sed_core.recipes import Plan, Stage
from sed_core.sed import SED

TINY = Plan(
    draft=Stage(steps=4, rows=8, lr=1e-3),
    savae=Stage(steps=3, rows=4, lr=1e-3),
    latent=Stage(steps=5, rows=16, lr=1e-3),
)

Finished = tuple[Path, list[tuple[str, int, float]]]


def some_digits(n: int = 60) -> Digits:
    chance = seeded(0)
    images = torch.randint(1, 256, (n, 784), generator=chance, dtype=torch.uint8)
    empty = torch.rand(n, 784, generator=chance) > 0.05
    return Digits(images.masked_fill(empty, 0), torch.arange(n) % 10)


def train(out: Path) -> list[tuple[str, int, float]]:
    run = recipes.train_sed_digits(
        "sed-mnist",
        some_digits(),
        budget="cpu",
        out=out,
        seed=0,
        device=torch.device("cpu"),
        plan=TINY,
    )
    return [(p.stage, p.step, p.total.item()) for p in run]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run for all tests, and what it told."""
    out = tmp_path_factory.mktemp("run")
    state = torch.random.get_rng_state()
    told = train(out)
    assert torch.equal(torch.random.get_rng_state(), state)  # global chance is left alone
    return out, told


def test_three_stages_then_a_checkpoint_that_samples(
    finished: Finished,
) -> None:
    out, told = finished
    assert [(stage, step) for stage, step, _ in told] == [
        *(("draft", k) for k in range(1, 5)),
        *(("savae", k) for k in range(1, 4)),
        *(("latent", k) for k in range(1, 6)),
    ]
    model = hub.load(out / "checkpoint", device="cpu")
    assert isinstance(model, SED)
    batch = model.sample(2, steps=2, label=3, generator=seeded(1))
    assert batch.dim == 784
    assert batch.nnz.min() >= 0
    training = hub.figures(out / "checkpoint")["training"]
    assert training["stages"]["draft"]["steps"] == 4
    assert training["stages"]["latent"]["seconds"] > 0


def test_a_finished_run_goes_on_from_its_store_and_saves_the_same(
    finished: Finished,
) -> None:
    out, _ = finished
    first = hub.load(out / "checkpoint", device="cpu").state_dict()
    assert train(out) == []  # every stage was found finished
    again = hub.load(out / "checkpoint", device="cpu").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_public_latents_have_mean_zero_and_sd_one(
    finished: Finished,
) -> None:
    out, _ = finished
    model = hub.load(out / "checkpoint", device="cpu")
    assert isinstance(model, SED)
    mu, _ = model.encode(some_digits().batch())
    assert mu.mean(0).abs().max() < 0.02  # half precision of the stored weights
    assert (mu.std(0) - 1).abs().max() < 0.02


def test_the_map_keeps_the_classes_apart() -> None:
    """Three clouds that differ along one of eight axes stay apart in the plane."""
    labels = torch.arange(300) % 3
    z = torch.randn(300, 8, generator=seeded(0), dtype=torch.float64)
    z[:, 5] += 10.0 * labels
    found = recipes.latent_map(z, labels)
    xy, label = found["xy"].float(), found["label"]
    centres = torch.stack([xy[label == k].mean(0) for k in range(3)])
    gaps = torch.cdist(centres, centres) + 100 * torch.eye(3)
    assert gaps.min() > 5
    assert xy[label == 0].std(0).mean() < 1.5  # inside a class the plane is scaled to about one
    shown = z.float() @ found["project"] + found["origin"]
    assert shown.mean(0).abs().max() < 1e-4


def test_an_unknown_name_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe for sed-mnist, judge-mnist, got 'nope'"):
        list(recipes.train("nope", out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
