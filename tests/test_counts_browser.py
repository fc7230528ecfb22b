"""The page Counts in a real browser: jobs, scrubber, eraser, training, links, files, form."""

import csv
import json
import re
import time

import numpy as np
import pytest
from test_browser import (
    LOST,
    SHIPPED,
    Visit,
    found,
    opened_one_by_one,
    slowness,
    start_server,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

VIEWS = ["", "&data=ten", "&view=bench", "&view=fill"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The app on the shipped checkpoints and recordings."""
    if not (SHIPPED / "counts-mnist" / "manifest.json").exists():
        pytest.skip("counts-mnist is not shipped yet")
    yield from start_server({}, tmp_path_factory.mktemp("server") / "log")


@pytest.fixture
def visit(chromium, server):
    """Open visits that are closed after the test, none of which may have met a fault."""
    visits = []

    def new(query="", **size):
        visits.append(Visit(chromium, server, **size))
        return visits[-1].open(f"counts?{query}")

    yield new
    for one in visits:
        one.context.close()
        assert not one.faults
        assert not one.outside


def run(one, button="Generate"):
    """Press it and wait until what it makes is there."""
    one.button(button).click()
    one.page.locator(".st-key-counts_stop").wait_for()
    over(one)
    one.page.get_by_text("Measured here:").first.wait_for()
    return one


def over(one):
    one.page.locator(".st-key-counts_stop").wait_for(state="detached", timeout=60_000)
    one.page.wait_for_function("() => !document.querySelector('[data-stale=true]')")


def download(one, names, folder):
    one.button("Download").click()
    files = {}
    for name in names:
        with one.page.expect_download() as waiting:
            one.button(name).click()
        file = folder / waiting.value.suggested_filename
        waiting.value.save_as(file)
        files[file.suffix] = file
        assert one.recipe() in file.name and file.stat().st_size > 300
    one.page.keyboard.press("Escape")
    return files


def picture(one):
    """The player, or the eraser."""
    return one.page.locator(".sed").first


def alive(one):
    """Units and pixels above zero, as the player says them."""
    said = one.page.get_by_text(re.compile("units alive in")).first.inner_text()
    found = re.findall(r"([\d,]+) units alive in (\d+)", said)
    return tuple(int(number.replace(",", "")) for number in found[0])


def names(one, what, attribute):
    """What assistive tools call some things."""
    return one.page.locator(what).evaluate_all(f"(all) => all.map((one) => one.{attribute})")


def stopped(one) -> float:
    """Seconds from Stop to its end, on a machine of usual speed."""
    one.page.locator(".st-key-counts_stop").wait_for()
    one.page.wait_for_timeout(700)
    patience, begun = slowness(), time.monotonic()
    one.button("Stop").click()
    one.page.locator(".st-key-counts_stop").wait_for(state="detached")
    return (time.monotonic() - begun) / patience


# -- watch -----------------------------------------------------------------------------------------


def test_a_digit_is_made_scrubbed_and_downloaded(visit, tmp_path):
    one = run(visit("steps=10&seed=21"))
    one.button("To the end").click()
    player = picture(one)
    end = int(player.get_attribute("data-position"))
    files = download(one, ["Picture (PNG)", "Animation (GIF)", "Counts (npz)", "Counts (CSV)",
                           "Trace (JSON)"], tmp_path)  # fmt: skip
    with np.load(files[".npz"]) as made:
        counts = made["counts"]
        assert counts.dtype == np.int64 and counts.shape == (1, 784)
        assert json.loads(str(made["recipe"]))["recipe"] == one.recipe()
    said = one.page.get_by_text(re.compile("units alive in")).first.inner_text()
    units, pixels = (
        int(n.replace(",", "")) for n in re.findall(r"([\d,]+) units alive in (\d+)", said)[0]
    )
    assert units == counts.sum() and pixels == (counts > 0).sum()
    table = list(csv.DictReader(files[".csv"].read_text().splitlines()[1:]))
    assert [int(line["count"]) for line in table] == counts[0].tolist()
    for key, expected in (("Home", 0), ("End", end), ("ArrowLeft", end - 1)):
        one.page.get_by_role("slider").first.press(key)
        assert int(player.get_attribute("data-position")) == expected


def test_the_same_link_gives_the_same_result_elsewhere(visit):
    one = run(visit("steps=10&seed=31&label=5&attrition=rescaled&strength=0.1"))
    one.button("Copy link").click()
    link = one.page.get_by_text(re.compile(r"^http://localhost.*sha=")).first.inner_text().strip()
    other = run(visit(link.split("?")[1]))
    assert other.recipe() == one.recipe()
    for each in (one, other):
        each.page.keyboard.press("Escape")
        each.button("To the end").click()
    assert alive(one) == alive(other)


def test_controls_write_the_link_and_other_pages_leave_it_alone(visit):
    one = visit()
    one.page.get_by_role("radio", name="8", exact=True).first.click()
    one.page.wait_for_url(re.compile("label=8"))
    one.page.get_by_role("spinbutton", name="Seed").fill("42")
    one.page.get_by_role("spinbutton", name="Seed").press("Enter")
    one.page.wait_for_url(re.compile("seed=42"))
    one.page.get_by_role("radio", name="200", exact=True).click()
    one.page.wait_for_url(re.compile("steps=200"))
    one.page.reload()
    seed = one.page.get_by_role("spinbutton", name="Seed")
    seed.wait_for()
    assert seed.input_value() == "42"
    one.page.get_by_role("link", name="Decode", exact=True).click()
    one.page.get_by_role("heading", name="Decode", exact=True).wait_for()
    assert one.page.get_by_role("spinbutton", name="Seed").input_value() == "7"
    assert one.page.get_by_text("Ignored").count() == 0
    one.page.get_by_role("link", name="Counts", exact=True).click()
    one.page.get_by_role("heading", name="Counts", exact=True).wait_for()
    one.page.wait_for_url(re.compile("label=8.*seed=42|seed=42.*label=8"))
    assert one.page.get_by_role("spinbutton", name="Seed").input_value() == "42"


def test_stop_ends_within_a_second_and_the_result_stays(visit):
    one = run(visit("steps=10&seed=41"))
    recipe = one.recipe()
    one.page.get_by_role("radio", name="200", exact=True).click()
    one.page.get_by_text("Settings changed").wait_for()
    found = []
    for _ in range(2):
        one.button("Generate").click()
        found.append(stopped(one))
    assert min(found) < 1  # the quicker one: other work may hold one up
    assert one.recipe() == recipe and one.page.get_by_text("Settings changed").count()


def test_every_value_is_drawn_beside_the_others(visit):
    one = visit("steps=10&guidance=4")
    one.button("Draw every value").click()
    one.page.get_by_text("Each row changes one thing only").wait_for(timeout=60_000)
    one.page.locator("[data-testid=stImage] img").nth(9).wait_for()  # pictures come after words
    shown = names(one, "[data-testid=stImage] img", "alt")
    assert len(shown) == 10 and {"4 (as set)", "none (as set)"} < set(shown)
    assert found(one) == []


# -- the toy's bench -------------------------------------------------------------------------------


def test_the_bench_measures_and_its_figures_open(visit, tmp_path):
    one = run(visit("view=bench&steps=10"), "Measure")
    one.page.get_by_text("Measured here: 1,000 samples").wait_for()
    assert one.page.get_by_test_id("stPlotlyChart").count() == 2
    named = names(one, "[role=figure][aria-label]", "ariaLabel")
    assert len([name for name in named if "Variance" in name or "Histograms" in name]) == 2
    one.page.get_by_role("radio", name="9", exact=True).click()
    one.page.locator("[role=figure][aria-label*='dimension 9']").wait_for()
    files = download(one, ["Figures (HTML)", "Counts (npz)"], tmp_path)
    with np.load(files[".npz"]) as made:
        kinds = {str(made[key].dtype) for key in ("counts", "gauss", "masked", "exact")}
    assert kinds == {"int64"}


def test_training_here_draws_its_loss_and_stops(visit):
    one = visit("view=bench")
    one.button("Train here").click()
    one.page.get_by_text(re.compile("Training: step [1-9]")).wait_for()
    curve = one.page.locator("[role=figure][aria-label^='The loss falls']")
    curve.wait_for()
    assert found(one) == []
    assert stopped(one) < 1.5  # a step of training, and a rerun of the page
    one.page.get_by_text("Trains CountsDiff on").wait_for()
    assert curve.count() == 0 and one.page.get_by_text("Recorded, not live").count() == 1


# -- filling in ------------------------------------------------------------------------------------


def erased(one):
    return int(picture(one).get_attribute("data-erased"))


def settle(one, mask):
    """Until the page has heard of the mask."""
    one.page.wait_for_url(lambda url: "mask=" in url and url != mask)
    one.page.wait_for_function("() => !document.querySelector('[data-stale=true]')")
    return one.page.url


def test_a_part_is_erased_by_mouse_and_filled_in(visit, tmp_path):
    one = visit("view=fill&kind=nothing&draws=4&steps=10")
    canvas = picture(one).locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731
    one.page.mouse.move(*at(0.3, 0.3))
    one.page.mouse.down()
    for k in range(11):
        one.page.mouse.move(*at(0.3 + 0.04 * k, 0.3 + 0.03 * k))
    one.page.mouse.up()
    gone = erased(one)
    assert gone > 20
    settle(one, "")
    assert erased(one) == gone and one.page.get_by_role("radio", name="by hand").is_checked()
    run(one, "Fill in")
    one.page.get_by_text(f"{gone} of 784 pixels erased. Measured here").wait_for()
    files = download(
        one, ["Picture (PNG)", "Animation (GIF)", "Counts (npz)", "Trace (JSON)"], tmp_path
    )
    with np.load(files[".npz"]) as made:
        draws, seen = made["draws"][:, 0], made["observed"][0]
        assert draws.dtype == np.int64 and (~seen).sum() == gone
        assert (draws[:, seen] == made["counts"][0, seen]).all()
    one.page.reload()
    one.page.get_by_role("radio", name="by hand").wait_for()
    picture(one).wait_for()
    assert erased(one) == gone


def test_a_part_is_erased_by_keyboard_and_filled_in(visit):
    one = visit("view=fill&kind=nothing&draws=4&steps=10")
    canvas = picture(one).locator("canvas").first
    canvas.focus()
    for key in ("ArrowRight", "ArrowDown", "Space", "Shift+ArrowDown", "Shift+ArrowDown"):
        canvas.press(key)
    gone = erased(one)
    assert gone >= 5
    before = settle(one, "")
    canvas.press("ArrowRight")
    canvas.press("Space")
    settle(one, before)
    run(one, "Fill in")
    one.page.get_by_text(f"{erased(one)} of 784 pixels erased. Measured here").wait_for()
    one.page.get_by_role("radio", name="middle").click()
    one.page.wait_for_url(re.compile("kind=middle"))
    one.page.get_by_text("Settings changed. Fill in to update.").wait_for()
    one.page.locator(".sed[data-erased='196']").wait_for()


# -- form ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("query", VIEWS)
def test_every_view_is_clean_and_fits(visit, query, width):
    one = visit(f"seed=7{query}", width=width)
    one.page.get_by_text("Recorded, not live").first.wait_for()
    if "bench" in query:
        one.page.locator("[role=figure][aria-label]").nth(1).wait_for()
    else:
        picture(one).wait_for()
    if width > 1000:
        one.page.locator(".st-key-counts_more summary").click()
        one.page.get_by_role("button", name="Reset all settings").wait_for()
    assert found(one) == []
    assert not one.page.evaluate(LOST)
    assert one.page.get_by_test_id("stException").count() == 0


def test_a_result_with_everything_open_is_clean(visit):
    one = run(visit("view=fill&steps=10&draws=4"), "Fill in")
    opened_one_by_one(one, [re.compile("^Recipe"), "Copy link", "Download"])


def test_a_bad_link_is_named_and_no_script_runs(visit):
    one = visit("view=fill&seed=abc&mask=<img src=x onerror=window.__xss=1>&steps=7")
    for note in ("Ignored: seed=abc", "Ignored: steps=7", "Ignored: mask="):
        one.page.get_by_text(note).wait_for()
    assert one.page.evaluate("window.__xss") is None
