"""Training: what is minimised, how batches are made, and that a kill changes nothing."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from itertools import islice
from math import cos, pi
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import largest, pairs, savae
from torch import Tensor, nn

from sed_core.chance import seeded
from sed_core.store import Store
from sed_core.stream import last
from sed_core.training import Batches, LengthBuckets, Loss, best_precision, fit, shuffled

HERE = Path(__file__).parent
seeds = st.integers(0, 2**31)


def line(seed: int = 0) -> nn.Linear:
    layer = nn.Linear(3, 2)
    chance = seeded(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance))
    return layer


def squares(layer: nn.Linear):
    def loss(x: Tensor, _: torch.Generator) -> Loss:
        error = (layer(x) - 1).square().mean()
        return Loss(error, {"error": error})

    return loss


def inputs(n: int) -> list[Tensor]:
    return list(torch.randn(n, 5, 3, generator=seeded(9)))


def run(layer: nn.Linear, steps: int = 8, **options):
    given = {"lr": 0.1, "precision": "float32", "generator": seeded(0), "loss": squares(layer)}
    return fit(layer, inputs(steps), **{**given, **options})


# the loop ---------------------------------------------------------------------------------------


def by_hand(steps: int, *, warmup: int, floor: float, clip: float) -> list[Tensor]:
    """Weights after each step of torch's own AdamW, decay on the matrix only."""
    layer, history = line(), []
    optimizer = torch.optim.AdamW(
        [
            {"params": [layer.weight], "weight_decay": 0.3},
            {"params": [layer.bias], "weight_decay": 0},
        ],
        betas=(0.9, 0.99),
    )
    for k, x in enumerate(inputs(steps)):
        done = (k - warmup) / (steps - warmup)
        scale = (k + 1) / warmup if k < warmup else floor + (1 - floor) * (1 + cos(pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * scale
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        nn.utils.clip_grad_norm_(layer.parameters(), clip)
        optimizer.step()
        history.append(layer.weight.detach().clone())
    return history


def test_a_step_is_clipped_adamw_with_warm_up_and_cosine() -> None:
    options = {"warmup": 3, "lr_floor": 0.2, "weight_decay": 0.3, "clip": 0.5}
    wanted = by_hand(8, warmup=3, floor=0.2, clip=0.5)
    layer = line()
    for progress in run(layer, **options):
        assert largest(layer.weight, wanted[progress.step - 1]) < 1e-6


def test_the_model_is_left_with_the_average() -> None:
    layer, average, decay = line(), line().weight.detach().clone(), 0.4
    for progress in run(layer, ema=decay):
        step = progress.step
        keep = min(decay, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * layer.weight.detach()
        last = layer.weight.detach().clone()
    assert largest(layer.weight, average) < 1e-6
    assert largest(layer.weight, last) > 1e-3


def test_progress_counts_and_carries_the_parts() -> None:
    layer = line()
    steps = list(run(layer, stage="line"))
    assert [p.step for p in steps] == list(range(1, 9))
    assert {(p.steps, p.stage) for p in steps} == {(8, "line")}
    assert steps[-1].seconds_left == 0
    assert all(p.rate > 0 and torch.equal(p.parts["error"], p.total) for p in steps)
    assert not any(p.total.requires_grad for p in steps)
    assert not layer.training


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    layer = line()

    def loss(x: Tensor, _: torch.Generator) -> Loss:
        total = layer(x).sum() / 0
        return Loss(total, {"a": total})

    with pytest.raises(FloatingPointError, match=r"not finite at step 1 .*lower the learning rate"):
        next(run(layer, loss=loss))


def test_bfloat16_trains_too_and_weights_stay_float32() -> None:
    model, batch = savae(), pairs(0)
    loss = lambda rows, chance: model.loss(rows, generator=chance)  # noqa: E731
    curves = [
        [
            p.total.item()
            for p in fit(m, [batch] * 3, lr=0.0, precision=p, generator=seeded(0), loss=f)
        ]
        for p, m, f in (("float32", model, loss), ("bfloat16", model, loss))
    ]
    assert curves[0] == pytest.approx(curves[1], rel=0.05)  # eight bits of mantissa, summed
    assert curves[0] != curves[1]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_auto_precision_is_one_of_the_two() -> None:
    assert best_precision(torch.device("cpu")) in ("float32", "bfloat16")


# resuming ---------------------------------------------------------------------------------------


def curve(progress) -> dict[int, float]:
    return {p.step: p.total.item() for p in progress}


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_run_cut_short_goes_on_the_same(tmp_path: Path, cut: int) -> None:
    whole_layer = line()
    whole = curve(run(whole_layer))
    first = run(line(), store=Store(tmp_path), save_seconds=0.0)
    part = curve(islice(first, cut))
    layer = line(seed=5)  # whatever it holds is replaced
    rest = curve(run(layer, store=Store(tmp_path), generator=seeded(99)))
    assert {**part, **rest} == whole
    assert len(rest) == 8 - cut
    assert torch.equal(layer.weight, whole_layer.weight)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first, again = line(), line(seed=5)
    list(run(first, store=Store(tmp_path)))
    assert list(run(again, store=Store(tmp_path))) == []
    assert torch.equal(first.weight, again.weight)


def test_a_run_of_another_length_is_refused(tmp_path: Path) -> None:
    list(run(line(), store=Store(tmp_path)))
    with pytest.raises(ValueError, match="stored run has 8 steps, this one 9"):
        next(run(line(), steps=9, store=Store(tmp_path)))


def test_a_damaged_state_is_passed_over(tmp_path: Path) -> None:
    whole = curve(run(line()))
    list(islice(run(line(), store=Store(tmp_path), save_seconds=0.0), 5))
    newest = tmp_path / "step-000005" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    rest = curve(run(line(), store=Store(tmp_path)))
    assert sorted(rest) == [5, 6, 7, 8]
    assert rest.items() <= whole.items()


def test_sigkill_at_any_moment_changes_no_loss(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = json.loads(done.stdout)
    whole = {(stage, step): value for stage, step, value in lines["whole"]}
    assert len(whole) == len(lines["whole"]) == 11
    seen = defaultdict(set)
    for stage, step, value in lines["killed"]:
        seen[stage, step].add(value)
    assert {key: {value} for key, value in whole.items()} == seen
    assert len(lines["killed"]) > len(lines["whole"]) + 3  # steps were lost and done again


# batches ----------------------------------------------------------------------------------------


def lengths(seed: int, rows: int) -> Tensor:
    return torch.randint(0, 60, (rows,), generator=seeded(seed))


@given(seeds, st.integers(1, 200), st.integers(60, 2000))
def test_every_epoch_visits_every_row_once_within_the_budget(seed, rows, pairs) -> None:
    sizes = lengths(seed, rows)
    plan = LengthBuckets(sizes, pairs=pairs, steps=10_000, seed=seed)
    first = plan._plan(0)
    assert torch.equal(torch.cat(first).sort().values, torch.arange(rows))
    for chosen in first:
        padded = len(chosen) * int(sizes[chosen].max())
        assert padded <= pairs or len(chosen) == 1


@given(seeds)
def test_buckets_hold_rows_of_similar_lengths(seed: int) -> None:
    sizes = lengths(seed, 500)
    plan = LengthBuckets(sizes, pairs=600, steps=9, seed=seed)._plan(0)
    padded = sum(len(rows) * int(sizes[rows].max()) for rows in plan)
    assert padded < 1.35 * int(sizes.sum())  # unsorted batches would pad to about twice


@given(seeds, st.integers(0, 40))
def test_batch_k_depends_on_the_seed_and_k_only(seed: int, k: int) -> None:
    make = lambda: LengthBuckets(lengths(seed, 50), pairs=200, steps=41, seed=seed)  # noqa: E731
    used, fresh = make(), make()
    for earlier in range(k):
        used[earlier]
    assert torch.equal(used[k], fresh[k])
    a, b = (shuffled(50, size=7, steps=41, seed=seed) for _ in range(2))
    assert len(a) == 41
    a[0]
    assert torch.equal(a[k], b[k])


def test_epochs_and_seeds_differ() -> None:
    plan = LengthBuckets(lengths(0, 50), pairs=200, steps=100, seed=0)
    assert [r.tolist() for r in plan._plan(0)] != [r.tolist() for r in plan._plan(1)]
    other = LengthBuckets(lengths(0, 50), pairs=200, steps=100, seed=1)
    assert [r.tolist() for r in plan._plan(0)] != [r.tolist() for r in other._plan(0)]
    draws = shuffled(1000, size=20, steps=5, seed=0)
    assert len({tuple(draws[k].tolist()) for k in range(5)}) == 5


def test_batches_are_made_when_asked_for() -> None:
    made: list[int] = []
    batches = Batches(range(5), lambda k: made.append(k) or k)
    assert len(batches) == 5
    assert (batches[3], made) == (3, [3])


def test_overfitting_reconstructs_every_support() -> None:
    """32 sparse rows are learnt by heart: encoder, latent, decoder and losses fit together."""
    batch = pairs(0, rows=32, dim=16, share=0.35)
    model = savae(16, latent=16, width=32, pool_width=64, draft_width=64, value_step=0.05)
    loss = lambda rows, chance: model.loss(rows, generator=chance)  # noqa: E731
    options = {"lr": 6e-3, "warmup": 20, "ema": 0.9, "precision": "float32", "weight_decay": 0.0}
    for _ in fit(model, [batch] * 300, **options, generator=seeded(0), loss=loss):
        pass
    with torch.no_grad():
        mu, _ = model.encode(batch)
        index, _ = model.nll(batch, mu)
    assert (index.sum() / (batch.nnz.sum() + 32)).item() < 0.05  # nats a token
    found = last(
        model.decode(mu, temperature=0, value_temperature=0, generator=seeded(0), detail=False)
    )
    assert torch.equal(found.nnz, batch.nnz)
    assert torch.equal(found.index[found.mask], batch.index[batch.mask])
    assert largest(found.value[found.mask], batch.value[batch.mask]) < 0.2
