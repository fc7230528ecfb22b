"""Compare by its logic: recordings, zeros, guess and verdict, links, live runs, files, figures."""

import ast
import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
import torch
from hypothesis import given
from hypothesis import strategies as hs
from hypothesis.extra import numpy as hnp
from PIL import Image
from streamlit.testing.v1 import AppTest

from explorer import (
    compare,
    compare_charts,
    compare_files,
    compared,
    comparing,
    controls,
    decoding,
    drawing,
    exports,
    measuring,
    models,
    record_compare,
)
from explorer.compare_files import Compared
from explorer.compared import CUT, NAMES
from explorer.controls import Params
from explorer.figures import compare as figures
from explorer.figures.looks import LOOKS
from explorer.jobs import Cancelled
from explorer.kinds import FASHION, KINDS, MNIST, SHOWERS
from sed_core.baselines import cut
from sed_core.chance import seeded
from sed_core.domains import calorimeter, digits
from sed_core.metrics.distance import w1
from tests import shelf_peers

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
SAMPLES = 12
ROWS = hnp.arrays(np.float32, (3, 7), elements=hs.floats(0, 1, width=32))

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Small checkpoints of every family."""
    return shelf_peers.fill(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def tape(shelf, tmp_path_factory):
    """A recording of them, made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        return shelf_peers.record(tmp_path_factory.mktemp("recorded"), shelf, patch, SAMPLES)


@pytest.fixture(autouse=True)
def app(shelf, tape, tmp_path, monkeypatch):
    """The page on small checkpoints and recordings, with nothing left over from before."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(shelf))
    monkeypatch.setenv("SED_RECORDED", str(tape))
    monkeypatch.setenv("SED_RESULTS", str(tmp_path / "none"))
    st.cache_data.clear()
    yield opened
    decoding.queue().close()
    st.cache_resource.clear()


@pytest.fixture
def recording(app):
    return compared.recording("mnist")


@pytest.fixture
def found(recording):
    return Compared(recording, recording.rows(None, 500), comparing.fitted(recording), None, {})


def opened(page="compare", **query):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE)
    for key, value in query.items():
        at.query_params[key] = value
    return at.switch_page(f"pages/{page}.py").run()


def words(at):
    kinds = ["title", "markdown", "caption", "text", "warning", "error", "code"]
    return "\n".join(str(element.value) for kind in kinds for element in at.get(kind))


def finish(at, ticket="compare_ticket"):
    end = time.monotonic() + PATIENCE
    while ticket in at.session_state:
        assert time.monotonic() < end
        time.sleep(0.05)
        at.run()
    return at


# -- what the pages call things --------------------------------------------------------------------


def test_classes_are_called_as_their_data_calls_them():
    for kind in (MNIST, FASHION):
        assert kind.classes == digits.CLASS_NAMES[kind.data] and kind.side == 28
    assert SHOWERS.classes == calorimeter.CLASS_NAMES and SHOWERS.side == calorimeter.SIDE
    assert MNIST.what(3) == "digit 3" and FASHION.what(9) == "Ankle boot"
    assert SHOWERS.what(None) == "any object"


# -- zeros and thresholds --------------------------------------------------------------------------


@given(ROWS)
def test_half_precision_keeps_every_zero_and_makes_none(values):
    assert ((compared.halved(values) == 0) == (values == 0)).all()


def test_the_smallest_numbers_stay_themselves_not_zero():
    tiny = np.array([1e-30, -1e-12, 0.0, 5e-8], dtype=np.float32)
    half = compared.halved(tiny)
    assert (half == 0).tolist() == [False, False, True, False] and half[1] < 0


@given(ROWS, hs.floats(0, 1))
def test_a_threshold_cuts_as_the_baseline_does(values, tau):
    tau = float(np.float32(tau))
    theirs = cut(torch.from_numpy(values), tau).numpy()
    assert (compared.cut(values, tau) == theirs).all()


@given(ROWS, hs.lists(hs.floats(0, 1), min_size=1, max_size=5))
def test_shares_on_a_grid_are_counts_of_zeros_after_the_cut(values, taus):
    counted = [(compared.cut(values, tau) == 0).mean() for tau in taus]
    assert compare.shares(values, taus) == pytest.approx(counted, abs=1e-6)


@given(hs.lists(hs.integers(0, 50), min_size=1, max_size=9), hs.integers(0, 20))
def test_the_gap_is_a_distance_of_counts(counts, shift):
    a, b = np.array(counts), np.array(counts) + shift
    assert compared.gap(a, a) == 0 and compared.gap(a, b) == pytest.approx(shift)
    other = np.array([3, 9, 40])
    wanted = w1(torch.tensor(counts), torch.from_numpy(other))
    assert compared.gap(a, other) == pytest.approx(wanted)


# -- recordings ------------------------------------------------------------------------------------


def test_the_command_records_every_peer_with_one_seed(recording, shelf):
    assert [m.checkpoint for m in recording.methods] == [
        "sed-mnist", "ddpm-mnist", "ldm-mnist", "bits-mnist"]  # fmt: skip
    assert {m.params["seed"] for m in recording.methods} == {0}
    assert recording.columns == ("sed", "ddpm", "cut", "ldm", "bits")
    assert all(m.values.shape == (SAMPLES, 784) for m in recording.methods)
    assert recording.about["command"] == (
        "python -m explorer.record_compare mnist --samples 12 --seed 0 --guidance 2 --steps 5"
    )
    for method in recording.methods:
        assert models.sha(shelf / method.checkpoint) == method.sha
        assert set(method.quality) == {q["key"] for q in recording.about["quality"]}


def test_recorded_pairs_are_what_the_model_makes(recording):
    sed = recording.method("sed")
    label = torch.as_tensor(recording.labels)
    made = models.load("sed-mnist").model.sample(
        SAMPLES, steps=recording.about["steps"], guidance=2.0, label=label, generator=seeded(0)
    )
    assert (compared.halved(made.to_dense().numpy()) == sed.values).all()
    assert (784 - made.nnz.numpy() == sed.zeros).all()


def test_the_curve_is_of_the_stored_samples(recording):
    curve, values = recording.curve, recording.method("ddpm").values
    assert curve["tau"] == sorted(curve["tau"]) and curve["tau"][0] == 0
    assert curve["zeros"] == sorted(curve["zeros"])
    place = len(curve["tau"]) // 2
    share = (compared.cut(values, curve["tau"][place]) == 0).mean()
    assert curve["zeros"][place] == pytest.approx(share, abs=1e-6)
    assert set(curve["rules"].values()) <= set(curve["tau"])


def test_samples_of_one_class_are_of_that_class(recording):
    rows = recording.rows(3, 500)
    assert (recording.labels[rows] == 3).all() and len(rows) == (recording.labels == 3).sum()
    assert len(recording.rows(None, 1)) == 1


def test_a_changed_file_is_refused(tape, tmp_path, monkeypatch):
    for name in ("mnist.json", "mnist.safetensors"):
        (tmp_path / name).write_bytes((tape / name).read_bytes())
    stored = tmp_path / "mnist.safetensors"
    stored.write_bytes(stored.read_bytes()[:-2] + b"ab")
    monkeypatch.setenv("SED_RECORDED", str(tmp_path))
    with pytest.raises(ValueError, match="not those it names"):
        compared.recording("mnist")


@pytest.mark.parametrize("data", KINDS)
def test_what_ships_is_small_and_complete(data, monkeypatch):
    monkeypatch.delenv("SED_RECORDED")
    stored = compared.folder() / f"{data}.safetensors"
    if not stored.exists():
        pytest.skip(f"{data} is not recorded yet")
    one = compared.recording(data)
    assert stored.stat().st_size < 3_000_000
    assert {"sed", "ddpm", CUT} <= set(one.columns) and one.count >= 200
    sed = one.method("sed").values
    smallest = one.about["real"]["smallest"]
    assert (np.abs(sed[sed != 0].astype(np.float64)) >= 0.999 * smallest).all()


# -- what the browser gets -------------------------------------------------------------------------


def test_no_number_of_the_answer_is_sent_before_the_guess(recording):
    rows = recording.rows(None, 500)
    told = compare.payload(recording, rows, at=0, hidden=True)
    assert told["curve"] is None
    for column in told["columns"]:
        assert not {"share", "recipe", "seed", "of"} & set(column)
    shown = compare.payload(recording, rows, at=0)
    assert {column["seed"] for column in shown["columns"]} == {0}
    assert shown["curve"]["shares"][0] == pytest.approx(shown["columns"][1]["share"], abs=1e-6)


def test_what_is_sent_does_not_depend_on_where_the_reader_stands(recording):
    rows = recording.rows(None, 500)
    one, other = (compare.payload(recording, rows, at=at, sample=at) for at in (0, 3))
    assert one["id"] == other["id"]


def test_every_method_can_be_told_apart():
    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for look in LOOKS.values():
        assert 1.05 / (luminance(look.colour) + 0.05) >= 3
    signs = [(look.dash, look.symbol) for look in LOOKS.values()]
    assert len(set(signs)) == len(signs)
    assert set(NAMES) <= set(LOOKS)


# -- the page --------------------------------------------------------------------------------------


def test_numbers_are_hidden_until_the_guess(app):
    at = app()
    assert not at.exception and not at.error and not at.warning
    assert "Recorded, not live" in words(at)
    assert "off by" not in words(at) and not at.dataframe
    assert [radio.label for radio in at.radio] == ["Which keeps the right number of zeros?"]
    assert at.button(key="lock").disabled
    assert all(button.key != "generate" for button in at.button)


def test_a_locked_guess_is_told_beside_the_outcome(app):
    at = app()
    at.radio(key="guess").set_value("ldm").run()
    at.button(key="lock").click().run()
    assert "You said LDM. Nearest to the zeros of real digits" in words(at)
    assert not at.radio and len(at.dataframe[0].value) == 6
    at.button(key="again").click().run()
    assert "off by" not in words(at) and at.radio


def test_who_does_not_want_to_guess_is_shown_all(app):
    at = app()
    at.button(key="show").click().run()
    assert "Nearest to the zeros" in words(at) and "You said" not in words(at)


def test_the_verdict_falls_as_measured(recording):
    at = comparing.fitted(recording)
    order = comparing.gaps(recording, at)
    assert [gap for _, gap in order] == sorted(gap for _, gap in order)
    assert {key for key, _ in order} == set(recording.columns)
    best = recording.method(order[0][0])
    assert order[0][1] <= compared.gap(best.zeros, recording.real)


def test_a_link_restores_guess_threshold_and_choice(app, recording):
    grid = recording.curve["tau"]
    at = app(reveal="cut", thr=f"{grid[4] * 255:.4g}", n="1", data="Digits", live="LDM", seed="5",
             **{"class": "3"})  # fmt: skip
    assert "Ignored" not in words(at) and "You said DDPM + threshold" in words(at)
    assert at.session_state["compare_at"] == {"mnist": 4}
    assert at.session_state["n"] == 1 and at.session_state["class"] == "3"
    assert at.selectbox(key="live").value == "LDM" and at.session_state["seed"] == 5


@pytest.mark.parametrize(
    ("key", "bad"),
    [("data", "Muons"), ("data", "Showers"), ("n", "7"), ("reveal", "sarm"), ("thr", "nan"),
     ("thr", "-1"), ("thr", "x"), ("thr", "1e9"), ("thr", "inf"), ("class", "77"),
     ("live", "<script>"), ("seed", "abc"), ("guidance", "99"), ("reveal", "x" * 5000)],
)  # fmt: skip
def test_a_bad_link_is_named_and_does_no_harm(app, key, bad):
    at = app(**{key: bad})
    assert [text.value for text in at.text] == [f"Ignored: {key}={bad[:40]}"]
    assert not at.exception and not at.error
    assert "Recorded, not live" in words(at) and "off by" not in words(at)


def test_the_link_says_everything(app, recording):
    at = app(reveal="sed", seed="9")
    link = next(code.value for code in at.code if "thr=" in code.value)
    for part in ("data=Digits", "n=500", "reveal=sed", "class=any", "seed=9", "guidance=2"):
        assert part in link


def test_missing_results_are_said_in_a_sentence(app):
    text = words(app(reveal="show"))
    assert text.count("Not measured yet") == 3


def test_measured_results_are_drawn(app, tmp_path, monkeypatch):
    monkeypatch.setenv("SED_RESULTS", str(shelf_peers.results(tmp_path / "results")))
    at = app(reveal="show")
    assert not at.exception and "Not measured yet" not in words(at)
    assert words(at).count("Measured 2026-01-01") == 3
    at.segmented_control(key="scale-what").set_value("a training step").run()
    assert not at.exception


def test_no_recording_at_all(app, tmp_path, monkeypatch):
    monkeypatch.setenv("SED_RECORDED", str(tmp_path))
    at = app()
    assert "No recorded samples are here" in at.warning[0].value and not at.exception


# -- live runs -------------------------------------------------------------------------------------


def test_a_live_run_draws_every_method_with_one_seed(app, recording):
    at = app(reveal="show", n="1", steps="5", seed="11")
    finish(at.button(key="generate").click().run())
    lives = at.session_state["compare_live"]["mnist"]
    assert list(lives) == ["sed", "ddpm", "ldm", "bits"]
    assert {live.params.seed for live in lives.values()} == {11}
    assert "Live, measured here: SED (1 of seed 11, any digit)" in words(at)
    made = models.peer("ddpm-mnist").model.sample(1, steps=5, guidance=2.0, generator=seeded(11))
    assert torch.equal(torch.from_numpy(lives["ddpm"].values), made)
    file = np.load(io.BytesIO(compare_files.npz(
        Compared(recording, recording.rows(None, 1), 0, None, lives))))  # fmt: skip
    assert (file["live_ddpm"] == 0).sum() == (made == 0).sum()


def test_one_method_can_be_drawn_alone_and_others_stay(app):
    at = app(reveal="show", n="1", steps="5", live="LDM")
    finish(at.button(key="generate").click().run())
    assert list(at.session_state["compare_live"]["mnist"]) == ["ldm"]
    at.selectbox(key="live").set_value("SED").run()
    finish(at.button(key="generate").click().run())
    assert set(at.session_state["compare_live"]["mnist"]) == {"ldm", "sed"}


def test_live_samples_do_not_depend_on_how_many_are_drawn_at_once(app, monkeypatch):
    model, params = models.peer("bits-mnist").model, Params(label=4, steps=3, seed=2)
    whole = drawing.draw(model, params, 5, lambda done: None)
    monkeypatch.setattr(drawing, "ROWS", 2)
    assert np.allclose(drawing.draw(model, params, 5, lambda done: None), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["sed-mnist", "ddpm-mnist", "ldm-mnist"])
def test_a_run_is_heard_between_steps_and_can_be_stopped(app, name):
    model, seen = models.peer(name).model, []
    drawing.draw(model, Params(steps=5), 2, seen.append)
    assert len(seen) >= 5 and seen == sorted(seen) and 0 < seen[0] < seen[-1] <= 1

    def stop(done):
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        drawing.draw(model, Params(steps=5), 2, stop)


def test_progress_is_told_by_method():
    names = ["SED", "DDPM"]
    assert drawing.stage(0.0, names) == "SED: 0 %"
    assert drawing.stage(0.75, names) == "DDPM: 50 %"
    assert drawing.stage(1.0, names) == "DDPM: 100 %"


def test_a_missing_peer_is_said_in_a_sentence(app, tmp_path, monkeypatch):
    monkeypatch.setenv("SED_CHECKPOINTS", str(tmp_path))
    at = app(reveal="show")
    at.button(key="generate").click().run()
    assert "is not here" in at.warning[0].value and not at.exception


def test_an_error_inside_a_run_shows_a_sentence(app, monkeypatch):
    def broken(*args):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(drawing, "draw", broken)
    at = finish(app(reveal="show", n="1").button(key="generate").click().run())
    assert "Something went wrong here" in at.warning[0].value and "secret" not in words(at)


def test_stop_keeps_what_was_shown(app):
    at = app(reveal="show", n="100", steps="100")
    at.button(key="generate").click().run()
    if "compare_ticket" in at.session_state:
        at.button(key="stop-live").click().run()
    assert "compare_ticket" not in at.session_state and not at.exception


def test_the_readers_machine_is_measured_on_request(app, monkeypatch):
    monkeypatch.setattr(measuring, "DIMS", (64, 128))
    monkeypatch.setattr(measuring, "PAIRS", 4)
    monkeypatch.setattr(measuring, "STEPS", 2)
    at = app(reveal="show")
    finish(at.button(key="measure").click().run())
    own = at.session_state["compare_own"]
    assert {run["dim"] for run in own["runs"]} == {64, 128}
    assert all(run["ms"] > 0 for run in own["runs"]) and not at.exception


def test_the_power_of_a_power_law_is_found():
    runs = [{"method": "a", "dim": dim, "ms": 3 * dim**0.7} for dim in (10, 100, 1000)]
    assert measuring.exponent(runs, "a") == pytest.approx(0.7)
    assert measuring.stage(0.0).endswith("SED, nested head at 1,000 dimensions")
    assert measuring.stage(1.0).endswith("DDPM at 32,000 dimensions")


# -- files -----------------------------------------------------------------------------------------


def test_the_samples_in_the_file_have_the_zeros_that_are_shown(found):
    file = np.load(io.BytesIO(compare_files.npz(found)))
    told = compare.payload(found.recording, found.rows, at=found.at)
    for column in told["columns"]:
        share = (file[column["key"]] == 0).mean()
        shown = told["curve"]["shares"][found.at] if column["cut"] else column["share"]
        assert share == pytest.approx(shown, abs=1e-6)
    recipe = json.loads(str(file["recipe"]))
    assert recipe["recipe"] == found.stamp and recipe["threshold"] == found.tau
    assert {method["seed"] for method in recipe["methods"]} == {0}


def test_the_numbers_are_one_line_a_sample(found):
    head, *lines = compare_files.numbers_csv(found).splitlines()
    assert json.loads(head.removeprefix("# "))["recipe"] == found.stamp
    rows = list(csv.DictReader(lines))
    assert len(rows) == 5 * SAMPLES
    first = next(row for row in rows if row["method"] == "SED")
    assert int(first["exact_zeros"]) == found.recording.method("sed").zeros[0]


def test_the_table_is_markdown_with_the_measured_one_below(found, tmp_path, monkeypatch):
    text = compare_files.report(found)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 8
    assert found.stamp in text and "as many real digits" in text
    monkeypatch.setenv("SED_RESULTS", str(shelf_peers.results(tmp_path / "results")))
    more = compare_files.report(found)
    assert "## Measured with 20 samples" in more and "2 (1.5 to 3)" in more and "3e+06" in more


def test_the_picture_shows_every_column_and_carries_the_recipe(found):
    image = Image.open(io.BytesIO(compare_files.png(found, 2)))
    assert json.loads(image.text["recipe"])["recipe"] == found.stamp
    assert image.size[0] > 5 * 224


def test_the_stamp_names_what_is_shown(found):
    recording, rows = found.recording, found.rows
    assert Compared(recording, rows, found.at, None, {}).stamp == found.stamp
    assert Compared(recording, rows[:5], found.at, None, {}).stamp != found.stamp
    assert Compared(recording, rows, found.at + 1, None, {}).stamp != found.stamp


def test_all_figures_fit_one_page(found, tmp_path, monkeypatch):
    monkeypatch.setenv("SED_RESULTS", str(shelf_peers.results(tmp_path / "results")))
    text = compare_charts.page(found, None)
    assert text.count("<h2>") == 5 and "cdn.plot.ly" not in text.split("<script", 1)[0]


# -- figures ---------------------------------------------------------------------------------------


def test_histograms_hold_every_sample():
    real = np.array([600, 610, 620, 630])
    shown = [figures.Zeros("sed", "SED", np.array([0, 784, 615]), 3.0)]
    fig = figures.zeros(shown, real, 784, cell="pixel")
    grey, line = fig.data
    assert sum(grey.y) == pytest.approx(1) and sum(line.y) == pytest.approx(1)
    assert "off by 3 pixels" in fig.layout.annotations[0].text
    assert "SED 59.5%" in figures.zeros_words(shown, real, 784)


def test_bars_say_what_was_measured_and_what_was_not():
    methods = [
        {"name": "SED", "rule": None, "costs": {"ms_batch_64": {"value": 2.0}}},
        {"name": "DDPM", "rule": None, "costs": {"ms_batch_64": {"value": 40.0},
                                                 "multiply_adds": {"value": 6.4e9}}},
        {"name": "DDPM + threshold (match)", "rule": "match", "costs": {}},
    ]  # fmt: skip
    fig = figures.costs({"methods": methods})
    assert list(fig.data[0].y) == ["DDPM", "SED"] and list(fig.data[0].x) == [40.0, 2.0]
    assert list(fig.data[1].text) == ["6.4 G", "not measured"]


def test_growth_is_drawn_with_its_power_and_the_readers_own_points():
    one = {"value": 2.0}
    result = {
        "methods": [{"key": "ddpm", "name": "DDPM"}],
        "runs": [{"method": "ddpm", "active": 50, "dim": 1000, "sample_ms": one, "step_ms": None},
                 {"method": "ddpm", "active": 50, "dim": 10**6, "sample_ms": None}],
        "fits": [{"method": "ddpm", "active": 50, "figure": "sample_ms", "exponent": 0.97}],
    }  # fmt: skip
    own = {"active": 50, "exponents": {"ddpm": 0.9},
           "runs": [{"method": "ddpm", "dim": 1000, "ms": 5.0}]}  # fmt: skip
    fig = figures.scaling(result, active=50, own=own)
    assert [trace.name for trace in fig.data] == [
        "DDPM (power 0.97)", "DDPM, this machine (power 0.90)"]  # fmt: skip
    assert list(fig.data[0].x) == [1000]
    assert not figures.scaling(result, figure="step_ms", active=50, own=own).data


# -- Decode with other data ------------------------------------------------------------------------


def test_decode_offers_models_that_decode_pairs_only(app):
    options = app("decode").selectbox(key="model").options
    assert options == ["sed-mnist", "sed-fashion", "sed-ecal"]


def test_decode_draws_showers_in_gev(app):
    at = app("decode", model="sed-ecal", label="2", steps="5")
    assert at.selectbox(key="label_choice").value == "2"
    assert at.selectbox(key="label_choice").options == ["any", *calorimeter.CLASS_NAMES]
    finish(at.button(key="generate").click().run(), "ticket")
    shown = at.session_state["shown"]
    scene = shown.scene
    assert (scene["width"], scene["unit"], scene["cell"]) == (32, "GeV", "cell")
    assert (scene["tone"], scene["low"], scene["top"]) == ("log", 0.005, 30)
    assert "sed-ecal, photon" in words(at) and "works on the cells" in words(at)
    rows = list(csv.DictReader(exports.pairs_csv(shown.run).splitlines()[1:]))
    assert all(int(row["index"]) == 32 * int(row["row"]) + int(row["column"]) for row in rows)
    assert "GeV" not in exports.notebook(shown.run)
    ast.parse(exports._look(shown.run))


def test_decode_calls_fashion_by_name(app):
    at = app("decode", model="sed-fashion", label="9", steps="5")
    finish(at.button(key="generate").click().run(), "ticket")
    assert "sed-fashion, Ankle boot" in words(at)
    assert at.session_state["shown"].run.params.label == 9


def test_a_class_that_the_model_does_not_have_is_named(app):
    at = app("decode", model="sed-ecal", label="7")
    assert [text.value for text in at.text] == ["Ignored: label=7"]
    asked = {"model": "sed-ecal", "label": "7"}
    params, ignored = controls.read(asked, ["sed-ecal"], {"sed-ecal": SHOWERS})
    assert params.label is None and ignored == ["label=7"]
    at = app("decode", label="7")
    assert not at.text
    at.selectbox(key="model").set_value("sed-ecal").run()
    assert at.session_state["label"] == "any" and not at.exception


def test_the_recorder_needs_no_judge(shelf, monkeypatch):
    monkeypatch.setenv("SED_CHECKPOINTS", str(shelf))
    rows = shelf_peers.digits(20).batch()
    measure, told = record_compare.measures(MNIST, rows.to_dense(), rows)
    assert [one["key"] for one in told] == ["ink"] and told[0]["real"] == 0
    measure, told = record_compare.measures(SHOWERS, rows.to_dense(), rows)
    assert set(measure(rows.to_dense() * 2)) == {"energy", "peak"}
