"""What every family promises. A new family joins with one line in CASES."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import (
    bits,
    counts,
    countsdiff,
    ddpm,
    equal,
    gated,
    ldm,
    log_gaussian,
    masked,
    nbvae,
    pairs,
    sarm,
    sed,
    untouched_global_chance,
)
from torch import Tensor, nn

from sed_core import hub
from sed_core.chance import seeded, split
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last, record
from sed_core.training import fit


@dataclass(frozen=True)
class Case:
    """A family under test: a small model of random weights, its data, and how to sample."""

    name: str
    model: Callable[[], Any]
    batch: Callable[[], Any]
    sampling: dict[str, Any]
    training: dict[str, Any]

    def stream(self, n: int = 5, **options: Any) -> Iterator[Step[Any]]:
        return self.model().stream(n, **{"generator": seeded(7), **self.sampling, **options})


SED = Case("SED", sed, pairs, {"steps": 4, "label": 1, "guidance": 2.0}, {"label": 1})
COUNTS = Case("CountsDiff", countsdiff, counts, SED.sampling, SED.training)
CASES = [
    SED,
    COUNTS,
    replace(COUNTS, name="CountsDiff-genes", model=lambda: countsdiff(network="genes", heads=2)),
    replace(
        COUNTS,
        name="CountsDiff-pictures",
        model=lambda: countsdiff(36, network="unet"),
        batch=lambda: counts(dim=36),
    ),
    replace(
        COUNTS,
        name="CountsDiff-attrition",
        sampling={"steps": 4, "attrition": "rescaled", "strength": 0.5, "births": "poisson"},
    ),
    replace(COUNTS, name="LogGaussian", model=lambda: log_gaussian(counts(rows=200), classes=3)),
    replace(COUNTS, name="GatedLogGaussian", model=lambda: gated(counts(rows=200), classes=3)),
    replace(COUNTS, name="NegativeBinomialVAE", model=nbvae, sampling={"label": 1}),
    replace(COUNTS, name="MaskedDiffusion", model=lambda: masked(dim=10, largest=12)),
    replace(SED, name="SED-ddpm", sampling={"steps": 3, "sampler": "ddpm"}),
    replace(SED, name="SED-blocked", model=lambda: sed(index_head="blocked", z_cond="prefix")),
    replace(SED, name="SED-cross", model=lambda: sed(draft="none", z_cond="cross")),
    replace(
        SED,
        name="SED-lognormal",
        model=lambda: sed(value_law="lognormal", value_mean=-1.0, draft="beside"),
    ),
    replace(SED, name="DDPM", model=ddpm),
    replace(SED, name="DDPM-pictures", model=lambda: ddpm(side=6), batch=lambda: pairs(dim=36)),
    replace(SED, name="SparsityBits", model=bits),
    replace(SED, name="LDM", model=ldm),
    replace(SED, name="LDM-pictures", model=lambda: ldm(side=6), batch=lambda: pairs(dim=36)),
    replace(SED, name="SARM", model=sarm),
    replace(SED, name="SARM-spiral", model=lambda: sarm(side=6), batch=lambda: pairs(dim=36)),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def same(a: Any, b: Any) -> bool:
    return equal(a, b) if isinstance(a, SparseBatch) else torch.equal(a, b)


@every_case
def test_steps_are_counted_and_time_falls_to_zero(case: Case) -> None:
    steps = record(case.stream()).steps
    stages = list(dict.fromkeys(step.stage for step in steps))
    for stage in stages:
        part = [step for step in steps if step.stage == stage]
        assert [step.i for step in part] == list(range(1, len(part) + 1))
        assert [step.i == step.n for step in part] == [False] * (len(part) - 1) + [True]
        times = [step.t for step in part]
        assert times == sorted(times, reverse=True)
        assert times[0] < 1 or len(part) == 1
        assert times[-1] == 0


@every_case
def test_the_same_seed_gives_the_same_samples(case: Case) -> None:
    model = case.model()
    draw = lambda seed: model.sample(5, **case.sampling, generator=seeded(seed))  # noqa: E731
    assert same(draw(7), draw(7))
    assert not same(draw(7), draw(8))
    assert same(draw(7), last(case.stream()))


@every_case
def test_a_sample_does_not_depend_on_its_batch(case: Case) -> None:
    whole = last(case.stream(9))
    alone = last(case.stream(1, generator=split(seeded(7), 4)[3:]))
    if isinstance(whole, Tensor):
        torch.testing.assert_close(alone[0], whole[3], atol=1e-4, rtol=1e-4)
        return
    assert torch.equal(alone.pairs(0)[0], whole.pairs(3)[0])
    torch.testing.assert_close(alone.pairs(0)[1], whole.pairs(3)[1], atol=1e-4, rtol=1e-4)


@every_case
def test_the_global_generator_is_left_alone(case: Case) -> None:
    model = case.model()
    with untouched_global_chance():
        model.sample(3, **case.sampling, generator=seeded(0))
        model.loss(case.batch(), **case.training, generator=seeded(0))


@every_case
def test_grad_mode_is_the_consumers(case: Case) -> None:
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            for step in case.stream(2):
                assert torch.is_grad_enabled() == mode
                states = [step.x, step.x0, *step.aux.values()]
                assert not any(isinstance(x, Tensor) and x.requires_grad for x in states)


@every_case
def test_early_steps_survive_later_ones(case: Case) -> None:
    """A state handed out is a value: going on does not change it."""
    kept, copies = [], []
    for step in case.stream():
        kept.append(step.x)
        copies.append(step.x.clone() if isinstance(step.x, Tensor) else step.x.to_dense().clone())
    for x, copy in zip(kept, copies, strict=True):
        assert torch.equal(x if isinstance(x, Tensor) else x.to_dense(), copy)


@every_case
def test_two_streams_of_one_model_do_not_meet(case: Case) -> None:
    """Models are shared by all visitors: all state lives in the stream."""
    model = case.model()
    a, b = (model.stream(3, **case.sampling, generator=seeded(seed)) for seed in (1, 2))
    while (step := next(a, None)) is not None:
        end = step.x
        next(b, None)
    assert same(end, model.sample(3, **case.sampling, generator=seeded(1)))


@every_case
def test_the_loss_is_reproducible_and_trains_every_parameter(case: Case) -> None:
    model = case.model().requires_grad_(True)
    first = model.loss(case.batch(), **case.training, generator=seeded(1))
    again = model.loss(case.batch(), **case.training, generator=seeded(1))
    assert torch.equal(first.total, again.total)
    assert all(part.isfinite() and part.ndim == 0 for part in first.parts.values())
    first.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_case
def test_thirty_steps_on_one_batch_lower_the_loss(case: Case) -> None:
    model, batch = case.model().requires_grad_(True), case.batch()

    def loss(rows: Any, _: torch.Generator) -> Any:
        return model.loss(rows, **case.training, generator=seeded(3))  # the same draws each step

    options = {"lr": 3e-3, "warmup": 5, "precision": "float32", "generator": seeded(0)}
    curve = [p.total.item() for p in fit(model, [batch] * 30, **options, loss=loss)]
    assert curve[-1] < 0.9 * curve[0] if curve[0] > 0 else curve[-1] < curve[0] - 0.1


@every_case
def test_saved_and_loaded_it_samples_the_same(case: Case, tmp_path: Path) -> None:
    model = case.model()
    hub.save(model, tmp_path / "m", metrics={}, card="# m", recipe="test", dtype="float32")
    loaded = hub.load(tmp_path / "m", device="cpu")
    assert isinstance(loaded, nn.Module)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.configs == model.configs
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    again: Any = loaded
    draw = {**case.sampling, "generator": seeded(7)}
    assert same(again.sample(4, **draw), last(case.stream(4)))
