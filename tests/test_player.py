"""The player in a real browser: keys, sums, exact zeros, forks, accessibility, no request."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stage import faults, hosted, served, state
from test_scene import LATENT, SIDE, extras, fork, sample

from explorer.player import html, payload, source
from explorer.scene import scene

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

FIRST = LATENT + 1  # the position of "no pair yet"

Open = Callable[..., "playwright.Page"]


@pytest.fixture(scope="module")
def scenes() -> tuple[dict, dict]:
    """A sample and another continuation of it."""
    trace = sample()
    more = extras(trace)
    made = scene(trace, width=SIDE, height=SIDE, title="A ring", **more)
    forked, where = fork(trace, 40)
    return made, scene(forked, width=SIDE, height=SIDE, title="Yours", fork=where, **more)


def host(*scenes: dict) -> str:
    """A page that calls the player as Streamlit does."""
    return hosted(source("player.js"), source("player.css"), payload(scenes))


def at(page: "playwright.Page") -> int:
    return int(state(page)["position"])


def go_to(page: "playwright.Page", position: int) -> None:
    """By keys, as a reader would."""
    page.locator(".picture").first.focus()
    page.keyboard.press("Home")
    for _ in range(position):
        page.keyboard.press("ArrowRight")
    assert at(page) == position


def press_pixel(page: "playwright.Page", index: int) -> None:
    canvas = page.locator(".picture").first
    box = canvas.bounding_box()
    x, y = (index % SIDE + 0.5) / SIDE, (index // SIDE + 0.5) / SIDE
    canvas.click(position={"x": x * box["width"], "y": y * box["height"]})


def test_keys_play_pause_and_step_one_pair_at_a_time(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))
    pairs = len(scenes[0]["pairs"]["index"])
    go_to(page, FIRST)
    assert state(page)["stage"] == "pairs"
    for k in range(1, 6):
        page.keyboard.press("ArrowRight")
        assert (state(page)["step"], state(page)["filled"]) == (str(k), str(k))
    page.keyboard.press("ArrowLeft")
    assert state(page)["filled"] == "4"
    page.keyboard.press("End")
    assert state(page)["filled"] == state(page)["steps"] == str(pairs)
    page.keyboard.press("ArrowRight")
    assert state(page)["filled"] == str(pairs)
    page.keyboard.press("Home")
    assert (state(page)["stage"], state(page)["step"]) == ("latent", "0")
    page.keyboard.press("Space")
    assert state(page)["playing"] == "true"
    page.wait_for_function("document.querySelector('.sed').dataset.position > 1")
    page.keyboard.press("Space")
    assert state(page)["playing"] == "false"
    stopped = at(page)
    page.wait_for_timeout(400)
    assert at(page) == stopped


def test_keys_work_before_anything_has_focus(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert at(page) == 1
    page.keyboard.press("Space")
    assert state(page)["playing"] == "true"


def test_buttons_do_what_the_keys_do(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))

    def press(name: str) -> None:
        page.get_by_role("button", name=name, exact=True).click()

    press("To the start")
    press("One step on")
    press("One step on")
    press("One step back")
    assert at(page) == 1
    press("Play")
    press("Pause")
    assert state(page)["playing"] == "false"
    press("To the end")
    assert state(page)["filled"] == state(page)["steps"]


def test_step_k_colours_exactly_k_pixels(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))
    for k in (0, 1, 7, 8):
        go_to(page, FIRST + k)
        coloured = page.locator(".picture").evaluate(
            """(canvas, side) => {
              const c = canvas.getContext("2d"), s = canvas.width / side;
              let n = 0;
              for (let y = 0; y < side; y += 1) for (let x = 0; x < side; x += 1) {
                const [r, g, b] = c.getImageData((x + 0.5) * s, (y + 0.5) * s, 1, 1).data;
                n += r + g + b < 765;
              }
              return n;
            }""",
            SIDE,
        )
        assert coloured == k == int(state(page)["filled"])
        words = page.locator(".count").inner_text()
        assert (
            words == f"{k} of 784 {'is' if k == 1 else 'are'} not zero; {784 - k} are exactly zero"
        )
        current = page.locator("[aria-current=step]")
        assert current.count() == min(k, 1)
        if k:
            assert current.locator("b").inner_text() == str(k)


def test_shown_chances_sum_to_one_at_every_step(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))
    go_to(page, FIRST)
    for _ in range(len(scenes[0]["pairs"]["index"]) + 1):
        shares = page.locator(".bar:not([hidden]) .share").all_inner_texts()
        total = sum(float(re.sub(r"[^0-9.]", "", share)) for share in shares) / 100
        assert total == pytest.approx(1, abs=0.01)
        assert page.locator(".bar.chosen").count() == 1
        page.keyboard.press("ArrowRight")
    assert page.locator(".bar.chosen .name").inner_text() == "stop"


def test_a_pressed_pixel_tells_its_pair_or_that_it_is_exactly_zero(
    visit: Open, scenes: tuple
) -> None:
    page = visit(html(scenes[0], title="Player"))
    page.locator(".picture").focus()
    page.keyboard.press("End")
    press_pixel(page, 123)
    answer = page.locator(".answer")
    words = "Dimension 123 (row 4, column 11) was never chosen: it is exactly zero."
    assert answer.inner_text() == words
    index = scenes[0]["pairs"]["index"][30]
    press_pixel(page, index)
    assert state(page)["step"] == "31"
    assert answer.inner_text().startswith(f"Pair 31: row {index // SIDE}, column {index % SIDE}")
    page.get_by_role("button", name=re.compile("^Pair 30:")).click()
    assert state(page)["step"] == "30"


def test_pixels_can_be_asked_by_keyboard(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))
    page.locator(".picture").focus()
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.locator(".answer").inner_text().startswith("Dimension 29 (row 1, column 1)")


def test_the_time_line_scrubs_over_both_parts(visit: Open, scenes: tuple) -> None:
    page = visit(html(scenes[0], title="Player"))
    rail = page.locator(".rail").bounding_box()
    y = rail["y"] + rail["height"] / 2
    seen = []
    page.mouse.move(rail["x"] + 15, y)
    page.mouse.down()
    for share in (0.1, 0.25, 0.5, 0.75, 0.99):
        page.mouse.move(rail["x"] + share * rail["width"], y)
        seen.append((state(page)["stage"], at(page)))
    page.mouse.up()
    assert [stage for stage, _ in seen] == ["latent", "latent", "pairs", "pairs", "pairs"]
    assert sorted(position for _, position in seen) == [position for _, position in seen]


def test_it_plays_once_by_itself_unless_the_reader_wants_no_motion(
    visit: Open, scenes: tuple
) -> None:
    moving = visit(html(scenes[0], title="Player"), motion="no-preference")
    moving.wait_for_function("document.querySelector('.sed').dataset.step > 2", timeout=3000)
    still = visit(html(scenes[0], title="Player"), motion="reduce")
    before = state(still)
    still.wait_for_timeout(500)
    assert state(still) == before
    assert before["playing"] == "false"
    assert before["filled"] == before["steps"]  # the finished sample, at rest


def test_forty_pairs_at_25_ms_take_one_to_two_seconds_and_report_nothing(
    visit: Open, scenes: tuple
) -> None:
    page = visit(host(scenes[0]))
    go_to(page, FIRST + 2)
    page.wait_for_timeout(500)
    page.evaluate("window.said = []")
    page.get_by_label("Speed").select_option("4")
    page.locator(".picture").focus()
    page.keyboard.press("Space")
    begun = time.perf_counter()
    page.wait_for_function(
        f"document.getElementById('host').shadowRoot.querySelector('.sed').dataset.step >= {42}"
    )
    assert 0.9 < time.perf_counter() - begun < 2.5  # 1 s and what a busy machine adds
    assert page.evaluate("window.said") == []
    page.keyboard.press("Space")
    assert page.evaluate("window.said") == [["step", at(page)]]


def test_another_pair_can_be_chosen_and_shown_beside(visit: Open, scenes: tuple) -> None:
    page = visit(host(scenes[0]))
    go_to(page, FIRST + 40)
    page.evaluate("window.said = []")
    other = page.locator(".bar:not(.chosen)").first
    assert "Choose this instead" in other.get_attribute("aria-label")
    other.click()
    assert page.evaluate("window.said.length") == 1
    name, value = page.evaluate("window.said[0]")
    assert name == "fork"
    assert value["at"] == 40
    assert value["index"] in [index for index, _ in scenes[0]["next"]["top"][40]]
    for inert in (".bar.chosen", ".bar.rest"):  # what was chosen can't be chosen instead
        page.locator(inert).dispatch_event("click")
    assert [name for name, _ in page.evaluate("window.said")].count("fork") == 1
    page.evaluate("data => window.mount(data)", payload(scenes))
    assert page.locator(".picture").count() == 2
    assert at(page) == FIRST + 40  # the fork starts where it was asked for
    page.locator(".picture").first.focus()
    page.keyboard.press("End")
    kept = page.locator(".strip").nth(1).locator("li:not(.forked)")
    assert kept.count() == 40
    assert page.locator(".strip").first.locator("li.forked").count() == 0


def test_nothing_can_be_chosen_where_the_page_could_not_continue(
    visit: Open, scenes: tuple
) -> None:
    page = visit(host(scenes[0]).replace('"forks": true', '"forks": false'))
    go_to(page, FIRST + 3)
    assert page.locator("button.bar").count() == 0
    assert page.locator(".bar.chosen").count() == 1


def test_a_rerun_of_the_host_keeps_the_place_and_a_new_scene_does_not(
    visit: Open, scenes: tuple
) -> None:
    page = visit(host(scenes[0]))
    go_to(page, 9)
    page.evaluate("data => window.mount(data)", payload(scenes[0], start=3))
    assert at(page) == 9
    assert page.locator(".sed").count() == 1
    page.evaluate("data => window.mount(data)", payload(scenes[1], start=3))
    assert at(page) == 3
    assert page.locator(".sed").count() == 1
    page.evaluate("document.getElementById('host').remove(); window.leave()")
    page.wait_for_timeout(50)
    page.keyboard.press("Space")  # nobody listens, nothing breaks


@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("position", [5, FIRST + 30])
@pytest.mark.parametrize("count", [1, 2])
def test_no_axe_violation_and_no_sideways_scroll(
    visit: Open, scenes: tuple, width: int, position: int, count: int
) -> None:
    page = visit(html(scenes[:count], title="Player", start=position), width=width)
    assert at(page) == position
    page.get_by_label("Next-pair probability").evaluate("box => box.click()")
    assert faults(page) == []


def test_every_control_is_large_enough_to_touch(visit: Open, scenes: tuple) -> None:
    page = visit(host(scenes[0]), width=400)
    for control in page.locator("button:visible, select, input[type=range], .check").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 43.9, control.inner_text()


# -- inside Streamlit ---------------------------------------------------------------------------

APP = """
import json
from pathlib import Path

import streamlit as st
from explorer.player import player

st.session_state.runs = st.session_state.get("runs", 0) + 1
scenes = json.loads(Path(__file__).with_name("scenes.json").read_text())
result = player(scenes[:1], key="it")
st.text(f"runs {st.session_state.runs}; step {result.step}; fork {result.fork}")
"""


@pytest.fixture
def server(tmp_path: Path, scenes: tuple) -> Iterator[str]:
    (tmp_path / "scenes.json").write_text(json.dumps(scenes))
    with served(tmp_path, APP) as address:
        yield address


def test_in_streamlit_it_plays_without_reruns_and_reports_where_it_stopped(
    chromium: "playwright.Browser", server: str
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server)
    player = page.locator(".sed")
    player.wait_for()
    words = page.get_by_text(re.compile(r"^runs \d"))
    runs = words.inner_text()
    page.wait_for_timeout(1500)
    assert state(page)["playing"] == "true"
    assert words.inner_text() == runs  # it moved, the page did not run again
    page.get_by_role("button", name="Pause", exact=True).click()
    stopped = at(page)
    page.get_by_text(f"step {stopped};").wait_for()
    page.wait_for_timeout(300)
    assert at(page) == stopped  # the rerun it caused left it where it was
    page.locator(".picture").focus()
    page.keyboard.press("End")
    page.get_by_role("button", name=re.compile("Choose this instead")).first.click()
    page.get_by_text(re.compile(r"fork \{'at': \d+, 'index': \d+")).wait_for()
    context.close()
