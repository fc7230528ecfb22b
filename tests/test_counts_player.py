"""The counts player: what its scene holds, and in a real browser what a reader sees of it."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stage import faults, hosted, served, state
from test_scene import ring

from explorer.counts_player import html, payload, source
from explorer.counts_scene import Life, length, place, scene
from sed_core import hub
from sed_core.births import moves, reverse
from sed_core.chance import seeded
from sed_core.domains.toy import TOY
from sed_core.stream import Step, record
from sed_core.thinning import SURVIVAL, survival, survival_grid, transition

browser = pytest.mark.browser
SIDE, LARGEST = 28, 255
STEPS = 12  # deaths of both lives
REVERSE = 8  # births of the digit: not as many
NAMES = tuple(f"x{k}" for k in range(1, 11))
SHIPPED = Path(__file__).parents[1] / "checkpoints"

Open = Callable[..., Any]


def dying(x0: torch.Tensor, steps: int = STEPS) -> dict[str, Any]:
    """The first part of a life: states, times and shares."""
    schedule = SURVIVAL["cosine"]
    times = [0.0, *(t for t, _ in reversed(survival_grid(schedule, steps)))]
    alive, states = [survival(schedule, t) for t in times], [x0[None]]
    for p_s, p_t in pairwise(alive):
        states.append(transition(states[-1], p_s, p_t, generator=seeded(len(states))))
    return {"deaths": [state[0] for state in states], "times": times, "survival": alive}


def being_born(x0: torch.Tensor, steps: int = REVERSE, **options: Any) -> list[Step[Any]]:
    """The second part, by a network that knows what is missing."""
    plan = moves(SURVIVAL["cosine"], steps, **options)
    nothing = torch.zeros(1, len(x0), dtype=torch.int64)
    rate = lambda x_t, p_t: (x0 - x_t).float()  # noqa: E731
    return list(reverse(rate, nothing, plan, chance=[seeded(3)]))


def digit(**options: Any) -> Life:
    """A ring dies and is born again."""
    x0 = (LARGEST * ring()).round().long()
    return Life(
        title="A ring", side=SIDE, largest=LARGEST, ident="ring", births=being_born(x0, **options),
        **dying(x0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def ten() -> Life:
    """Ten counts by the shipped model, some of whose units die again."""
    stream = hub.load("counts-toy").stream(
        1, steps=STEPS, attrition="rate", strength=2.0, generator=seeded(5)
    )
    return Life(
        title="Ten counts", names=NAMES, largest=12, ident="ten", births=record(stream).steps,
        **dying(TOY.sample(1, generator=seeded(21))[0]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def picture() -> dict[str, Any]:
    return scene(digit(attrition="rescaled", strength=0.1))


@pytest.fixture(scope="module")
def bars(ten: Life) -> dict[str, Any]:
    return scene(ten)


def read(made: dict[str, Any], part: str, name: str = "x") -> np.ndarray:
    """The numbers of a scene, as a player reads them."""
    kind = "<u2" if name == "rate" or made["bytes"] == 2 else "<u1"
    flat = np.frombuffer(base64.b64decode(made[part][name]), dtype=kind)
    return flat.reshape(-1, made["dim"]).astype(np.int64)


def told(made: dict[str, Any]) -> list[dict[str, Any]]:
    """What each position of the time line is, worked out again from the scene."""
    found = []
    for part in ("deaths", "births"):
        states = read(made, part)
        again = read(made, "births", "died") if made["births"]["died"] else states[1:] * 0
        for k, x in enumerate(states):
            change = x - states[max(0, k - 1)]
            died = -change if part == "deaths" else again[k - 1] if k else x * 0
            found.append({"stage": part, "step": k, "x": x, "died": died, "born": change + died})
    return found


# -- the scene ------------------------------------------------------------------------------------


@given(
    x0=st.lists(st.integers(0, 400), min_size=2, max_size=6),
    deaths=st.integers(1, 5),
    births=st.integers(1, 5),
    strength=st.floats(0, 1),
)
def test_a_scene_holds_every_state_birth_death_and_rate(
    x0: list[int], deaths: int, births: int, strength: float
) -> None:
    data = torch.tensor(x0)
    steps = being_born(data, births, attrition="rescaled", strength=strength)
    first = dying(data, deaths)
    made = scene(
        Life(title="", names=tuple("abcdef"[: len(x0)]), largest=9, ident="", births=steps, **first)
    )
    assert np.array_equal(read(made, "deaths"), torch.stack(first["deaths"]).numpy())
    assert np.array_equal(read(made, "births")[1:], torch.cat([s.x for s in steps]).numpy())
    assert made["bytes"] == (1 if max(x0) <= 255 else 2)
    moments = told(made)[deaths + 1 :]
    for moment, step in zip(moments[1:], steps, strict=True):
        assert np.array_equal(moment["born"], step.aux["births"][0].numpy())
        assert np.array_equal(moment["died"], step.aux["deaths"][0].numpy())
    rate = torch.cat([s.aux["rate"] for s in steps]).double().numpy()
    assert np.allclose(read(made, "births", "rate") / 256, rate.clip(max=255.99), atol=1 / 256)
    assert made["births"]["expected"] == pytest.approx(rate.sum(1).tolist(), rel=1e-4, abs=1e-6)
    assert [place(made, k) for k in range(length(made) + 1)] == [
        *(("deaths", k) for k in range(deaths + 1)), *(("births", k) for k in range(births + 1))
    ]  # fmt: skip


def test_survival_is_that_of_the_schedule_in_both_parts(bars: dict, picture: dict) -> None:
    assert bars["births"]["p"] == list(reversed(bars["deaths"]["p"]))
    for made in (bars, picture):
        for part in ("deaths", "births"):
            exact = [survival(SURVIVAL["cosine"], t) for t in made[part]["t"]]
            assert made[part]["p"] == pytest.approx(exact, abs=0.01)  # straight between the edges


def test_a_scene_is_json_small_and_named_by_what_it_holds(picture: dict) -> None:
    again = scene(digit(attrition="rescaled", strength=0.1))
    assert json.loads(json.dumps(again)) == picture
    assert scene(digit())["id"] != picture["id"]
    assert scene(digit())["births"]["died"] is None
    life = replace(digit(), births=being_born(digit().deaths[0], 100))
    assert len(json.dumps(scene(life))) < 500_000


def test_a_scene_refuses_what_is_no_life_and_says_why() -> None:
    life = digit()
    first, step = life.deaths[0], life.births[0]
    two = replace(step, x=step.x.repeat(2, 1))
    refused = {
        "shows one row, got 2": {"births": [two, *life.births[1:]]},
        "at the same edges": {"times": life.times[1:]},
        "needs reverse steps, got none": {"births": []},
        "without births, deaths, rate": {"births": [replace(step, aux={})]},
        "what changed": {"births": [step, *life.births[2:]]},
        "side squared is 784": {"side": 27},
        "0 names": {"side": 0},
        "got side 28 and 10 names": {"names": NAMES},
        "only fall while they die": {"deaths": list(reversed(life.deaths))},
        "784 counts die but 10 are born": {"births": being_born(torch.ones(10).long())},
        "counts from 0 to 65535, got 0 to 70000": {
            "deaths": [first + 70000 - first.max(), *life.deaths[1:]]
        },
    }
    for words, wrong in refused.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            scene(replace(life, **wrong))


def test_the_shipped_digits_make_a_scene() -> None:
    if not (SHIPPED / "counts-mnist" / "manifest.json").exists():
        pytest.skip("counts-mnist is not shipped yet")
    steps = record(hub.load("counts-mnist").stream(1, steps=3, label=3, generator=seeded(1))).steps
    made = scene(replace(digit(), births=steps))
    assert read(made, "births")[-1].max() <= LARGEST


# -- in a browser ---------------------------------------------------------------------------------


def host(made: dict[str, Any], **options: Any) -> str:
    return hosted(source("counts.js"), source("counts.css"), payload(made, **options))


def at(page: Any) -> int:
    return int(state(page)["position"])


def go_to(page: Any, position: int) -> None:
    """By keys, as a reader would."""
    page.locator(".picture").focus()
    page.keyboard.press("Home")
    for _ in range(position):
        page.keyboard.press("ArrowRight")
    assert at(page) == position


def show(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def fact(page: Any, name: str) -> str:
    return page.locator(".fact", has_text=name).locator("dd").inner_text()


# Colour of the middle and of a place off it, for every cell of a 28 x 28 picture.
COLOURED = """(canvas, off) => {
  const c = canvas.getContext("2d"), s = canvas.width / 28, found = [];
  const at = (x, y) => c.getImageData((x + 0.5 + off) * s, (y + 0.5 + off) * s, 1, 1).data;
  for (let y = 0; y < 28; y += 1) for (let x = 0; x < 28; x += 1)
    found.push([...at(x, y).slice(0, 3)]);
  return found;
}"""


def colours(page: Any, off: float = 0.0) -> np.ndarray:
    return np.array(page.locator(".picture").evaluate(COLOURED, off))


@browser
@pytest.mark.parametrize("which", ["picture", "bars"])
def test_every_position_tells_the_state_of_the_scene(
    visit: Open, which: str, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(which)
    page = visit(html(made, title="Counts", start=0))
    moments = told(made)
    assert int(state(page)["positions"]) == len(moments) - 1 == length(made)
    for position, moment in enumerate(moments):
        seen = state(page)
        assert (seen["stage"], int(seen["step"])) == place(made, position)
        assert int(seen["steps"]) == made[moment["stage"]]["n"]
        assert int(seen["alive"]) == moment["x"].sum()
        assert int(seen["filled"]) == (moment["x"] > 0).sum()
        for name, number in (("Born", moment["born"]), ("Died", moment["died"])):
            assert fact(page, name) == f"{number.sum():,}"
        assert fact(page, "Time t") == f"{made[moment['stage']]['t'][moment['step']]:.3f}"
        page.keyboard.press("ArrowRight")
    assert at(page) == length(made)


@browser
def test_the_panel_tells_what_the_network_expects_and_what_is_to_come(
    visit: Open, bars: dict
) -> None:
    page = visit(html(bars, title="Counts", start=bars["start"] + 4))
    expected, states = bars["births"]["expected"][4], read(bars, "births").sum(1)
    words = fact(page, "expects")
    assert words == f"{expected:.1f}; really to come: {states[-1] - states[4]}".replace(".0;", ";")
    page.keyboard.press("End")
    assert fact(page, "expects") == "0; really to come: 0"
    page.keyboard.press("Home")
    assert fact(page, "expects") == "not asked in this half"


@browser
def test_keys_buttons_and_the_scrubber_move_it(visit: Open, picture: dict) -> None:
    page = visit(html(picture, title="Counts"))
    assert at(page) == length(picture)  # at rest for a reader who wants no motion
    page.keyboard.press("Home")  # nothing has focus yet
    page.keyboard.press("ArrowRight")
    assert (at(page), state(page)["stage"]) == (1, "deaths")
    for name, position in (
        ("One step on", 2), ("One step back", 1), ("To the end", length(picture)),
        ("To the start", 0),
    ):  # fmt: skip
        show(page, name)
        assert at(page) == position
    page.get_by_label("Speed").select_option("4")
    show(page, "Play")
    page.wait_for_function("document.querySelector('.sed').dataset.position > 1")
    page.locator(".picture").focus()
    page.keyboard.press("Space")
    assert state(page)["playing"] == "false"
    rail = page.locator(".rail").bounding_box()
    seen = []
    for share in (0.02, 0.3, 0.5, 0.8, 0.98):
        page.mouse.click(rail["x"] + share * rail["width"], rail["y"] + rail["height"] / 2)
        seen.append((at(page), state(page)["stage"]))
    assert seen == sorted(seen)
    assert [stage for _, stage in seen] == ["deaths"] * 2 + ["births"] * 3


@browser
def test_it_plays_once_and_reports_only_where_the_reader_stops(visit: Open, bars: dict) -> None:
    page = visit(host(bars), motion="no-preference")
    root = "document.getElementById('host').shadowRoot.querySelector('.sed')"
    page.wait_for_function(f"{root}.dataset.position > 1")
    assert page.evaluate("window.said") == []
    show(page, "Pause")
    stopped = at(page)
    assert page.evaluate("window.said") == [["step", stopped]]
    page.locator(".picture").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("window.said.length > 1")
    assert page.evaluate("window.said") == [["step", stopped], ["step", stopped + 3]]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")  # it plays on before the step was reported
    page.wait_for_timeout(600)
    assert state(page)["playing"] == "true"
    assert len(page.evaluate("window.said")) == 2


@browser
def test_a_rerun_keeps_the_place_and_the_overlay_and_a_new_scene_only_the_overlay(
    visit: Open, bars: dict, picture: dict
) -> None:
    page = visit(host(bars))
    go_to(page, 5)
    show(page, "Rate")
    page.evaluate("data => window.mount(data)", payload(bars, start=2))
    assert (at(page), state(page)["show"]) == (5, "rate")
    page.evaluate("data => window.mount(data)", payload(picture, start=2))
    assert (at(page), state(page)["show"]) == (2, "rate")
    assert page.locator(".sed").count() == 1
    page.evaluate("document.getElementById('host').remove(); window.leave()")
    page.wait_for_timeout(50)
    page.keyboard.press("Space")  # nobody listens, nothing breaks


@browser
def test_the_picture_colours_exactly_the_entries_above_zero(visit: Open, picture: dict) -> None:
    page = visit(html(picture, title="Counts", start=0))
    for position, moment in enumerate(told(picture)):
        if position in (0, 3, STEPS, STEPS + 1, STEPS + 4, length(picture)):
            go_to(page, position)
            assert np.array_equal((colours(page) < 255).any(1), moment["x"] > 0)


@browser
@pytest.mark.parametrize(("name", "what"), [("Births", "born"), ("Deaths", "died")])
def test_an_overlay_marks_exactly_what_this_step_changed(
    visit: Open, picture: dict, name: str, what: str
) -> None:
    position = STEPS + 6
    page = visit(html(picture, title="Counts", start=position))
    before = np.stack([colours(page), colours(page, 0.09)])
    show(page, name)
    moment = told(picture)[position]
    changed = moment[what] > 0
    assert changed.any()
    assert not changed.all()
    marks = np.array([*{"Births": (0, 122, 90), "Deaths": (213, 94, 0)}[name]])
    found = np.stack([colours(page, off) for off in np.linspace(0, 0.45, 24)])
    marked = (abs(found - marks).sum(2) < 120).any(0)
    assert np.array_equal(marked, changed)
    hollow = abs(colours(page) - marks).sum(1)[changed] > 120
    assert hollow.all() if name == "Deaths" else not hollow.any()  # a shape, not only a colour
    show(page, "Counts")
    assert np.array_equal(before, np.stack([colours(page), colours(page, 0.09)]))


@browser
def test_the_rate_is_told_in_the_second_half_only(visit: Open, picture: dict) -> None:
    page = visit(html(picture, title="Counts", start=picture["start"] + 5))
    show(page, "Rate")
    discs = (abs(colours(page) - (168, 67, 124)).sum(1) < 60).sum()
    assert discs == (read(picture, "births", "rate")[5] >= 128).sum() > 100
    assert "expected to be missing" in page.locator(".legend").inner_text()
    page.keyboard.press("Home")
    assert (abs(colours(page) - (168, 67, 124)).sum(1) < 60).sum() == 0
    assert page.locator(".legend").inner_text() == "The network is asked in the second half only."
    show(page, "Births")
    assert page.locator(".legend").inner_text() == "Nothing is born in this half."


@browser
def test_a_pressed_pixel_tells_its_life(visit: Open, picture: dict) -> None:
    position = STEPS + 6
    page = visit(html(picture, title="Counts", start=position))
    moment, index = told(picture)[position], int(told(picture)[position]["born"].argmax())
    box = page.locator(".picture").bounding_box()
    place = {"x": (index % SIDE + 0.5) * box["width"] / SIDE}
    place["y"] = (index // SIDE + 0.5) * box["height"] / SIDE
    page.locator(".picture").click(position=place)
    words = page.locator(".answer").inner_text()
    rate = round(read(picture, "births", "rate")[5][index] / 256, 1)
    rate = f"{rate:.0f}" if rate >= 100 or rate == int(rate) else f"{rate}"
    assert words == (
        f"Row {index // SIDE}, column {index % SIDE}: {moment['x'][index]} units alive; in this "
        f"step {moment['born'][index]} born, {moment['died'][index]} died. The network expects "
        f"{rate} more; it ends with {read(picture, 'births')[-1][index]}."
    )
    page.keyboard.press("Home")
    data = read(picture, "deaths")[0][index]
    expected = f"{data} units alive of {data} in the data; 0 died in this step."
    assert page.locator(".answer").inner_text().endswith(expected)


@browser
def test_bars_can_be_asked_by_mouse_and_by_keyboard(visit: Open, bars: dict) -> None:
    page = visit(html(bars, title="Counts"))
    box = page.locator(".picture").bounding_box()
    page.locator(".picture").click(position={"x": 6.5 * box["width"] / 10, "y": 30})
    assert page.locator(".answer").inner_text().startswith("Count x7: ")
    for key in ("Shift+ArrowRight", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert page.locator(".answer").inner_text() == "Count x9. Enter tells about it."
    page.keyboard.press("Enter")
    last = read(bars, "births")[-1][8]
    assert page.locator(".answer").inner_text().endswith(f"It ends with {last}.")
    assert at(page) == length(bars)  # asking moves nothing


@browser
def test_screen_readers_hear_every_step(visit: Open, bars: dict) -> None:
    page = visit(html(bars, title="Counts", start=0))
    heard = [page.locator("[aria-live].unseen").text_content()]
    for _ in range(length(bars)):
        page.keyboard.press("ArrowRight")
        heard.append(page.locator("[aria-live].unseen").text_content())
    beginnings = [words.split(".")[0] for words in heard]
    assert beginnings == [
        "The data", *(f"Deaths: step {k} of {STEPS}" for k in range(1, STEPS)), "Nothing is left",
        "Nothing yet", *(f"Births: step {k} of {STEPS}" for k in range(1, STEPS)), "The sample",
    ]  # fmt: skip
    born = [moment["born"].sum() for moment in told(bars)]
    for words, number in zip(heard[STEPS + 2 : -1], born[STEPS + 2 : -1], strict=True):
        assert re.search(rf" {number or 'No'} units? (is|are) born", words)
    label = page.get_by_role("img", name=re.compile("Units alive: "))
    assert f"{read(bars, 'births')[-1].sum()} in the sample" in label.get_attribute("aria-label")


@browser
@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("which", ["picture", "bars"])
@pytest.mark.parametrize("name", ["Counts", "Births", "Deaths", "Rate"])
def test_no_axe_violation_and_no_sideways_scroll(
    visit: Open, which: str, width: int, name: str, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(which)
    page = visit(html(made, title="Counts", start=made["start"] + 4), width=width)
    show(page, name)
    assert state(page)["show"] == name.lower()
    assert page.locator("[aria-pressed=true]").inner_text() == name
    assert faults(page) == []
    page.keyboard.press("Home")
    assert faults(page) == []


@browser
def test_every_control_is_large_enough_to_touch(visit: Open, bars: dict) -> None:
    page = visit(host(bars), width=400)
    for control in page.locator("button:visible, select, input[type=range]").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 43.9, control.inner_text()


APP = """
import json
from pathlib import Path

import streamlit as st
from explorer.counts_player import counts_player

st.session_state.runs = st.session_state.get("runs", 0) + 1
scene = json.loads(Path(__file__).with_name("scene.json").read_text())
result = counts_player(scene, key="it")
st.text(f"runs {st.session_state.runs}; step {result.step}")
"""


@pytest.fixture
def server(tmp_path: Path, bars: dict) -> Iterator[str]:
    (tmp_path / "scene.json").write_text(json.dumps(bars))
    with served(tmp_path, APP) as address:
        yield address


@browser
def test_in_streamlit_it_plays_without_reruns_and_reports_where_it_stopped(
    chromium: Any, server: str
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server)
    page.locator(".sed").wait_for()
    words = page.get_by_text(re.compile(r"^runs \d"))
    runs = words.inner_text()
    page.wait_for_timeout(1200)
    assert state(page)["playing"] == "true"
    assert words.inner_text() == runs  # it moved, the page did not run again
    show(page, "Pause")
    stopped = at(page)
    page.get_by_text(re.compile(rf"^runs \d+; step {stopped}$")).wait_for()
    page.wait_for_timeout(300)
    assert at(page) == stopped  # the rerun it caused left it where it was
    context.close()
