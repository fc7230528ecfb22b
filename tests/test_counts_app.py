"""The page Counts by its logic: settings, links, jobs, the toy's bench, masks, files."""

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import scipy.sparse
import streamlit as st
import torch
from hypothesis import given
from hypothesis import strategies as hs
from PIL import Image
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from explorer import (
    count_bench,
    count_exports,
    count_fill,
    count_params,
    count_runs,
    count_views,
    counting,
    decoding,
    models,
    record_counts,
)
from explorer.count_params import DEFAULTS, HAND, KEYS, KINDS, Params, read
from explorer.eraser import pack
from explorer.jobs import Cancelled
from sed_core import hub
from sed_core.chance import seeded, split
from sed_core.cli import app as command_line
from sed_core.domains.digits import Digits
from sed_core.domains.toy import TOY
from sed_core.stages import Stage
from sed_core.stream import Trace
from tests import shelf_counts

ROOT = Path(__file__).parents[1]
MODELS = {"digit": ["counts-mnist"], "ten": ["counts-toy"]}
PATIENCE = 60.0
SHIPPED = ROOT / "checkpoints" / "counts-mnist" / "manifest.json"
SHA = "ab" * 32

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return shelf_counts.fill(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def tape(shelf, tmp_path_factory):
    """What is recorded of them, made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        return shelf_counts.record(tmp_path_factory.mktemp("recorded"), shelf, patch)


@pytest.fixture(autouse=True)
def app(shelf, tape, monkeypatch):
    """The page on small checkpoints, no real digits, nothing left over from before."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(shelf))
    monkeypatch.setattr(counting, "RECORDED", tape)
    monkeypatch.setattr(count_fill, "test_digits", lambda: None)
    small = {"counts": Stage(steps=60, rows=16, lr=1e-3)}
    monkeypatch.setattr(count_bench, "TOY_PLAN", small)
    monkeypatch.setattr(count_bench, "TRAINING", 60)
    rows = TOY.sample(300, generator=seeded(1))
    monkeypatch.setattr(count_bench.toy, "load", lambda split: rows)
    st.cache_data.clear()
    yield opened
    decoding.queue().close()
    st.cache_resource.clear()


@pytest.fixture
def real_digits(monkeypatch):
    """Ten thousand pictures that stand for the test digits."""
    images = torch.zeros(10_000, 784, dtype=torch.uint8)
    images[:, 300:400] = 200
    found = Digits(images, torch.arange(10_000) % 10)
    monkeypatch.setattr(count_fill, "test_digits", lambda: found)
    return found


def opened(page="counts", **query):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE)
    for key, value in query.items():
        at.query_params[key] = value
    return at.switch_page(f"pages/{page}.py").run()


def words(at):
    kinds = ["title", "header", "markdown", "caption", "text", "warning", "error", "code", "info"]
    return "\n".join(str(element.value) for kind in kinds for element in at.get(kind))


def finish(at):
    end = time.monotonic() + PATIENCE
    while "counts_ticket" in at.session_state:
        assert time.monotonic() < end
        time.sleep(0.02)
        at.run()
    assert not at.exception and not at.error
    return at


def press(at, key):
    return finish(at.button(key=key).click().run())


def result(at, slot):
    return at.session_state["counts_results"][slot]


# -- parameters ------------------------------------------------------------------------------------

PARAMS = hs.builds(
    Params,
    view=hs.sampled_from([*count_params.VIEWS]),
    data=hs.sampled_from([*count_params.DATA]),
    label=hs.none() | hs.integers(0, 9),
    guidance=hs.sampled_from([0.0, 1.0, 2.0, 4.0, 8.0]),
    steps=hs.sampled_from(count_params.STEPS),
    seed=hs.integers(0, 2**31 - 1),
    schedule=hs.sampled_from(["own", *count_params.SURVIVAL]),
    spacing=hs.sampled_from(count_params.SPACINGS),
    attrition=hs.sampled_from(count_params.ATTRITIONS),
    strength=hs.integers(0, 100).map(lambda n: n / 100),
    births=hs.sampled_from(count_params.BIRTHS),
    n=hs.sampled_from(count_params.SIZES),
    source=hs.sampled_from([*count_params.SOURCES]),
    number=hs.integers(0, 9_999),
    kind=hs.sampled_from([*KINDS]),
    mask=hs.binary(min_size=98, max_size=98).map(
        lambda bits: pack(torch.from_numpy(np.unpackbits(np.frombuffer(bits, np.uint8)) > 0))
    ),
    draws=hs.sampled_from(count_params.DRAWS),
    method=hs.sampled_from(count_params.METHODS),
    rounds=hs.integers(1, 5),
    jump=hs.integers(1, 50),
    known=hs.sampled_from([*count_params.KNOWN]),
)


@given(PARAMS)
def test_a_link_says_everything_that_matters(params):
    params = replace(params, model=MODELS[params.subject][0])
    link = urlsplit(params.link("http://localhost/counts", SHA))
    query = dict(parse_qsl(link.query))
    found, ignored = read(query, MODELS)
    assert ignored == [] and found.said() == params.said() and query["sha"] == SHA[:8]
    assert found.stamp(SHA) == params.stamp(SHA) != params.stamp("cd" * 32)


@given(hs.dictionaries(hs.sampled_from(KEYS), hs.text(max_size=60)))
def test_no_text_in_a_link_makes_trouble(values):
    params, ignored = read(values, MODELS)
    query = dict(parse_qsl(urlsplit(params.link("", SHA)).query))
    assert read(query, MODELS) == (read(query, MODELS)[0], [])
    assert len(ignored) <= len(values) + 1


@pytest.mark.parametrize(
    ("key", "bad"),
    [("view", "cook"), ("data", "cells"), ("label", "10"), ("guidance", "3"), ("guidance", "nan"),
     ("steps", "20"), ("seed", "-1"), ("seed", "٣"), ("schedule", "own!"), ("spacing", "x"),
     ("attrition", "all"), ("strength", "inf"), ("strength", "-0.1"), ("births", "twins"),
     ("model", "../../etc/passwd"), ("n", "5"), ("source", "web"), ("number", "1.5"),
     ("kind", "upper"), ("mask", "AAAA"), ("mask", "<script>"), ("draws", "1000"),
     ("method", "guess"), ("rounds", "0"), ("jump", "51"), ("known", "maybe"),
     ("kind", "hand")],
)  # fmt: skip
def test_what_does_not_belong_is_named_and_left_at_its_default(key, bad):
    params, ignored = read({key: bad}, MODELS)
    assert params == replace(DEFAULTS, model="counts-mnist") and ignored == [f"{key}={bad[:40]}"]


def test_values_that_contradict_each_other_are_named():
    assert read({"attrition": "rescaled", "strength": "2"}, MODELS)[1] == ["strength=2"]
    assert read({"attrition": "rate", "strength": "2"}, MODELS)[1] == []
    assert read({"source": "test", "number": "10000"}, MODELS)[1] == ["number=10000"]
    assert read({"source": "test"}, MODELS, ["sample"])[1] == ["source=test"]


def test_what_does_not_matter_here_changes_no_name():
    digit = replace(DEFAULTS, model="m")
    assert digit.stamp(SHA) == replace(digit, draws=16, n=4_000, mask="x", rounds=3).stamp(SHA)
    assert digit.stamp(SHA) == replace(digit, strength=0.5).stamp(SHA)  # attrition none
    ten = replace(digit, data="ten")
    assert ten.stamp(SHA) == replace(ten, label=5, guidance=8.0).stamp(SHA) != digit.stamp(SHA)


# -- watch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [{}, {"data": "ten"}, {"view": "bench"}, {"view": "fill"}])
def test_every_view_opens_at_once_with_something_recorded(app, query):
    at = app(**query)
    assert not at.exception and not at.error and not at.warning
    assert at.title[0].value == "Counts" and "Recorded, not live" in words(at)
    assert "counts_ticket" not in at.session_state


def test_nothing_runs_until_generate_and_then_it_is_live(app):
    at = app(steps="10", seed="5")
    assert "counts_results" not in at.session_state
    press(at, "counts_go")
    run = result(at, "digit").run
    assert "Live: counts-mnist, digit 3, guidance 2, 10 steps, seed 5" in words(at)
    assert run.counts.dtype == torch.int64 and run.counts.shape == (1, 784)
    assert int(run.counts.min()) >= 0 and int(run.counts.max()) <= 255
    assert run.deaths.shape == (11, 784) and not run.deaths[-1].any()
    assert (run.deaths.diff(dim=0) <= 0).all() and run.deaths[0].any()
    assert result(at, "digit").scene["start"] == 11


def test_a_link_sets_every_control(app):
    params = Params(
        "watch", "digit", None, 4.0, 25, 123, "jump", "log_odds", "rate", 5.0, "poisson",
        "counts-mnist",
    )  # fmt: skip
    query = dict(parse_qsl(urlsplit(params.link("", SHA)).query))
    at = app(**query)
    assert "Ignored" not in words(at) and at.session_state["counts_params"].said() == params.said()
    said = {key: at.session_state[f"counts_{key}"] for key in params.said() if key != "label"}
    assert said == {key: value for key, value in params.said().items() if key != "label"}
    assert at.session_state["counts_label"] == "any"
    assert "another version" in words(at)


@pytest.mark.parametrize(("key", "bad"), [("seed", "abc"), ("steps", "7"), ("mask", "<b>")])
def test_a_bad_link_is_named_until_something_is_made(app, key, bad):
    at = app(**{"data": "ten", key: bad, "births": "binomial"})
    assert [text.value for text in at.text] == [f"Ignored: {key}={bad}"]
    assert at.session_state["counts_births"] == "binomial"
    at.number_input(key="counts_seed").set_value(3).run()
    assert len(at.text) == 1
    assert not press(at, "counts_go").text


def test_every_control_changes_what_it_says(app):
    at = app()
    for key, value in (("label", "any"), ("guidance", 8.0), ("steps", 100), ("spacing", "log_odds"),
                       ("births", "poisson")):  # fmt: skip
        at.button_group(key=f"counts_{key}").set_value(value).run()
    for key, value in (("schedule", "fi"), ("attrition", "capped")):
        at.selectbox(key=f"counts_{key}").set_value(value).run()
    assert not at.number_input(key="counts_strength").disabled
    at.number_input(key="counts_strength").set_value(0.25).run()
    params = at.session_state["counts_params"]
    assert (params.label, params.guidance, params.steps, params.spacing) == (
        None,
        8,
        100,
        "log_odds",
    )
    assert (params.births, params.schedule, params.attrition) == ("poisson", "fi", "capped")
    assert params.strength == 0.25 and "Schedule fi:" in words(at)
    at.button_group(key="counts_data").set_value("ten").run()
    assert at.session_state["counts_params"].model == "counts-toy"
    at.button(key="counts_reset").click().run()
    reset = replace(DEFAULTS, data="ten", model="counts-toy")
    assert at.session_state["counts_params"] == reset
    assert 0 <= at.button(key="counts_dice").click().run().session_state["counts_seed"] < 10_000
    assert not at.exception


def test_what_is_not_usual_is_told_with_the_result(app):
    asked = {"schedule": "fi", "spacing": "log_odds", "attrition": "rate", "strength": "5"}
    at = press(app(steps="10", data="ten", **asked), "counts_go")
    assert "10 steps, schedule fi, spacing log-odds, attrition rate 5, seed 7" in words(at)


def test_changed_settings_are_marked_until_generate(app):
    at = press(app(steps="10", data="ten"), "counts_go")
    assert "Settings changed" not in words(at)
    at.number_input(key="counts_seed").set_value(8).run()
    assert "Settings changed. Generate to update." in words(at)
    assert result(at, "ten").run.params.seed == 7
    assert "Settings changed" not in words(press(at, "counts_go"))
    assert result(at, "ten").run.params.seed == 8


def test_the_same_settings_give_the_same_result_to_two_visitors(app):
    runs = [result(press(app(steps="10", seed="3"), "counts_go"), "digit").run for _ in range(2)]
    assert runs[0].stamp == runs[1].stamp and torch.equal(runs[0].counts, runs[1].counts)
    assert torch.equal(runs[0].deaths, runs[1].deaths)


@pytest.mark.parametrize(
    "query", [{"label": "5", "guidance": "4", "schedule": "jump", "attrition": "max"},
              {"label": "any", "births": "binomial"}, {"data": "ten", "attrition": "rate"}],
)  # fmt: skip
def test_the_command_gives_what_the_page_shows(app, query, tmp_path):
    run = result(
        press(app(steps="10", seed="4", **query), "counts_go"), query.get("data", "digit")
    ).run
    out = tmp_path / "x.npz"
    asked = run.params.command().split()[1:-1]
    done = CliRunner().invoke(command_line, [*asked, str(out)])
    assert done.exit_code == 0, done.output
    made = scipy.sparse.load_npz(out)
    assert np.array_equal(np.asarray(made.todense()), run.counts.numpy())


def test_stop_keeps_the_previous_result(app):
    at = press(app(steps="10"), "counts_go")
    at.button_group(key="counts_steps").set_value(200).run()
    at.button(key="counts_go").click().run()
    at.button(key="counts_stop").click().run()
    assert "counts_ticket" not in at.session_state and not at.exception
    assert result(at, "digit").run.params.steps == 10
    assert "Settings changed. Generate to update." in words(at)


@pytest.mark.parametrize("work", ["watch", "strip", "fill", "bench"])
def test_a_job_hears_stop_within_a_step(app, work):
    peer, params = models.counts("counts-mnist"), Params(steps=10, model="counts-mnist")

    shares = []

    def tick(share):
        shares.append(share)
        if share > 0.05:
            raise Cancelled("Stopped.")

    digit = count_fill.Truth(torch.zeros(784, dtype=torch.int64), 3, "", ())
    peers = {key: models.counts(name) for key, name in counting.PEERS.items()}
    jobs = {
        "watch": lambda: count_runs.watch(peer, params, "shifted", tick),
        "strip": lambda: count_runs.strip(peer, params, "shifted", tick),
        "fill": lambda: count_fill.fill(peer, replace(params, view="fill"), digit, tick),
        "bench": lambda: count_bench.measure(peers, replace(params, view="bench"), "", tick),
    }
    with pytest.raises(Cancelled):
        jobs[work]()
    assert shares[-1] < 0.3


def test_a_life_is_a_trace_that_adds_up(app):
    params = Params(steps=10, attrition="rescaled", strength=0.5, model="counts-mnist")
    run = count_runs.watch(models.counts("counts-mnist"), params, "shifted", lambda share: None)
    x = torch.zeros(1, 784, dtype=torch.int64)
    for step in run.births.steps:
        x = x + step.aux["births"] - step.aux["deaths"]
        assert torch.equal(x, step.x)
    assert run.times[0] == 0 and run.times[-1] == 1 and run.alive[0] == 1 and run.alive[-1] == 0


def test_every_value_is_drawn_from_the_same_start(app):
    at = press(app(steps="10", attrition="capped", strength="0.5"), "counts-strip")
    strip = result(at, "strip")
    assert [value for value, _, _ in strip.guidance] == ["0", "1", "2", "4", "8"]
    assert [marked for _, _, marked in strip.guidance] == [False, False, True, False, False]
    assert [value for value, _, marked in strip.attrition if marked] == ["capped 0.5"]
    captions = [words for image in at.get("image") for words in image.captions]
    assert [one for one in captions if "as set" in one] == ["2 (as set)", "capped 0.5 (as set)"]
    assert torch.equal(strip.guidance[2][1], strip.attrition[-1][1])
    at.number_input(key="counts_seed").set_value(8).run()
    assert "Settings changed. Draw every value to update." in words(at)


def test_rows_drawn_together_are_those_drawn_alone(app):
    peer, params = models.counts("counts-mnist"), Params(steps=10, model="counts-mnist")
    strip = count_runs.strip(peer, params, "shifted", lambda share: None)
    for value, together, _ in strip.guidance:
        asked = replace(params, guidance=float(value))
        alone = count_runs.watch(peer, asked, "shifted", lambda share: None).counts[0]
        assert (alone != together).double().mean() < 0.02  # a batch rounds otherwise


# -- the toy's bench -------------------------------------------------------------------------------


def test_the_bench_measures_every_method_beside_the_floor(app):
    at = press(app(view="bench", steps="10"), "counts_go")
    found = result(at, "bench")
    assert set(found.samples) == {"counts", "gauss", "masked", "exact"}
    assert all(x.shape == (1_000, 10) and x.dtype == torch.int64 for x in found.samples.values())
    table = at.dataframe[0].value
    assert list(table["method"]) == ["CountsDiff", "Gaussian", "Masked", "Exact law itself"]
    floor = found.figures["exact"]
    assert all(found.figures[key]["w1"] > floor["w1"] for key in ("counts", "gauss"))
    assert floor["sliced_w2"] > 0 and "Measured here: 1,000 samples" in words(at)
    assert len(found.params.command().splitlines()) == 3


def test_the_exact_samples_are_those_of_the_law_and_differ():
    real, other = (TOY.sample(4_000, generator=chance) for chance in count_bench.exact_chance(7))
    assert torch.allclose(real.double().mean(0), TOY.mean, rtol=0.15, atol=0.03)
    assert not torch.equal(real, other)


def test_what_is_trained_here_takes_part(app):
    at = app(view="bench", steps="10", seed="2")
    assert "Trains CountsDiff" in words(at)
    press(at, "counts-train")
    trained = result(at, "trained")
    assert len(trained.losses) == 3 and trained.losses[-1][0] == 60
    assert "Trained here from seed 2" in words(at)
    found = result(press(at, "counts_go"), "bench")
    assert list(found.samples) == ["counts", "own", "gauss", "masked", "exact"]
    command = count_exports.command(found)
    assert command.splitlines()[0] == "sed-core train counts-toy --seed 2" and len(found.shas) == 4
    again = count_bench.train(2, [], lambda share: None)
    assert again.peer.sha == trained.peer.sha == found.shas["own"]
    assert count_bench.train(3, [], lambda share: None).peer.sha != trained.peer.sha


def test_training_stops_and_what_was_there_stays(app, monkeypatch):
    at = press(app(view="bench", seed="2"), "counts-train")
    before = result(at, "trained")
    monkeypatch.setattr(count_bench, "TOY_PLAN", {"counts": Stage(steps=90_000, rows=16, lr=1e-3)})
    at.button(key="counts-train").click().run()
    end = time.monotonic() + PATIENCE
    while not counting_losses(at) and time.monotonic() < end:
        time.sleep(0.05)
        at.run()
    assert "Training: step" in str([bar.proto for bar in at.get("progress")])
    begun = time.monotonic()
    at.button(key="counts_stop").click().run()
    assert time.monotonic() - begun < 5 and "counts_ticket" not in at.session_state
    assert result(at, "trained") is before
    assert at.session_state["counts_losses"] == list(before.losses)


def counting_losses(at):
    return at.session_state["counts_losses"]


def test_training_leaves_global_chance_alone(app):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    count_bench.train(1, [], lambda share: None)
    assert torch.equal(before, torch.random.get_rng_state())


# -- filling in ------------------------------------------------------------------------------------


def test_a_part_is_filled_in_and_the_rest_stays(app):
    at = press(app(view="fill", steps="10", draws="4"), "counts_go")
    found = result(at, "fill")
    seen, truth = found.observed, found.truth.counts
    assert found.draws.shape == (4, 784) and found.erased == 392
    assert torch.equal(found.draws[:, seen], truth[seen].expand(4, -1))
    assert not torch.equal(found.draws[0], found.draws[1])
    told = count_fill.scores(found)
    error = (found.draws.double().mean(0) - truth)[~seen]
    assert told.rmse == pytest.approx(error.square().mean().sqrt().item())
    assert told.rmse_zeros == pytest.approx(truth[~seen].double().square().mean().sqrt().item())
    low, high = np.quantile(found.draws[:, ~seen].numpy(), [0.05, 0.95], axis=0)
    true = truth[~seen].numpy()
    assert told.inside == pytest.approx(((low <= true) & (true <= high)).mean())
    assert told.ideal == pytest.approx(0.54)
    assert at.metric[0].value == f"{told.rmse:.1f} grey levels"
    assert "392 of 784 pixels erased" in words(at)


def test_nothing_erased_gives_the_digit_back_and_says_so(app):
    at = press(app(view="fill", steps="10", draws="4", kind="nothing"), "counts_go")
    found = result(at, "fill")
    assert torch.equal(found.draws, found.truth.counts.expand(4, -1))
    assert "Nothing was erased" in words(at) and not at.metric
    assert count_fill.scores(found) is None


@pytest.mark.parametrize("method", ["conditional", "replace"])
def test_all_erased_is_a_digit_from_nothing_and_says_so(app, method):
    at = press(app(view="fill", steps="10", draws="4", kind="all", method=method), "counts_go")
    found = result(at, "fill")
    assert found.erased == 784 and "nothing of the digit was seen" in words(at)
    if method == "conditional":
        model = models.counts("counts-mnist").model
        free = model.impute(found.truth.counts[None] * 0, torch.zeros(1, 784, dtype=torch.bool),
                            draws=4, steps=10, generator=split(seeded(7), 1))  # fmt: skip
        assert torch.equal(found.draws, free[:, 0])


def test_a_mask_by_hand_comes_from_the_link(app):
    seen = torch.ones(784, dtype=torch.bool)
    seen[100:140] = False
    at = press(app(view="fill", steps="10", draws="4", kind=HAND, mask=pack(seen)), "counts_go")
    assert torch.equal(result(at, "fill").observed, seen)
    assert pack(seen) in result(at, "fill").params.link("", SHA)
    assert HAND in [*KINDS] and at.session_state["counts_kind"] == HAND


def test_what_the_reader_erases_becomes_the_mask(app):
    at = app(view="fill")
    seen = torch.zeros(784, dtype=torch.bool)
    with pytest.MonkeyPatch.context() as patch:
        state = {"counts_eraser": type("Event", (), {"mask": pack(seen)})(),
                 "counts_params": at.session_state["counts_params"]}  # fmt: skip
        patch.setattr(st, "session_state", state)
        counting.erase()
        assert (state["counts_params"].kind, state["counts_params"].mask) == (HAND, pack(seen))


@pytest.mark.parametrize(
    ("kind", "erased"), [("left", 392), ("lower", 392), ("middle", 196), ("all", 784),
                         ("nothing", 0)],
)  # fmt: skip
def test_every_kind_erases_its_part(kind, erased):
    seen = count_fill.seen(Params(kind=kind)).reshape(28, 28)
    assert int((~seen).sum()) == erased
    half = {"left": seen[:, 14:], "lower": seen[:14], "middle": seen[:7]}
    assert half.get(kind, seen[:0]).all()


def test_scattered_erases_about_a_half_and_always_the_same():
    one, two = (count_fill.seen(Params(kind="scattered", seed=seed)) for seed in (1, 2))
    assert torch.equal(one, two) and 330 < int(one.sum()) < 450


def test_replace_says_what_it_does_not_do_well(app):
    at = app(view="fill", steps="10", draws="4", method="replace", rounds="2", jump="5")
    assert "replace pulls too weakly" in words(at) and "goes back to nothing" not in words(at)
    found = result(press(at, "counts_go"), "fill")
    assert len(found.states) == 20 and "method replace" in words(at)
    assert torch.equal(found.draws[0][found.observed], found.truth.counts[found.observed])
    assert "goes back to nothing" in words(
        app(view="fill", steps="10", method="replace", rounds="2")
    )


def test_another_digit_is_drawn_when_it_is_asked_for(app):
    at = app(view="fill", number="99")
    assert "Another digit is asked for" in words(at)
    press(at, "counts_draw")
    assert "Another digit" not in words(at) and "the second of seed 99" in words(at)
    assert at.button(key="counts_draw").disabled
    direct = press(app(view="fill", number="99", steps="10", draws="4"), "counts_go")
    assert torch.equal(result(direct, "fill").truth.counts, result(at, "truth").counts)


def test_a_real_digit_is_there_at_once_where_the_data_is(app, real_digits):
    at = app(view="fill", source="test", number="12", known="class", steps="10", draws="4")
    assert "Test digit 12 of MNIST, a 2" in words(at) and "Another digit" not in words(at)
    found = result(press(at, "counts_go"), "fill")
    assert torch.equal(found.truth.counts, real_digits.images[12].long())
    assert found.params.label == 2 and "--label 2" in found.params.command()
    assert "Settings changed" not in words(at)


def test_no_real_digit_is_offered_where_the_data_is_not(app):
    at = app(view="fill", source="test")
    assert (
        "Ignored: source=test" in words(at) and at.session_state["counts_params"].source == "sample"
    )
    assert not [group for group in at.get("button_group") if group.key == "counts_source"]


@pytest.mark.parametrize("query", [{}, {"known": "class", "attrition": "rate", "kind": "scattered"},
                                   {"method": "replace"}])  # fmt: skip
def test_the_command_fills_in_as_the_page_does(app, query, tmp_path):
    at = press(app(view="fill", steps="10", draws="4", seed="5", **query), "counts_go")
    found, rows, out = result(at, "fill"), tmp_path / "rows.npz", tmp_path / "filled.npz"
    rows.write_bytes(count_exports.npz(found))
    asked = [str(rows) if word == "rows.npz" else word for word in found.params.command().split()]
    done = CliRunner().invoke(command_line, [*asked[1:-1], str(out)])
    assert done.exit_code == 0, done.output
    with np.load(out) as made:
        assert np.array_equal(made["draws"][:, 0], found.draws.numpy())


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(shelf):
    """A small result of every view."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SED_CHECKPOINTS", str(shelf))
        asked = {**record_counts.SLOTS, "fill": {"view": "fill", "draws": "4"}}
        return {
            slot: record_counts.made(record_counts.settings(steps="10", **some))
            for slot, some in asked.items()
        }


@pytest.mark.parametrize("slot", record_counts.SLOTS)
def test_what_is_written_is_read_back(made, slot):
    found = made[slot]
    again = count_exports.read(count_exports.tape(found))
    assert again.stamp == found.stamp and count_exports.recipe(again) == count_exports.recipe(found)
    if slot in ("digit", "ten"):
        assert torch.equal(again.counts, found.counts) and torch.equal(again.deaths, found.deaths)
        assert count_runs.life(again) == count_runs.life(found)
    if slot == "fill":
        assert torch.equal(again.draws, found.draws)


@pytest.mark.parametrize("slot", record_counts.SLOTS)
def test_every_file_opens_and_holds_its_recipe(made, slot):
    found = made[slot]
    for ending, make in count_views.files(found).values():
        data = make()
        text = data if isinstance(data, str) else data.decode("latin-1")
        assert found.stamp in count_exports.name(found, ending)
        assert ending == "npz" or found.stamp in text
    with np.load(io.BytesIO(count_exports.npz(found))) as file:
        whole = [file[key] for key in file.files if file[key].dtype == np.int64]
        assert whole and json.loads(str(file["recipe"]))["recipe"] == found.stamp


def test_the_csv_says_each_count_once(made):
    for slot, dim, rows in (("digit", 784, 1), ("ten", 10, 1), ("fill", 784, 4)):
        lines = count_exports.table(made[slot]).splitlines()
        counts = made[slot].counts if slot != "fill" else made[slot].draws
        table = list(csv.DictReader(lines[1:]))
        assert len(table) == rows * dim
        assert [int(line["count"]) for line in table] == counts.flatten().tolist()
    table = list(csv.DictReader(count_exports.table(made["bench"]).splitlines()[1:]))
    assert len(table) == 4 * 1_000 * 10 and {line["method"] for line in table} == {
        "counts", "gauss", "masked", "exact"
    }  # fmt: skip


def test_pictures_and_traces_open(made):
    assert Image.open(io.BytesIO(count_exports.png(made["digit"]))).size == (337, 337)
    assert Image.open(io.BytesIO(count_exports.gif(made["digit"]))).n_frames > 10
    assert Image.open(io.BytesIO(count_exports.gif(made["fill"]))).n_frames > 5
    for slot in ("digit", "fill"):
        trace = Trace.from_json(count_exports.trace_json(made[slot]))
        assert len(trace.steps) == 10
    assert torch.equal(trace.x.long(), made["fill"].draws)


def test_a_page_of_figures_needs_no_network(made):
    text = count_views.page(made["bench"])
    assert text.count("<h2>") == 11 and 'src="http' not in text


@pytest.mark.skipif(not SHIPPED.exists(), reason="counts-mnist is not shipped yet")
@pytest.mark.parametrize("slot", record_counts.SLOTS)
def test_the_recording_is_what_the_shipped_models_make(slot, monkeypatch):
    """If this fails: python -m explorer.record_counts."""
    monkeypatch.delenv("SED_CHECKPOINTS")
    path = ROOT / "assets" / "counts" / f"{slot}.safetensors"
    kept = count_exports.read(path.read_bytes())
    params = record_counts.settings(**record_counts.SLOTS[slot])
    assert kept.params.said() == params.said()
    if slot == "bench":
        here = {key: models.counts_sha(name) for key, name in counting.PEERS.items()}
        assert kept.shas == here
        return
    assert kept.sha == models.counts_sha(params.model)


# -- faults ----------------------------------------------------------------------------------------


def test_no_checkpoints_at_all(app, tmp_path, monkeypatch):
    monkeypatch.setenv("SED_CHECKPOINTS", str(tmp_path))
    for view in count_params.VIEWS:
        at = app(view=view)
        at.button(key="counts_go").click().run()
        assert not at.exception and "is not here" in at.warning[0].value
        assert str(tmp_path) not in words(at)


def test_nothing_recorded_is_no_fault(app, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "RECORDED", tmp_path)
    for query in ({}, {"view": "bench"}, {"view": "fill"}):
        at = app(**query)
        assert not at.exception and not at.error and "Press" in at.info[0].value


def test_a_full_line_is_said_in_minutes(app):
    decoding.queue().depth = 0
    at = app()
    at.button(key="counts_go").click().run()
    assert "Please come back in about" in at.warning[0].value


def test_an_error_inside_a_run_shows_a_sentence(app, monkeypatch):
    def broken(*args):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(count_runs, "watch", broken)
    at = press(app(), "counts_go")
    assert "Something went wrong here" in at.warning[0].value and "secret" not in words(at)


def test_the_snippet_of_every_model_of_counts_runs(app):
    for card in models.cards():
        assert isinstance(hub.load(card.name), models.COUNTS)
        scope = {}
        exec(models.snippet(card).replace("16, ", "2, "), scope)  # noqa: S102
        assert len(scope["samples"]) == 2
