"""The command line: results on stdout, one sentence on stderr, exit codes with a meaning."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image
from small import countsdiff, masked

from sed_core import chance, cli, hub
from sed_core.commands import sampling
from sed_core.metrics.judge import DigitJudge, DigitJudgeConfig
from sed_core.model_card import sed_card
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig

CARD = """\
[{name}]
family = "{family}"
domain = "digits"
data = "mnist"
title = "T"
story = "A story."
licence = "Apache-2.0"
data_licence = "none"
zeros = 0.8
judge = ""
"""

GREY = 1 / 255
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shipped checkpoints of our own: a small SED on 4 x 4 pictures, and a small judge."""
    folder = tmp_path_factory.mktemp("shop")
    small = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "draft_width": 16}
    grey = {"value_mean": 0.5, "value_step": GREY, "value_smallest": GREY, "value_largest": 1.0}
    savae = SAVAEConfig(dim=16, latent=4, **small, **grey)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sed = SED(savae, DenoiserConfig(latent=4, widths=(16, 8), condition=8, classes=3))
        judge = DigitJudge(DigitJudgeConfig(channels=4, features=8))
    for name, model in (("tiny", sed), ("judge", judge)):
        hub.save(model, folder / name, metrics={}, card="# T\n", recipe="none")
    cards = [CARD.format(name="tiny", family="SED"), CARD.format(name="judge", family="DigitJudge")]
    (folder / "cards.toml").write_text("\n".join(cards))
    return folder


@pytest.fixture
def run(
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Run the command line in an empty folder; exit code, stdout, stderr."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(shop))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sed-core", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capfd.readouterr())

    return call


def test_models_are_listed(run: Run):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert "tiny" in out and "judge" in out and "A story." in out
    listed = json.loads(run("models", "--json")[1])["models"]
    assert [card["name"] for card in listed] == ["tiny", "judge"]


def test_doctor_verifies_every_checkpoint(run: Run, shop: Path):
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["faults"] == []
    assert found["found"]["tiny"] == "loads, every byte verified"
    assert {"torch", "device", "threads", "SED_DATA", "training precision"} <= found["found"].keys()


def test_doctor_finds_what_is_broken(
    run: Run, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SED_DATA", str(tmp_path / "nothing"))
    card = shop / "tiny" / "README.md"
    before = card.read_bytes()
    card.write_bytes(b"# t\n")
    try:
        code, out, err = run("doctor")
    finally:
        card.write_bytes(before)
    assert code == 1 and "FAULT" in out
    assert err == "sed-core: something is broken: SED_DATA, tiny\n"


# -- sample ----------------------------------------------------------------------------------------


def test_samples_are_those_of_the_library(run: Run):
    code, out, _ = run("sample", "tiny", "-n", 5, "--label", 1, "--seed", 7, "--steps", 4, "--json")
    found = json.loads(out)
    model = hub.load("tiny")
    batch = model.sample(5, label=1, steps=4, generator=chance.split(chance.seeded(7), 5))
    assert code == 0 and found["pairs"] == batch.nnz.tolist()
    for row, pairs in enumerate(found["samples"]):
        index, value = batch.pairs(row)
        assert pairs["index"] == index.tolist()
        assert pairs["value"] == pytest.approx(value.tolist())


def test_a_sample_does_not_depend_on_how_many_are_drawn(run: Run, monkeypatch: pytest.MonkeyPatch):
    def draw(n: int) -> list:
        return json.loads(run("sample", "tiny", "-n", n, "--steps", 3, "--json")[1])["samples"]

    many = draw(5)
    monkeypatch.setattr(sampling, "ROWS", 2)
    assert draw(5) == many and draw(3) == many[:3]


def test_files_open_elsewhere_and_carry_their_recipe(run: Run, tmp_path: Path):
    asked = ("sample", "tiny", "-n", 3, "--seed", 2, "--steps", 3, "--json", "--out")
    told = []
    for name in ("a.npz", "a.csv", "a.json", "a.png"):
        code, out, _ = run(*asked, name)
        assert code == 0 and json.loads(out)["out"] == name
        told.append(json.loads(out)["recipe"])
    matrix = scipy.sparse.load_npz("a.npz")
    assert matrix.format == "csr" and matrix.shape == (3, 16)
    with open("a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    coo = matrix.tocoo()
    assert [(int(r["sample"]), int(r["index"])) for r in rows] == list(
        zip(coo.row, coo.col, strict=True)
    )
    assert np.allclose([float(r["value"]) for r in rows], coo.data, rtol=1e-7)
    data = json.loads(Path("a.json").read_text())
    assert [len(s["index"]) for s in data["samples"]] == np.diff(matrix.indptr).tolist()
    with np.load("a.npz") as arrays, Image.open("a.png") as picture:
        found = [json.loads(str(arrays["recipe"])), json.loads(picture.text["recipe"])]
        pixels = np.asarray(picture)[::4, ::4]
    found += [data["recipe"], json.loads(Path("a.csv.recipe.json").read_text())]
    assert all(recipe == told[0] for recipe in found)
    assert told[0]["seed"] == 2 and told[0]["checkpoint"] == "tiny"
    white = (pixels == 255).sum()
    assert white == 3 * 16 - matrix.nnz, "exactly the zeros are white"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.csv", "a.csv.recipe.json", "a.json", "a.npz", "a.png",
    ]  # fmt: skip


def test_a_person_reads_a_sentence(run: Run):
    code, out, err = run("sample", "tiny", "--steps", 2)
    assert code == 0 and out.startswith("1 samples in") and "keep them with --out" in out
    assert "latent" in err, "a log line of progress"


FAULTS = [
    (("sample", "nope"), "no shipped name"),
    (("sample", "judge"), "makes no samples"),
    (("sample", "tiny", "-n", 0), "rows must be a whole number"),
    (
        ("sample", "tiny", "-n", 10**9),
        "rows must be a whole number from 1 to 100000, got 1000000000",
    ),
    (("sample", "tiny", "--steps", 0), "steps must be"),
    (("sample", "tiny", "-n", 10**5, "--steps", 4000), "the limit is"),
    (("sample", "tiny", "--guidance", "nan"), "guidance must be a number"),
    (("sample", "tiny", "--guidance", "-1"), "guidance must be"),
    (("sample", "tiny", "--eta", 2), "eta must be"),
    (("sample", "tiny", "--temperature", "inf"), "temperature must be"),
    (("sample", "tiny", "--seed", -1), "seed must be"),
    (("sample", "tiny", "--seed", 2**63), "seed must be"),
    (("sample", "tiny", "--label", 9), "label"),
    (("sample", "tiny", "--device", "toaster"), "device must be"),
    (("sample", "tiny", "--out", "a.pkl"), "change its ending"),
    (("sample", "tiny", "--out", "nowhere/a.npz"), "no folder 'nowhere'"),
    (("sample", "owner/name"), "--network"),
    (("sample", "weights.bin"), "only safetensors"),
    (("evaluate", "nope"), "no shipped name"),
    (("train", "nope"), "nope"),
]


def named(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(("arguments", "words"), FAULTS, ids=named)
def test_faults_are_one_sentence(
    run: Run, arguments: tuple, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("sed-core: ") and words in err
    assert err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [("bogus",), ("sample",), ("sample", "tiny", "-n", "2.5"), ("sample", "tiny", "--sampler", "x"),
     ("train", "sed-mnist", "--budget", "big"), ("models", "extra"), ("sample", "tiny", "--bogus")],
    ids=" ".join,
)  # fmt: skip
def test_misunderstood_commands_end_with_two(run: Run, arguments: tuple):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (KeyError("x"), "internal fault (KeyError"),
        (OSError(28, "No space left", "f"), "No space left: f"),
        (FloatingPointError("step 3"), "step 3"),
        (ModuleNotFoundError("x", name="x"), "x is not installed"),
        (ValueError("two\nlines"), "two lines"),
    ],
    ids=str,
)
def test_any_fault_at_all_is_one_sentence(
    run: Run, fault: Exception, words: str, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> None:
        raise fault

    monkeypatch.setattr(hub, "shipped", broken)
    code, _, err = run("models")
    assert code == 1 and words in err and err.count("\n") == 1
    with pytest.raises(type(fault)):
        run("--debug", "models")


def test_altered_weights_are_told(run: Run, shop: Path, tmp_path: Path):
    here = tmp_path / "copy"
    here.mkdir()
    for path in (shop / "tiny").iterdir():
        (here / path.name).write_bytes(path.read_bytes())
    content = bytearray((here / hub.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (here / hub.WEIGHTS).write_bytes(content)
    code, _, err = run("sample", here)
    assert code == 1 and "was altered" in err


# -- train and evaluate ----------------------------------------------------------------------------


def test_missing_data_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SED_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, out, err = run("evaluate", "judge")
    assert (code, out) == (1, "") and "SED_DATA" in err and err.count("\n") == 1


@pytest.mark.data
def test_a_judge_is_evaluated_and_its_figures_kept(run: Run, shop: Path):
    before = (shop / "judge" / hub.METRICS).read_text()
    code, out, _ = run("evaluate", "judge", "--json", "--save")
    assert code == 0 and "judge_accuracy" in json.loads(out)["figures"]
    kept = json.loads((shop / "judge" / hub.METRICS).read_text())
    assert kept["recipe"] == json.loads(before)["recipe"] and "figures" in kept
    hub.load("judge")
    assert "A judge of MNIST" in (shop / "judge" / hub.README).read_text()
    assert "judge: right on real test digits" in run("evaluate", "judge")[1]


def test_help_needs_no_torch_and_no_traceback_reaches_a_shell():
    """One real process: quick, and with its exit code."""
    code = "import sys; from sed_core import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "--help"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "evaluate" in done.stdout
    assert " torch\n" not in done.stderr, "torch was imported for --help"


def test_a_card_says_what_was_measured_and_what_is_missed():
    figure = {"value": 0.5, "real": 0.8, "n": 10}
    metrics = {
        "setting": {"seed": 0},
        "figures": {"zero_share": figure, "sure": figure},
        "targets": [
            {"name": "sure enough", "wanted": "at least 0.8", "got": 0.5, "met": False},
            {"name": "ordered", "wanted": "exactly 1", "got": 1.0, "met": True},
        ],
        "training": {"device": "cpu", "stages": {"draft": {"steps": 3}}},
        "recipe": "sed-core train sed-mnist",
    }
    card = sed_card("sed-mnist", "mnist", metrics)
    assert "80.0% in real test digits, 50.0% in samples" in card
    assert "- sure enough: wanted at least 0.8, got 0.5." in card
    assert "- ordered" not in card
    assert "- draft: steps 3" in card and "`sed-core train sed-mnist`" in card
    assert "CC BY-SA" in card


# -- counts ----------------------------------------------------------------------------------------


@pytest.fixture
def counts_shop(shop: Path) -> Path:
    """Two small models of counts beside the others."""
    if not (shop / "counts").exists():
        for name, model in (("counts", countsdiff(16)), ("masked", masked(dim=16))):
            hub.save(model, shop / name, metrics={}, card="# T\n", recipe="none")
    return shop


def rows_file(path: Path, **changed: Any) -> Path:
    counts = np.arange(48).reshape(3, 16) % 5
    observed = np.arange(48).reshape(3, 16) % 3 > 0
    np.savez(path, **{"counts": counts, "observed": observed, **changed})
    return path


def test_counts_are_written_as_whole_numbers(run: Run, counts_shop: Path):
    model: Any = hub.load(counts_shop / "counts", device="cpu")
    asked = ("sample", counts_shop / "counts", "-n", 3, "--label", 1, "--seed", 4, "--steps", 5)
    options = ("--attrition", "rescaled", "--strength", 0.1, "--births", "poisson")
    code, _, err = run(*asked, *options, "--spacing", "log_odds", "--out", "x.npz")
    assert code == 0, err
    matrix = scipy.sparse.load_npz("x.npz")
    wanted = model.sample(
        3, label=1, steps=5, attrition="rescaled", strength=0.1, births="poisson",
        spacing="log_odds", generator=chance.seeded(4),
    )  # fmt: skip
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix.toarray(), wanted.numpy())
    with np.load("x.npz") as arrays:
        recipe = json.loads(str(arrays["recipe"]))
    assert recipe["schedule"] == "cosine"  # the model's own, written down
    told = json.loads(run(*asked, "--json")[1])
    assert all(isinstance(v, int) for row in told["samples"] for v in row["value"])
    assert run(*asked, "--out", "x.png")[0] == 0
    with Image.open("x.png") as picture:
        assert len(set(np.asarray(picture).flatten().tolist())) > 3


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("tiny", "--births", "poisson"), ("counts", "--eta", 0.5), ("masked", "--schedule", "fi"),
     ("masked", "--temperature", 1)],
)  # fmt: skip
def test_options_of_another_family_are_refused_by_name(
    run: Run, counts_shop: Path, name: str, option: str, value: Any
):
    code, _, err = run("sample", counts_shop / name, option, value, "--steps", 2)
    assert code == 1
    assert f"which has no {option[2:]}; leave it out" in err


def test_a_schedule_that_is_none_is_refused(run: Run, counts_shop: Path):
    code, _, err = run("sample", counts_shop / "counts", "--schedule", "sine", "--steps", 2)
    assert code == 1
    assert "schedule must be one of cosine, shifted" in err


def test_rows_with_gaps_are_filled_and_what_is_known_stays(
    run: Run, counts_shop: Path, tmp_path: Path
):
    rows = rows_file(tmp_path / "rows.npz")
    asked = ("impute", counts_shop / "counts", rows, "--draws", 3, "--steps", 4, "--seed", 2)
    code, _, err = run(*asked, "--out", "filled.npz")
    assert code == 0, err
    with np.load(rows) as given, np.load("filled.npz") as found:
        assert found["draws"].dtype == np.int64
        assert found["draws"].shape == (3, 3, 16)
        seen = given["observed"]
        assert (found["draws"][:, seen] == given["counts"][seen]).all()
        assert np.allclose(found["mean"], found["draws"].mean(0))
        assert json.loads(str(found["recipe"]))["method"] == "conditional"
        model: Any = hub.load(counts_shop / "counts", device="cpu")
        x, observed = (torch.from_numpy(given[name]) for name in ("counts", "observed"))
        wanted = model.impute(x, observed, draws=3, steps=4, generator=chance.seeded(2))
        assert np.array_equal(found["draws"], wanted.numpy())
        before = found["draws"]
    assert run(*asked, "--out", "filled.npz")[0] == 0
    with np.load("filled.npz") as again:
        assert np.array_equal(before, again["draws"])


def test_a_row_is_filled_alike_however_many_are_done_at_once(
    run: Run, counts_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = rows_file(tmp_path / "rows.npz")

    def fill() -> Any:
        asked = ("impute", counts_shop / "counts", rows, "--draws", 2, "--steps", 3)
        assert run(*asked, "--out", "x.npz")[0] == 0
        with np.load("x.npz") as found:
            return found["draws"]

    whole = fill()
    monkeypatch.setattr(sampling, "ROWS", 2)
    assert np.array_equal(whole, fill())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"observed": np.ones((3, 15), bool)}, "(3, 16) and (3, 15)"),
        ({"observed": np.ones((3, 16))}, "true and false"),
        ({"counts": np.full((3, 16), -1)}, "whole numbers from 0 up, got -1"),
        ({"counts": np.full((3, 16), 0.5)}, "got 0.5"),
        ({"counts": np.array([["a"] * 16] * 3)}, "numbers"),
    ],
)
def test_rows_that_are_none_of_counts_are_refused(
    run: Run, counts_shop: Path, tmp_path: Path, changed: dict[str, Any], said: str
):
    rows = rows_file(tmp_path / "rows.npz", **changed)
    code, _, err = run("impute", counts_shop / "counts", rows, "--out", "x.npz")
    assert code == 1
    assert said in err
    assert not (tmp_path / "x.npz").exists()


def test_files_that_cannot_be_read_or_written_are_refused(
    run: Run, counts_shop: Path, tmp_path: Path
):
    rows, text = rows_file(tmp_path / "rows.npz"), tmp_path / "rows.txt"
    text.write_text("1,2\n")
    for given, out, said in (
        (text, "x.npz", "needs an npz"),
        (tmp_path / "none.npz", "x.npz", "No such file"),
        (rows, "x.csv", "change its ending"),
        (rows, "nowhere/x.npz", "no folder"),
    ):
        code, _, err = run("impute", counts_shop / "counts", given, "--out", out)
        assert (code, said in err) == (1, True), err
    code, _, err = run("impute", "tiny", rows, "--out", "x.npz")
    assert "impute with a CountsDiff" in err


def test_the_toy_is_evaluated_beside_its_exact_law(run: Run, counts_shop: Path):
    hub.save(countsdiff(10, classes=0), counts_shop / "toy", metrics={}, card="# T\n", recipe="r")
    asked = ("evaluate", counts_shop / "toy", "--data", "toy", "--samples", 50, "--steps", 3)
    code, out, err = run(*asked, "--save")
    assert code == 0, err
    assert "| exact law |" in out
    assert "| CountsDiff, published |" in out
    figures = hub.figures(counts_shop / "toy")
    assert figures["toy"]["methods"]["CountsDiff"][0]["sliced_w2"] > 0
    code, _, err = run(*asked, "--trainings", 3)
    assert "--trainings is for counts-toy" in err
    code, _, err = run("evaluate", counts_shop / "counts", "--data", "toy")
    assert "got a CountsDiff of 16 dimensions" in err
