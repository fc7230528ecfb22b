"""A recipe end to end at toy size: three stages, a checkpoint that loads, a rerun that resumes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from sed_core import counts_recipes, hub, recipes
from sed_core.chance import seeded
from sed_core.sed import SED
from sed_core.sparse import SparseBatch
from sed_core.stages import CountsSet, Run, Stage, TrainingSet, latent_map

TINY = {
    "draft": Stage(steps=4, rows=8, lr=1e-3),
    "savae": Stage(steps=3, rows=4, lr=1e-3),
    "latent": Stage(steps=5, rows=16, lr=1e-3),
}
PEERS = {
    "ddpm-mnist": {"dense": Stage(steps=3, rows=4, lr=1e-3)},
    "bits-ecal": {"dense": Stage(steps=3, rows=4, lr=1e-3)},
    "sarm-mnist": {"dense": Stage(steps=3, rows=4, lr=1e-3)},
    "ldm-ecal": {
        "autoencoder": Stage(steps=3, rows=4, lr=1e-3),
        "latent": Stage(steps=3, rows=16, lr=1e-3),
    },
}

Finished = tuple[Path, list[tuple[str, int, float]]]


def some_rows(n: int = 60, side: int = 28) -> TrainingSet:
    chance = seeded(0)
    x = torch.randint(1, 256, (n, side**2), generator=chance) / 255
    empty = torch.rand(n, side**2, generator=chance) > 0.05
    return TrainingSet(
        SparseBatch.from_dense(x.masked_fill(empty, 0)), torch.arange(n) % 10, 10, side
    )


def train(out: Path) -> list[tuple[str, int, float]]:
    run = Run(out, 0, torch.device("cpu"))
    told = recipes.train_sed("sed-mnist", some_rows(), TINY, run, "sed-core train sed-mnist")
    return [(p.stage, p.step, p.total.item()) for p in told]


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
    mu, _ = model.encode(some_rows().batch)
    assert mu.mean(0).abs().max() < 0.15  # eight bits of the stored weights, a hardly trained model
    assert (mu.std(0) - 1).abs().max() < 0.05


def test_the_map_keeps_the_classes_apart() -> None:
    """Three clouds that differ along one of eight axes stay apart in the plane."""
    labels = torch.arange(300) % 3
    z = torch.randn(300, 8, generator=seeded(0), dtype=torch.float64)
    z[:, 5] += 10.0 * labels
    found = latent_map(z, labels)
    xy, label = found["xy"].float(), found["label"]
    centres = torch.stack([xy[label == k].mean(0) for k in range(3)])
    gaps = torch.cdist(centres, centres) + 100 * torch.eye(3)
    assert gaps.min() > 5
    assert xy[label == 0].std(0).mean() < 1.5  # inside a class the plane is scaled to about one
    shown = z.float() @ found["project"] + found["origin"]
    assert shown.mean(0).abs().max() < 1e-4


def test_an_unknown_name_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe for sed-mnist, .*judge-fashion, got 'nope'"):
        list(recipes.train("nope", out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_trains_in_its_stages_and_leaves_a_checkpoint_that_samples(
    name: str, tmp_path: Path
) -> None:
    plan, run = PEERS[name], Run(tmp_path, 0, torch.device("cpu"))
    data = some_rows(side=32 if name.endswith("ecal") else 28)
    trainer = recipes.TRAINERS[name.split("-")[0]]
    told = [(p.stage, p.step) for p in trainer(name, data, plan, run, "the command")]
    assert told == [(stage, k) for stage, size in plan.items() for k in range(1, size.steps + 1)]
    assert list(trainer(name, data, plan, run, "the command")) == []  # goes on where it stopped
    model = hub.load(tmp_path / "checkpoint", device="cpu")
    x = model.sample(2, steps=2, label=3, generator=seeded(0))  # type: ignore[operator]
    assert x.shape == (2, data.batch.dim)
    assert x.isfinite().all()
    figures = hub.figures(tmp_path / "checkpoint")
    assert figures["recipe"] == "the command"
    assert {stage: [step for step, _ in curve] for stage, curve in curves(figures)} == {
        stage: list(range(1, size.steps + 1)) for stage, size in plan.items()
    }


@pytest.mark.parametrize("name", ["counts-mnist", "counts-toy", "gauss-toy", "masked-toy"])
def test_a_model_of_counts_trains_and_leaves_a_checkpoint_that_samples(
    name: str, tmp_path: Path
) -> None:
    plan, run = {"counts": Stage(steps=3, rows=4, lr=1e-3)}, Run(tmp_path, 0, torch.device("cpu"))
    family, data = name.split("-")
    if data == "toy":
        found, asked = counts_recipes.counts_set("toy"), {}
    else:
        rows = (some_rows().batch.to_dense() * 255).round().to(torch.uint8)
        found, asked = CountsSet(rows, torch.arange(60) % 10, 10, 28), {"label": 3}
    trainer = recipes.TRAINERS[family]
    told = [(p.stage, p.step) for p in trainer(name, found, plan, run, "the command")]
    assert told == [("counts", k) for k in (1, 2, 3)]
    assert list(trainer(name, found, plan, run, "the command")) == []
    model: Any = hub.load(tmp_path / "checkpoint", device="cpu")
    x = model.sample(2, steps=2, **asked, generator=seeded(0))
    assert x.dtype == torch.int64
    assert x.shape == (2, found.counts.shape[1])
    assert int(x.min()) >= 0


def test_the_three_models_of_the_toy_are_of_equal_size(tmp_path: Path) -> None:
    sizes = []
    for family in ("counts", "gauss", "masked"):
        model = hub.load(f"{family}-toy", device="cpu")
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert max(sizes) / min(sizes) < 1.1


def curves(figures: dict[str, Any]) -> Iterable[tuple[str, list[list[float]]]]:
    return figures["training"]["curves"].items()


def test_a_line_that_a_kill_cut_off_is_left_out_of_the_curve(tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "curve.csv").write_text("1,0.5\n2,0.25\n1,0.4\n3,0.")
    run = Run(tmp_path, 0, torch.device("cpu"))
    assert run.curve("dense") == [[1, 0.4], [2, 0.25]]
    assert run.curve("never") == []


def test_every_recipe_has_a_plan_for_both_budgets_and_a_trainer() -> None:
    for name in recipes.RECIPES:
        family, data = name.split("-")
        assert data in {*recipes.DATA, "toy", recipes.CELLS}
        if family != "judge":
            assert family in (recipes.CELL_TRAINERS if data == recipes.CELLS else recipes.TRAINERS)
            assert recipes.plan_of(family, data, "cpu")
            assert recipes.plan_of(family, data, "gpu")
