"""The app by its logic: every page, control and plain sentence; browsers are in test_browser."""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from explorer import controls, decoding, models, recorded
from explorer.controls import DEFAULTS, Params
from tests import shelf

ROOT = Path(__file__).parents[1]
PAGES = ["home", "decode", "models", "about"]
SHIPPED = ROOT / "checkpoints" / "sed-mnist" / "manifest.json"
PATIENCE = 60.0  # a run takes a second; a machine with other work on it takes longer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return shelf.fill(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def app(checkpoints, monkeypatch):
    """The app on small checkpoints, with nothing left over from the test before."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(checkpoints))
    st.cache_data.clear()
    yield lambda page="home", **query: opened(page, query)
    decoding.queue().close()
    st.cache_resource.clear()


def opened(page, query):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE)
    for key, value in query.items():
        at.query_params[key] = value
    if page != "home":
        at.switch_page(f"pages/{page}.py")
    return at.run()


def words(at):
    """Everything a reader can read."""
    kinds = ["title", "markdown", "caption", "text", "warning", "error", "code"]
    return "\n".join(str(element.value) for kind in kinds for element in at.get(kind))


def finish(at):
    """Run the page again until the job in line is over."""
    end = time.monotonic() + PATIENCE
    while "ticket" in at.session_state:
        assert time.monotonic() < end
        time.sleep(0.05)
        at.run()
    return at


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_without_a_fault(app, page):
    at = app(page)
    assert not at.exception and not at.error and not at.warning
    assert len(at.title) == 1


def test_the_settings_are_read_and_keep_visitors_private():
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert settings["browser"]["gatherUsageStats"] is False
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["server"]["enableXsrfProtection"] and settings["server"]["enableCORS"]
    assert not settings["server"]["enableAgentApi"]
    assert settings["theme"]["base"] == "light"


def test_start_loads_no_model_library():
    code = (
        "import sys, explorer.frame, explorer.recorded, explorer.player; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_start_says_that_it_is_recorded_and_counts_the_zeros(app):
    at, start = app(), recorded.start()
    assert start.words in words(at) and "Recorded, not live" in start.words
    assert at.metric[0].value == f"{start.dim - start.pairs} of {start.dim}"
    assert len(start.scene["pairs"]["index"]) == start.pairs


def test_the_recorded_sample_was_made_with_the_defaults():
    assert recorded.start().params == DEFAULTS


@pytest.mark.skipif(not SHIPPED.exists(), reason="sed-mnist is not shipped yet")
def test_the_recorded_sample_is_what_the_shipped_model_makes(monkeypatch):
    """If this fails: python -m explorer.record sed-mnist --seed 7 --label 3."""
    monkeypatch.delenv("SED_CHECKPOINTS")
    start, loaded = recorded.start(), models.load("sed-mnist")
    assert start.recipe["recipe"] == controls.stamp(DEFAULTS, loaded.sha)
    run = decoding.generate(loaded.model, DEFAULTS, loaded.sha, lambda fraction: None)
    assert run.sample.pairs(0)[0].tolist() == start.scene["pairs"]["index"]


def test_at_most_five_controls_are_in_sight(app):
    at = app("decode")
    inside = at.expander[0]
    kinds = ["button_group", "number_input", "selectbox", "slider"]
    count = sum(len(at.get(kind)) for kind in kinds) - sum(len(inside.get(k)) for k in kinds)
    assert count <= 5


def test_a_link_sets_every_control(app):
    params = Params("sed-mnist", None, 3.5, 20, "ddpm", 0.5, 0.7, 123)
    at = app("decode", **params.query())
    assert not words(at).count("Ignored")
    read, _ = controls.read({key: at.session_state[key] for key in controls.KEYS}, ["sed-mnist"])
    assert read == params


@pytest.mark.parametrize(
    ("key", "bad"),
    [("seed", "abc"), ("seed", "nan"), ("guidance", "nan"), ("guidance", "99"), ("steps", "7"),
     ("label", "x" * 5000), ("eta", "inf"), ("sampler", "<script>"), ("model", "../../etc")],
)  # fmt: skip
def test_a_bad_link_is_named_and_does_no_harm(app, key, bad):
    at = app("decode", **{key: bad, "steps" if key != "steps" else "seed": "20"})
    assert [text.value for text in at.text] == [f"Ignored: {key}={bad[:40]}"]
    assert not at.exception and not at.error
    good = at.run()
    assert good.session_state[key] == (
        str(DEFAULTS.label) if key == "label" else getattr(DEFAULTS, key)
    )


def test_a_link_made_with_other_weights_says_so(app):
    at = finish(app("decode", steps="5").button(key="generate").click().run())
    sha = at.session_state["shown"].run.sha[:8]
    assert "another version" in words(app("decode", sha="0" * 8))
    assert "another version" not in words(app("decode", sha=sha))
    assert "another version" not in words(app("decode", sha="<b>bold"))


def test_nothing_runs_until_generate_and_then_it_is_live(app):
    at = app("decode", steps="5")
    assert "Recorded, not live" in words(at) and "ticket" not in at.session_state
    finish(at.button(key="generate").click().run())
    shown = at.session_state["shown"]
    assert shown.run.params == Params(steps=5) and "Live: sed-mnist, digit 3" in words(at)
    assert at.metric[0].value == str(int(shown.run.sample.nnz[0]))
    assert at.metric[2].value == f"{784 * 5:,} values"
    assert shown.run.params.command() in words(at)


def test_changed_settings_are_marked_until_generate(app):
    at = finish(app("decode", steps="5").button(key="generate").click().run())
    assert "Settings changed" not in words(at)
    at.number_input(key="seed").set_value(8).run()
    assert "Settings changed. Generate to update." in words(at)
    assert at.session_state["shown"].run.params.seed == 7
    finish(at.button(key="generate").click().run())
    assert "Settings changed" not in words(at)
    assert at.session_state["shown"].run.params.seed == 8


def test_the_same_settings_give_the_same_result_to_two_visitors(app):
    runs = [
        finish(app("decode", steps="5", seed="3").button(key="generate").click().run())
        .session_state["shown"].run
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0].stamp == runs[1].stamp
    assert runs[0].sample.pairs(0)[0].tolist() == runs[1].sample.pairs(0)[0].tolist()


def test_guidance_stops_and_the_exact_field_agree(app):
    at = app("decode", guidance="3.5")
    assert at.session_state["guidance_stop"] is None
    at.number_input(key="guidance").set_value(4.0).run()
    assert at.session_state["guidance_stop"] == 4.0


def test_dice_and_reset(app):
    at = app("decode", seed="5", steps="10", label="any")
    at.button(key="reset").click().run()
    assert at.session_state["seed"] == DEFAULTS.seed and at.session_state["label"] == "3"
    assert at.session_state["steps"] == DEFAULTS.steps
    assert 0 <= at.button(key="dice").click().run().session_state["seed"] < 10_000


def test_stop_keeps_the_previous_result(app):
    at = finish(app("decode", steps="5").button(key="generate").click().run())
    before = at.session_state["shown"]
    at.number_input(key="seed").set_value(9).run()
    at.button(key="generate").click().run()
    if "ticket" in at.session_state:
        at.button(key="stop").click().run()
    assert "ticket" not in at.session_state and not at.exception
    assert at.session_state["shown"].run.params.seed in (before.run.params.seed, 9)


def test_use_leads_to_decode_with_that_model(app):
    at = app("models")
    assert "hub.load" in words(at)
    at.button(key="use-sed-mnist").click().run()
    assert at.title[0].value == "Decode" and at.session_state["model"] == "sed-mnist"


# -- faults: one plain sentence each, nothing of the machine ---------------------------------------


def plain(at):
    text = words(at)
    assert "Traceback" not in text and "/work" not in text and str(ROOT) not in text
    assert not at.exception
    return text


def test_no_checkpoints_at_all(app, tmp_path, monkeypatch):
    monkeypatch.setenv("SED_CHECKPOINTS", str(tmp_path))
    assert "No checkpoint is here" in plain(app("models"))
    at = app("decode")
    at.button(key="generate").click().run()
    assert "is not here" in plain(at) and "Recorded, not live" in plain(at)


def test_a_damaged_checkpoint(app, tmp_path, monkeypatch):
    folder = shelf.fill(tmp_path)
    weights = folder / "sed-mnist" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    monkeypatch.setenv("SED_CHECKPOINTS", str(folder))
    assert any("model.safetensors" in warning.value for warning in app("models").warning)
    at = app("decode")
    at.button(key="generate").click().run()
    assert "model.safetensors" in at.warning[0].value and "Recorded, not live" in plain(at)


def test_an_unexpected_error_shows_a_sentence_and_a_code(app, monkeypatch, caplog):
    def broken():
        raise KeyError("/secret/path")

    monkeypatch.setattr(recorded, "start", broken)
    at = app()
    assert "Something went wrong here" in at.error[0].value and "secret" not in plain(at)
    code = at.error[0].value.split("code ")[1][:6]
    assert code in caplog.text


def test_an_error_inside_a_run_shows_a_sentence(app, monkeypatch):
    def broken(*args):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(decoding, "generate", broken)
    at = finish(app("decode").button(key="generate").click().run())
    assert "Something went wrong here" in at.warning[0].value and "secret" not in plain(at)


def test_a_job_uses_one_thread_and_idle_threads_sleep(app):
    app("decode")
    queue = decoding.queue()
    ticket = queue.submit("ada", lambda tick: torch.get_num_threads())
    while (view := queue.look(ticket)).result is None:
        time.sleep(0.01)
    assert view.result == 1
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_full_line_is_said_in_minutes(app):
    decoding.queue().depth = 0
    at = app("decode")
    at.button(key="generate").click().run()
    assert "Please come back in about" in at.warning[0].value
