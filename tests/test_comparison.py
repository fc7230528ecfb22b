"""The comparison: a perfect method gets perfect figures, and nothing is fitted on test data."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import untouched_global_chance
from torch import Tensor

from sed_core import cli, comparison, hub
from sed_core.baselines import DDPM, LDM, AutoencoderConfig, DDPMConfig, DenseValues, SparsityBits
from sed_core.chance import seeded
from sed_core.comparison import Aim, Plan, compare, digit_aim, load_peer, measure, samples
from sed_core.comparison.figures import figures_of_test, histogram, occupancy, zero_figures
from sed_core.comparison.run import OTHER
from sed_core.comparison.table import REPORTED_MARK, best_methods, csv_text
from sed_core.domains.calorimeter import Showers
from sed_core.domains.digits import Digits
from sed_core.metrics.judge import new_judge
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch

GREY = 1 / 255


def some(n: int, seed: int = 0) -> Digits:
    """Strokes of any length at a place that says the class; the outer columns are always zero."""
    chance = seeded(seed)
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    labels = torch.arange(n) % 10
    for image, label in zip(images, labels.tolist(), strict=True):
        top = int(torch.randint(0, 8, (), generator=chance))
        level = int(torch.randint(100, 255, (), generator=chance))
        long = int(torch.randint(8, 14, (), generator=chance))
        image[top : top + long, 2 * label + 2 : 2 * label + 6] = level
    return Digits(images.view(n, 784), labels)


@pytest.fixture(scope="module")
def aim() -> Aim:
    return digit_aim("mnist", some(300), some(50, 1), new_judge(seed=0).eval())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained checkpoints of every family."""
    folder = tmp_path_factory.mktemp("shop")
    savae = SAVAEConfig(
        dim=784, latent=4, width=16, heads=2, decoder_layers=1, draft_width=8, max_pairs=12,
        value_step=GREY, value_smallest=100 * GREY, value_largest=1.0,
    )  # fmt: skip
    latent = DenoiserConfig(latent=4, widths=(16, 8), condition=8, classes=10)
    shape = DDPMConfig(dim=784, side=28, widths=(8, 16), condition=8, classes=10)
    torch.manual_seed(0)
    models = {
        "sed": SED(savae, latent),
        "ddpm": DDPM(DenseValues(), shape),
        "ldm": LDM(
            DenseValues(), AutoencoderConfig(dim=784, side=28, latent=4, widths=(8, 16)), latent
        ),
        "bits": SparsityBits(DenseValues(), replace(shape, classes=0)),
        "judge": new_judge(seed=0),
        "other": DDPM(DenseValues(), DDPMConfig(dim=9, widths=(8, 8), condition=8)),
    }
    for name, model in models.items():
        hub.save(model, folder / name, metrics={}, card="# T\n", recipe="none")
    return folder


PLAN = Plan(samples=24, validation=10, steps=2, batch=9, costs=False)


def refs(shop: Path, *names: str) -> list[str]:
    return [str(shop / name) for name in names]


# zeros ------------------------------------------------------------------------------------------


def test_the_test_data_themselves_are_perfect(aim: Aim) -> None:
    found = measure(aim.test.to_dense(), aim, aim.test_labels, 0)
    for key in ("count_w1_share", "spurious", "missing", "smear", "impossible", "energy_distance"):
        assert found[key]["value"] == pytest.approx(0, abs=1e-6), key
    for key in ("frechet", "mmd", "sliced_w2"):
        assert found[key]["value"] == pytest.approx(0, abs=1e-4), key
    assert found["zero_share"]["value"] == pytest.approx(aim.test.sparsity, abs=1e-6)
    alone = figures_of_test(aim, 0)
    assert alone["zero_share"]["value"] == found["zero_share"]["value"]
    assert {"zero_share", "impossible", "smear", "sure", "agreement"} == alone.keys()


def test_spurious_and_missing_ones_are_counted(aim: Aim) -> None:
    """Three pixels too many in every row, and the last of a stroke's never there."""
    x = aim.test.to_dense()
    share = occupancy(aim.test)
    gone = int(share.argmax())
    x[:, [0, 1, 28]], x[:, gone] = 0.5, 0.0
    found = zero_figures(x, aim, seeded(0))
    assert found["spurious"]["value"] == pytest.approx(3)
    assert found["impossible"]["value"] == pytest.approx(3)
    assert found["missing"]["value"] == pytest.approx(share[gone].item(), abs=1e-6)
    assert found["smear"]["value"] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 8))
def test_spurious_ones_are_a_lower_bound_whatever_the_pairing(seed: int, n: int, dim: int) -> None:
    chance = seeded(seed)
    made, real = (
        torch.rand(n, dim, generator=chance) * (torch.rand(n, dim, generator=chance) < share)
        for share in (0.5, 0.3)
    )
    found = zero_figures(made, bare(real), seeded(0))
    order = torch.randperm(n, generator=chance)
    wrong = (made != 0) & (real[order] == 0)
    lacking = (made == 0) & (real[order] != 0)
    assert found["spurious"]["value"] <= wrong.sum(1).double().mean().item() + 1e-6
    assert found["missing"]["value"] <= lacking.sum(1).double().mean().item() + 1e-6
    gap = (made != 0).sum() - (real != 0).sum()
    both = found["spurious"]["value"] - found["missing"]["value"]
    assert both == pytest.approx(gap.item() / n, abs=1e-5)


def bare(real: Tensor) -> Aim:
    """Data of any width, that nothing judges; a pair is in the training rows at least."""
    batch = SparseBatch.from_dense(real)
    train = SparseBatch.from_dense(torch.cat([real, torch.ones(1, real.shape[1])]))
    labels = torch.zeros(len(real), dtype=torch.int64)
    return Aim("mnist", "T", train, batch, torch.zeros(len(train)).long(), labels, no_quality)


def no_quality(x: Tensor, labels: Tensor | None, seed: int) -> dict[str, Any]:
    return {}


def test_smear_is_what_lies_between_zero_and_half_the_smallest_value(aim: Aim) -> None:
    smallest = aim.train.value[aim.train.mask].min().item()
    x = torch.zeros(4, 784)
    x[:, 0], x[:, 1], x[:2, 2] = 0.49 * smallest, 0.51 * smallest, -0.1 * smallest
    assert zero_figures(x, aim, seeded(0))["smear"]["value"] == 1.5


def test_intervals_hold_the_value_and_figures_ignore_the_order(aim: Aim) -> None:
    x = some(30, 5).batch().to_dense() * (torch.rand(30, 784, generator=seeded(3)) < 0.8)
    order = torch.randperm(30, generator=seeded(1))
    with untouched_global_chance():
        a, b = (zero_figures(part, aim, seeded(0)) for part in (x, x[order]))
    for key, figure in a.items():
        assert figure["low"] <= figure["value"] <= figure["high"], key
        assert b[key]["value"] == pytest.approx(figure["value"], abs=1e-6), key
    assert a["spurious"]["low"] < a["spurious"]["high"]


def test_the_interval_of_a_mean_distance_shrinks_with_the_samples(aim: Aim) -> None:
    widths = []
    for n in (20, 500):
        x = some(n, 7).batch().to_dense()
        figure = zero_figures(x * (torch.rand(n, 1, generator=seeded(1)) < 0.7), aim, seeded(0))
        widths.append(figure["count_w1_share"]["high"] - figure["count_w1_share"]["low"])
    assert widths[1] < 0.5 * widths[0]  # a fifth of it in theory


def test_a_histogram_is_of_all_rows() -> None:
    share = torch.tensor([0.0, 0.019, 0.021, 0.999, 1.0]).double()
    found = histogram(share)
    assert found.sum().item() == pytest.approx(1)
    assert (5 * found)[[0, 1, 49]].tolist() == pytest.approx([2, 1, 2])


# samples ----------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_place_and_class_only(aim: Aim, shop: Path) -> None:
    for name in ("sed", "ddpm"):
        peer = load_peer(str(shop / name), aim)
        labels = aim.train_labels[aim.floor_rows(10, 0)]
        long = samples(peer, 10, labels, PLAN, seed=0)
        short = samples(peer, 4, labels[:4], replace(PLAN, batch=3), seed=0)
        assert torch.allclose(long[:4], short, atol=1e-5)
        assert not torch.allclose(long, samples(peer, 10, labels, PLAN, seed=1))


class Stop(BaseException):
    """As Ctrl-C, in the middle."""


def test_an_interrupted_run_goes_on_where_it_stopped(
    aim: Aim, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, drawn = load_peer(str(shop / "ddpm"), aim), list[int]()
    whole = type(peer.model).sample

    def counting(self: Any, n: int, **options: Any) -> Tensor:
        drawn.append(n)
        return whole(self, n, **options)

    monkeypatch.setattr(type(peer.model), "sample", counting)

    def stop(rows: int) -> None:
        if len(drawn) == 2:
            raise Stop

    labels = aim.train_labels[aim.floor_rows(24, 0)]
    options: dict[str, Any] = {"seed": 0, "keep": tmp_path}
    with pytest.raises(Stop):
        samples(peer, 24, labels, PLAN, tick=stop, **options)
    assert drawn == [9, 9]
    found = samples(peer, 24, labels, PLAN, **options)
    assert drawn == [9, 9, 6]
    assert torch.equal(found, samples(peer, 24, labels, PLAN, seed=0))
    drawn.clear()
    first, *_ = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-100])  # a damaged file is drawn again
    assert torch.equal(samples(peer, 24, labels, PLAN, **options), found)
    assert len(drawn) == 1
    drawn.clear()
    for other in (replace(PLAN, guidance=1.0), replace(PLAN, steps=3)):
        samples(peer, 24, labels, other, **options)
    samples(peer, 24, labels, PLAN, seed=1, keep=tmp_path)
    assert len(drawn) == 9  # nothing of another setting is taken for this one's


def test_strangers_are_refused(aim: Aim, shop: Path) -> None:
    with pytest.raises(ValueError, match="makes no samples"):
        load_peer(str(shop / "judge"), aim)
    with pytest.raises(ValueError, match="has 784 dimensions"):
        load_peer(str(shop / "other"), aim)
    with pytest.raises(ValueError, match="different checkpoints"):
        compare(refs(shop, "ddpm", "ddpm"), aim, plan=PLAN)
    for bad in ({"samples": 1}, {"validation": 0}, {"batch": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match="at least"):
            Plan(**bad)


# the whole table --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(aim: Aim, shop: Path) -> dict[str, Any]:
    shares: list[float] = []
    with untouched_global_chance():
        found = compare(
            refs(shop, "sed", "ddpm", "ldm", "bits"),
            aim,
            plan=PLAN,
            progress=lambda share, words: shares.append(share),
        )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return found


def test_a_table_holds_every_method_and_setting(table: dict[str, Any]) -> None:
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    names = [m["name"] for m in table["methods"]]
    assert names == [
        "SED", "DDPM", "DDPM + threshold (match)", "DDPM + threshold (half_min)",
        "LDM", "LDM + threshold (match)", "LDM + threshold (half_min)", "Sparsity Bits",
    ]  # fmt: skip
    wanted = {"n", "seed", "device", "threads", "torch", "date", "guidance", "steps"}
    assert wanted <= table["setting"].keys()
    keys = [column["key"] for column in table["columns"]]
    assert set(keys) == {key for m in table["methods"] for key in m["figures"]}
    assert all(set(keys) - {"agreement"} <= m["figures"].keys() for m in table["methods"])
    assert set(keys) == table["real"]["figures"].keys()
    assert len(table["histograms"]["methods"]) == len(names)
    assert all(r["mark"] == REPORTED_MARK for r in table["reported"])


def test_zeros_are_exact_where_they_must_be(table: dict[str, Any]) -> None:
    by_name = {m["name"]: m["figures"] for m in table["methods"]}
    assert by_name["SED"]["smear"]["value"] == 0
    assert by_name["DDPM"]["zero_share"]["value"] < 0.1
    cut = by_name["DDPM + threshold (match)"]
    assert cut["zero_share"]["value"] == pytest.approx(
        table["test"]["figures"]["zero_share"]["value"], abs=0.05
    )
    assert by_name["DDPM + threshold (half_min)"]["smear"]["value"] == 0
    assert "agreement" not in by_name["Sparsity Bits"]  # it has no classes
    notes = {m["name"]: m["notes"] for m in table["methods"]}
    assert any("unconditional" in note for note in notes["Sparsity Bits"])
    assert any("undertrained" in note for note in notes["DDPM"])


def test_thresholds_never_see_test_data_nor_the_samples(aim: Aim, shop: Path) -> None:
    """Other test data change no threshold, other validation samples do."""
    fitted = lambda aim, plan: [  # noqa: E731
        m["tau"] for m in compare(refs(shop, "ddpm"), aim, plan=plan)["methods"]
    ]
    here = fitted(aim, PLAN)
    other = digit_aim("mnist", some(300), some(50, 9), new_judge(seed=0).eval())
    assert fitted(other, PLAN) == here
    assert fitted(aim, replace(PLAN, samples=9)) == here
    assert fitted(aim, replace(PLAN, validation=5))[1] != here[1]
    assert here[0] is None
    assert here[2] == pytest.approx(0.5 * aim.train.value[aim.train.mask].min().item(), abs=1e-8)
    peer = load_peer(str(shop / "ddpm"), aim)
    labels = aim.train_labels[aim.floor_rows(10, OTHER)]
    validation = samples(peer, 10, labels, PLAN, seed=OTHER)
    share = (validation.abs() <= here[1] + 1e-8).double().mean().item()
    assert share == pytest.approx(aim.train.sparsity, abs=1 / validation.numel() + 1e-6)


def test_costs_stand_in_the_table(aim: Aim, shop: Path) -> None:
    plan = replace(PLAN, samples=4, costs=True, repeats=1, steps=1)
    found = compare(refs(shop, "ddpm"), aim, plan=plan)
    costs = found["methods"][0]["costs"]
    keys = {"parameters", "multiply_adds", "ms_batch_1", "ms_batch_64", "peak_bytes"}
    assert costs.keys() == keys == {c["key"] for c in found["columns"] if c["group"] == "cost"}
    assert all(figure["value"] > 0 for figure in costs.values())
    assert found["methods"][1]["costs"] == costs  # a threshold costs nothing that shows
    assert "multiply-adds" in comparison.markdown(found)


# showers ----------------------------------------------------------------------------------------


def test_showers_are_read_by_physics() -> None:
    chance = seeded(0)
    energy = torch.rand(40, 1024, generator=chance) * (
        torch.rand(40, 1024, generator=chance) < 0.03
    )
    labels = torch.arange(40) % 5
    train, test = Showers(energy[:20], labels[:20]), Showers(energy[20:], labels[20:])
    aim = comparison.shower_aim(train, test)
    same = measure(test.energy, aim, test.labels, 0)
    moments = [key for key in same if key.startswith("w1_")]
    assert len(moments) == 8
    assert all(same[key]["value"] == pytest.approx(0, abs=1e-9) for key in moments)
    twice = measure(2 * test.energy, aim, test.labels, 0)
    real = aim.quality.test["energy"]  # type: ignore[attr-defined]
    assert twice["w1_energy"]["value"] == pytest.approx(real.mean().item(), rel=1e-4)
    sd = train.energy.double().sum(1).std(correction=0).item()
    assert twice["w1_energy_std"]["value"] == pytest.approx(real.mean().item() / sd, rel=1e-4)
    assert twice["w1_multiplicity"]["value"] == pytest.approx(0, abs=1e-9)
    assert twice["energy_distance"]["value"] > 0
    for key in moments:
        assert twice[key]["low"] <= twice[key]["value"] <= twice[key]["high"]


# telling ----------------------------------------------------------------------------------------


def test_markdown_tells_all_and_marks_the_best(table: dict[str, Any]) -> None:
    told = comparison.markdown(table)
    for method in table["methods"]:
        assert f"| {method['name']}" in told
    assert "(undertrained)" in told and "thresholds:" in told
    assert "training data (floor)" in told and "seed 0" in told and "threads" in told
    for line in told.splitlines():
        if line.startswith("| SED"):
            assert "**" in line
    columns = {c["key"]: comparison.Column(**c) for c in table["columns"]}
    assert "SED" in best_methods(columns["smear"], table)
    near = {
        m["name"]: abs(m["figures"]["zero_share"]["value"]
                       - table["test"]["figures"]["zero_share"]["value"])
        for m in table["methods"]
    }  # fmt: skip
    assert best_methods(columns["zero_share"], table) == {
        name for name, gap in near.items() if gap == min(near.values())
    }


def test_tables_are_written_in_every_form(table: dict[str, Any], tmp_path: Path) -> None:
    files = comparison.write_table(table, [tmp_path / "new" / "all", tmp_path / "one.csv"])
    assert sorted(f.name for f in files) == ["all.csv", "all.json", "all.md", "one.csv"]
    assert json.loads((tmp_path / "new" / "all.json").read_text()) == table
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [row["name"] for row in rows] == [
        *(m["name"] for m in table["methods"]), "test data", "training data (floor)",
    ]  # fmt: skip
    first = table["methods"][0]["figures"]["zero_share"]
    assert float(rows[0]["zero_share"]) == first["value"]
    assert float(rows[0]["zero_share_low"]) == first["low"]
    assert REPORTED_MARK in rows[0]
    with pytest.raises(ValueError, match="is written as"):
        comparison.files_of([tmp_path / "table.png"])


# command line -----------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sed-core", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_one_table_of_all(
    aim: Aim, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(comparison, "aim_at", lambda data, **options: aim)
    monkeypatch.setenv("SED_CHECKPOINTS", str(shop))
    command = ["evaluate", "sed", "--against", "ddpm, bits", "--samples", 4, "--steps", 1]
    command += ["--no-costs", "--out", tmp_path / "all", "--keep", tmp_path / "kept"]
    assert run(monkeypatch, *command) == 0
    out, err = capfd.readouterr()
    assert "| SED (undertrained) |" in out and "| Sparsity Bits" in out
    assert "ddpm" in err and "100%" in err
    assert {p.name for p in tmp_path.glob("all.*")} == {"all.json", "all.md", "all.csv"}
    assert any((tmp_path / "kept").iterdir())
    assert run(monkeypatch, *command, "--json") == 0
    again = json.loads(capfd.readouterr().out)
    first = json.loads((tmp_path / "all.json").read_text())
    assert again["methods"] == first["methods"]


def test_the_command_refuses_before_any_work(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("SED_CHECKPOINTS", str(shop))
    assert run(monkeypatch, "evaluate", "sed", "--out", "x.json") == 1
    assert "--against" in capfd.readouterr().err
    command = ("evaluate", "sed", "--against", "ddpm", "--out", "x.png")
    assert run(monkeypatch, *command) == 1
    assert "x.png" in capfd.readouterr().err
