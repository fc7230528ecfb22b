"""What only a CUDA device can show: bfloat16 training, and chance that knows no device."""

from pathlib import Path

import pytest
import torch
from small import bits, countsdiff, ddpm, equal, largest, ldm, pairs, sarm, sed

from sed_core import hub
from sed_core.chance import seeded
from sed_core.store import Store
from sed_core.stream import last, record
from sed_core.training import best_precision, fit

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


def test_training_in_bfloat16_lowers_the_loss() -> None:
    model, batch = sed().to(CUDA).requires_grad_(True), pairs(0).to(CUDA)
    assert best_precision(CUDA) == ("bfloat16" if torch.cuda.is_bf16_supported() else "float32")

    def loss(rows, _):
        return model.loss(rows, label=1, generator=seeded(3))

    run = fit(model, [batch] * 20, lr=3e-3, warmup=3, generator=seeded(0), loss=loss)
    curve = [progress.total.item() for progress in run]
    assert curve[-1] < 0.9 * curve[0]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("way", [{}, {"index_head": "blocked"}, {"mask": "used"}])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_seed_means_the_same_on_every_device(sampler, way) -> None:
    here, there = sed(**way), sed(**way).to(CUDA)
    options = {"steps": 10, "sampler": sampler, "label": 1, "guidance": 2.0}
    a = here.sample(16, generator=seeded(7), **options)
    b = there.sample(16, generator=seeded(7), **options)
    assert b.index.device.type == "cuda"
    b = b.to("cpu")
    assert torch.equal(a.nnz, b.nnz)
    assert torch.equal(a.index[a.mask], b.index[b.mask])
    assert largest(a.value[a.mask], b.value[b.mask]) < 1e-3  # other kernels, other rounding


@pytest.mark.parametrize("make", [ddpm, lambda: ddpm(side=6), bits, ldm, sarm])
def test_a_seed_means_the_same_for_dense_peers_too(make) -> None:
    options = {"steps": 8, "label": 1, "guidance": 2.0}
    here = make().sample(8, generator=seeded(7), **options)
    there = make().to(CUDA).sample(8, generator=seeded(7), **options).cpu()
    away = (here - there).abs() > 1e-3  # other kernels round otherwise, and a gate may tip over
    assert away.double().mean() < 0.02


def test_details_prefixes_and_forks_live_on_the_device() -> None:
    model = sed().to(CUDA)
    z = torch.randn(3, 6, generator=seeded(0)).to(CUDA)
    steps = record(model.decode(z, generator=seeded(3))).steps
    assert all(part.device.type == "cuda" for part in steps[0].aux.values())
    prefix = steps[1].x.to("cpu")  # a prefix may come from a file
    again = record(model.decode(z, prefix=prefix, generator=seeded(3)))
    assert equal(again.x.to("cpu"), steps[-1].x.to("cpu"))
    stop = torch.full((3,), 20)
    ended = last(model.decode(z, prefix=prefix, choose=stop, generator=seeded(3)))
    assert torch.equal(ended.nnz.cpu(), prefix.nnz)


def test_a_run_moves_between_devices(tmp_path: Path) -> None:
    def run(device: str):
        model = sed().to(device).requires_grad_(True)
        batch = pairs(0).to(device)
        chance = seeded(0)
        given = {"lr": 1e-3, "precision": "float32", "generator": chance, "save_seconds": 0.0}
        return model, fit(
            model.savae,
            [batch] * 6,
            **given,
            loss=lambda rows, chance: model.savae.loss(rows, generator=chance),
            store=Store(tmp_path),
        )

    _, first = run("cuda")
    for progress in first:
        if progress.step == 3:
            break
    model, rest = run("cpu")
    assert [progress.step for progress in rest] == [4, 5, 6]
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_checkpoint_finds_the_device_by_itself(tmp_path: Path) -> None:
    hub.save(sed(), tmp_path / "m", metrics={}, card="# m", recipe="test", dtype="float32")
    model = hub.load(tmp_path / "m")
    assert next(model.parameters()).device.type == "cuda"


@pytest.mark.parametrize("options", [{}, {"network": "genes", "heads": 2}])
def test_a_seed_means_the_same_for_counts(options) -> None:
    asked = {"steps": 8, "label": 1, "guidance": 2.0}
    here = countsdiff(**options).sample(64, generator=seeded(7), **asked)
    there = countsdiff(**options).to(CUDA).sample(64, generator=seeded(7), **asked)
    assert there.dtype == torch.int64
    assert (here == there.cpu()).double().mean() > 0.95  # a rate's last digit may move a unit
