"""What a sample costs: counts that equal the formulas, times and memory that mean something."""

import time

import pytest
import torch
import torch.nn.functional as F
from small import savae, sed, untouched_global_chance
from torch import nn

from sed_core import costs, hub
from sed_core.baselines import DDPM, DDPMConfig, DenseValues
from sed_core.chance import seeded
from sed_core.stream import last


def ddpm(dim: int = 16, classes: int = 0) -> DDPM:
    torch.manual_seed(0)
    config = DDPMConfig(dim=dim, widths=(24, 16, 8), condition=8, classes=classes)
    return DDPM(DenseValues(), config).eval().requires_grad_(False)


# multiply-adds ----------------------------------------------------------------------------------


def test_products_are_counted_wherever_they_are_written() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    out = torch.zeros(3, 7)
    for call in (
        lambda: a @ b,
        lambda: torch.addmm(out, a, b),
        lambda: out.clone().addmm_(a, b),
        lambda: F.linear(a, b.T),
        lambda: torch.einsum("ij,jk->ik", a, b),
    ):
        assert costs.counted(call) == 3 * 5 * 7


@pytest.mark.parametrize("queries", [1, 6])
def test_attention_is_two_products(queries: int) -> None:
    """Scores and mixture, whichever kernel torch picks."""
    q, kv = torch.ones(2, 4, queries, 8), torch.ones(2, 4, 9, 8)
    with torch.no_grad():
        found = costs.counted(lambda: F.scaled_dot_product_attention(q, kv, kv))
    assert found == 2 * (2 * 4 * queries * 9 * 8)


def test_convolutions_are_counted() -> None:
    x, w = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    assert costs.counted(lambda: F.conv2d(x, w, padding=1)) == 2 * 8 * 8 * 5 * 3 * 9


@pytest.mark.parametrize("rows", [1, 50])  # the decoder attends in two ways
def test_a_cached_decoder_costs_what_the_formula_says(rows: int) -> None:
    """12 d^2 L + 2 t d L + d (classes left) a pair, and d^2 + 2 d of the value head."""
    model = savae(dim=60, width=64, heads=4, decoder_layers=3, draft="none", max_pairs=24)
    d, layers = 64, 3
    z = torch.randn(1, 6, generator=seeded(0)).expand(rows, -1)
    found = []
    count = costs.counted(
        lambda: found.append(
            last(
                model.decode(
                    z, temperature=0.0, value_temperature=0.0, generator=seeded(1), detail=False
                )
            )
        )
    )
    index = found[0].index[0].tolist()
    steps = len(index) + (len(index) < 24)  # the last one chooses stop, or the cap ends the row
    steps = max(steps, len(index) + 1)
    last_before = [-1, *index][:steps]
    wanted = sum(
        12 * d**2 * layers + 2 * (t + 1) * d * layers + d * (60 - before) + d**2 + 2 * d
        for t, before in enumerate(last_before)
    )
    assert count / rows == pytest.approx(wanted, rel=0.05)


def test_a_dense_sample_costs_steps_times_the_network() -> None:
    model = ddpm()
    x = torch.zeros(1, 16)
    once = costs.counted(lambda: model.denoise(None, 1)(x, torch.ones(1)))
    assert once > 0
    for steps in (1, 5):
        assert costs.multiply_adds(model, 3, steps=steps) == steps * once


def test_guidance_costs_a_second_network() -> None:
    model = ddpm(classes=3)
    plain, guided = (
        costs.multiply_adds(model, 2, steps=4, label=1, guidance=g) for g in (1.0, 2.0)
    )
    assert guided == 2 * plain


def test_counting_changes_no_sample() -> None:
    model, found = sed(), []
    with untouched_global_chance():
        costs.counted(lambda: found.append(costs.draw(model, 3, seed=0, steps=2)))
        plain = costs.draw(model, 3, seed=0, steps=2)
    assert torch.equal(found[0].to_dense(), plain.to_dense())


# time -------------------------------------------------------------------------------------------


def test_milliseconds_are_medians_a_row_with_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([0.9, 0.02, 0.01, 0.04, 0.03, 0.05])
    monkeypatch.setattr(costs, "seconds", lambda call, device=None: next(waits))
    figure = costs.milliseconds(lambda: None, repeats=5, rows=2)
    assert figure == {"value": 15.0, "low": 10.0, "high": 20.0, "n": 5}  # 0.9 s does not count
    assert costs.milliseconds(lambda: None, repeats=1) == {
        "value": 50.0, "low": 50.0, "high": 50.0, "n": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        costs.milliseconds(lambda: None, repeats=0)


def test_seconds_are_those_of_the_call() -> None:
    assert costs.seconds(lambda: time.sleep(0.02)) >= 0.02


# memory -----------------------------------------------------------------------------------------


def filled(megabytes: int) -> int:
    """Peak of this process after so many megabytes were held for a moment."""
    before = costs.peak_memory()
    held = torch.ones(megabytes * 2**18)
    del held
    return costs.peak_memory() - before


def threads() -> int:
    return torch.get_num_threads()


def test_a_process_of_its_own_sees_its_own_memory() -> None:
    """Whatever this process held before, a small child is small and a large one large."""
    held = torch.ones(300 * 2**18)
    small, large = costs.apart(filled, 1), costs.apart(filled, 200)
    assert small < 60 * 2**20
    assert 190 * 2**20 < large < 300 * 2**20
    assert costs.apart(threads) == torch.get_num_threads()
    del held


def test_all_costs_of_a_checkpoint(tmp_path) -> None:
    model = ddpm()
    hub.save(model, tmp_path / "a", metrics={}, card="# T\n", recipe="none")
    found = costs.costs(tmp_path / "a", model, repeats=2, steps=2)
    assert found["parameters"]["value"] == sum(p.numel() for p in model.parameters())
    assert found["multiply_adds"]["value"] == costs.multiply_adds(model, steps=2)
    assert found["ms_batch_1"]["value"] > 0 and found["ms_batch_64"]["value"] > 0
    assert 0 < found["peak_bytes"]["value"] < 200 * 2**20
    assert "peak_bytes" not in costs.costs("x", model, repeats=1, memory=False, steps=1)


def test_every_class_is_asked_for_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time as well: classes may cost differently where pairs are decoded."""
    seen: dict[int, list[int]] = {1: [], 64: []}

    def draw(model: nn.Module, n: int, *, seed: int, label: torch.Tensor) -> None:
        seen[n] += label.tolist()

    monkeypatch.setattr(costs, "draw", draw)
    found = costs.costs("x", ddpm(), classes=3, repeats=2, memory=False)
    assert found["ms_batch_1"]["n"] == 3
    assert sorted(seen[1]) == [0, 1, 2]
    assert seen[64] == 3 * (torch.arange(64) % 3).tolist()  # counted once, timed twice


def test_a_large_model_takes_more_memory(tmp_path) -> None:
    sizes = {}
    for width in (8, 2048):
        torch.manual_seed(0)
        config = DDPMConfig(dim=16, widths=(width, width), condition=8)
        model = DDPM(DenseValues(), config)
        hub.save(model, tmp_path / str(width), metrics={}, card="# T\n", recipe="none")
        arguments = (str(tmp_path / str(width)), 2, "cpu", 0, {"steps": 1})
        sizes[width] = costs.apart(costs.peak_of_sampling, *arguments)
        weights = 4 * sum(p.numel() for p in model.parameters())
    assert sizes[2048] - sizes[8] > 0.8 * weights


def test_every_model_with_a_sampler_can_be_drawn_from() -> None:
    for model in (sed(), ddpm()):
        assert isinstance(model, nn.Module)
        assert len(costs.draw(model, 2, seed=0, steps=1)) == 2
