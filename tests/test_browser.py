"""What only a browser sees: movement, links, stops, forks, files, and what assistive tools find."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
import scipy.sparse

from tests import shelf_peers

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "checkpoints"
RECORDED = ROOT / "assets" / "compare"
PAGES = {
    "": "Most of the data", "decode": "Decode", "compare": "Compare",
    "compare?reveal=show": "Compare", "models": "Models", "about": "About",
}  # fmt: skip
# Opened at /decode, Streamlit first asks whether it lives at /decode/: two 404s that it expects.
PROBES = ("/_stcore/health", "/_stcore/host-config")
LOST = 'document.documentElement.scrollWidth > innerWidth || [...document.querySelectorAll("[data-testid=stMain]")].some((m) => m.scrollWidth > m.clientWidth)'  # noqa: E501
SETTLED = """() => Promise.all(document.getAnimations()
  .filter((a) => a.effect.getComputedTiming().endTime < Infinity)
  .map((a) => a.finished.catch(() => null)))"""
FILLED = """(canvas) => {
  const { width, height } = canvas, pen = canvas.getContext("2d");
  const pixels = pen.getImageData(0, 0, width, height).data;
  let filled = 0;
  for (let row = 0; row < 28; row++) for (let column = 0; column < 28; column++) {
    const x = Math.floor((column + 0.5) * width / 28), y = Math.floor((row + 0.5) * height / 28);
    const [r, g, b] = pixels.slice(4 * (y * width + x), 4 * (y * width + x) + 3);
    filled += r + g + b < 3 * 255;
  }
  return filled;
}"""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """The shipped sed-mnist where it is there, else a model that draws a ring; and a slow one."""
    folder = shelf_peers.fill(tmp_path_factory.mktemp("checkpoints"), slow=True)
    if (SHIPPED / "sed-mnist" / "manifest.json").exists():
        shutil.rmtree(folder / "sed-mnist")
        shutil.copytree(SHIPPED / "sed-mnist", folder / "sed-mnist")
    return folder


@pytest.fixture(scope="session")
def surroundings(checkpoints, tmp_path_factory):
    """Where the app finds checkpoints, the shipped recordings or small ones, small results."""
    recorded = RECORDED
    if not (RECORDED / "mnist.json").exists():
        with pytest.MonkeyPatch.context() as patch:
            recorded = tmp_path_factory.mktemp("recorded")
            shelf_peers.record(recorded, checkpoints, patch, samples=30)
    results = shelf_peers.results(tmp_path_factory.mktemp("results"))
    found = {"SED_CHECKPOINTS": checkpoints, "SED_RECORDED": recorded, "SED_RESULTS": results}
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="session")
def server(surroundings, tmp_path_factory):
    """One running app for all tests; yields its address."""
    yield from start_server(surroundings, tmp_path_factory.mktemp("server") / "log")


def start_server(surroundings, log):
    """Run the app until the tests are over; its log may hold no traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--server.port", str(port)], cwd=ROOT, stdout=out, stderr=out,
            env={**os.environ, **surroundings},
        )  # fmt: skip
        address = f"http://localhost:{port}"
        _wait_until_it_answers(address, process)
        yield address
        process.terminate()
        process.wait(20)
    assert "Traceback" not in log.read_text()


def _wait_until_it_answers(address, process):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                assert answer.read() == b"ok"
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the app did not answer")


class Visit:
    """One visitor: a fresh context that notes what it asks for and what goes wrong."""

    def __init__(self, chromium, server, width=1280, height=900):
        self.server, self.faults, self.asked = server, [], []
        self.context = chromium.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _note(self, message):
        probe = any(message.location.get("url", "").endswith(probe) for probe in PROBES)
        if message.type == "error" and not probe:
            self.faults.append(f"{message.text} ({message.location.get('url')})")

    @property
    def outside(self):
        """Requests to anything but the app itself."""
        own = (self.server, self.server.replace("http", "ws", 1), "data:", "blob:")
        return [url for url in self.asked if not url.startswith(own)]

    def open(self, path=""):
        self.page.goto(f"{self.server}/{path}")
        self.page.get_by_text("works offline").wait_for()
        return self

    @property
    def player(self):
        return self.page.locator("[data-position]").first

    def at(self, name):
        return int(self.player.get_attribute(f"data-{name}"))

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def generate(self):
        self.button("Generate").click()
        self.page.locator(".st-key-stop").wait_for()
        return self.live()

    def live(self):
        self.page.get_by_text("Live:", exact=False).filter(has_text="Measured here").wait_for()
        self.page.locator(".st-key-stop").wait_for(state="detached")
        return self

    def pairs(self, number=0):
        """The pairs of a picture, as the strip under it says them."""
        strips = self.page.get_by_role("list", name="Pairs in the order they were chosen")
        return (
            strips.nth(number)
            .locator("button")
            .evaluate_all("(buttons) => buttons.map((button) => button.ariaLabel)")
        )

    def recipe(self):
        return self.page.get_by_role("button", name=re.compile("^Recipe ")).inner_text().split()[1]


@pytest.fixture
def visit(chromium, server):
    """Open visits that are closed after the test, none of which may have met a fault."""
    visits = []

    def new(path="", **size):
        visits.append(Visit(chromium, server, **size))
        return visits[-1].open(path)

    yield new
    for one in visits:
        one.context.close()
        assert not one.faults
        assert not one.outside


@pytest.fixture(scope="session", autouse=True)
def warm(chromium, server):
    """The very first visit of a server's life, on a deep link; it also warms the server up."""
    one = Visit(chromium, server).open("decode?steps=5")
    menu = one.page.get_by_role("link", name="Models", exact=True)
    menu.wait_for()  # the page came in its frame although no one had been at / before
    one.generate()
    one.context.close()


def slowness():
    """How many seconds a second of work takes here: promises are for two cores of our own."""
    wall, busy = time.perf_counter(), time.process_time()
    while time.process_time() - busy < 0.2:
        pass
    return max(1.0, (time.perf_counter() - wall) / 0.2)


# -- the player ------------------------------------------------------------------------------------


def test_start_moves_within_three_seconds_and_without_plotly(visit, chromium, server):
    patience, begun = 3 * slowness(), time.monotonic()
    one = visit()
    one.page.wait_for_function(
        "() => [...document.querySelectorAll('*')].some((e) => (e.shadowRoot ?? e)"
        ".querySelector?.('[data-position]')?.dataset.position > 1)"
    )
    took = time.monotonic() - begun
    assert took < patience
    assert not [url for url in one.asked if "PlotlyChart" in url]


def test_step_k_shows_exactly_k_pairs(visit):
    one = visit()
    one.button("To the end").click()
    total = one.at("step")
    assert total == len(one.pairs()) == one.at("filled")
    canvas = one.page.locator("canvas.picture").first
    for expected in (total, total - 1, total - 2):
        assert one.at("step") == one.at("filled") == canvas.evaluate(FILLED) == expected
        one.button("One step back").click()
    one.button("One step on").click()
    assert canvas.evaluate(FILLED) == one.at("step") == total - 2


# -- running a model -------------------------------------------------------------------------------


def test_generate_on_a_warm_server_ends_within_five_seconds(visit):
    one = visit("decode?seed=101&label=any")
    patience, begun = 5 * slowness(), time.monotonic()
    one.generate()
    took = time.monotonic() - begun
    assert took < max(patience, 5 * slowness())  # of before and after
    assert one.page.get_by_text("Recorded, not live").count() == 0


def test_the_same_link_gives_the_same_recipe_and_pairs(visit):
    link = "decode?label=5&steps=10&seed=12&guidance=4"
    one, other = visit(link).generate(), visit(link).generate()
    assert one.recipe() == other.recipe()
    assert one.pairs() == other.pairs() != []


def stopped(one) -> float:
    """Seconds from Stop to its end, in the middle of a long run, on a machine of usual speed."""
    one.button("Generate").click()
    one.page.get_by_role("progressbar").wait_for()
    one.page.wait_for_timeout(700)
    patience, begun = slowness(), time.monotonic()
    one.button("Stop").click()
    one.page.locator(".st-key-stop").wait_for(state="detached")
    return (time.monotonic() - begun) / patience


def test_stop_ends_within_a_second_and_the_result_stays(visit):
    one = visit("decode?steps=5&seed=21").generate()
    before, recipe = one.pairs(), one.recipe()
    one.page.get_by_role("link", name="Models", exact=True).click()
    one.button("Use sed-slow").click()
    one.page.get_by_text("Settings changed").wait_for()
    assert min(stopped(one) for _ in range(3)) < 1  # the quickest: other work may hold one up
    assert (one.pairs(), one.recipe()) == (before, recipe)
    one.page.get_by_text("Settings changed").wait_for()


def test_a_fork_differs_after_the_chosen_pair_and_only_there(visit):
    one = visit("decode?steps=10&seed=31").generate()
    original, place = one.pairs(), 12
    one.button("To the end").click()
    for _ in range(len(original) - place):
        one.button("One step back").click()
    assert one.at("step") == place
    one.page.locator("button.bar:not(.chosen):not(.rest):not(.stop)").first.click()
    one.page.get_by_text("Beside it:").wait_for()
    one.page.locator(".st-key-stop").wait_for(state="detached")
    assert one.pairs(0) == original
    forked = one.pairs(1)
    assert forked[:place] == original[:place] and forked[place] != original[place]


# -- Compare ---------------------------------------------------------------------------------------

MOVE = """(figure) => {
  const root = figure.getRootNode(), range = root.querySelector("[aria-label=Threshold]");
  const shares = [];
  for (const place of [0, Number(range.max)]) {
    range.value = place;
    range.dispatchEvent(new Event("input", { bubbles: true }));
    shares.push([Number(figure.dataset.share), Number(figure.dataset.zeros)]);
  }
  return shares;
}"""


def columns(one, *, counted=True):
    """What stands under each column: its key, exact zeros, share, words."""
    one.page.locator("figure[data-zeros]" if counted else "figure[data-key]").first.wait_for()
    if counted:
        one.page.locator(".cmp.hidden").wait_for(state="detached")
    return one.page.locator("figure[data-key]").evaluate_all(
        "(all) => all.map((f) => [f.dataset.key, f.dataset.zeros, f.dataset.share, f.innerText])"
    )


def test_compare_shows_pictures_within_three_seconds_and_without_plotly(visit):
    patience, begun = 3 * slowness(), time.monotonic()
    one = visit("compare")
    canvas = one.page.locator("canvas.picture").first
    canvas.wait_for()
    assert canvas.evaluate(FILLED) > 0
    took = time.monotonic() - begun
    assert took < max(patience, 3 * slowness())  # of before and after
    assert not [url for url in one.asked if "PlotlyChart" in url]


def test_no_number_before_the_guess_and_equal_seeds_after_it(visit):
    one = visit("compare")
    before = columns(one, counted=False)
    assert len(before) >= 3 and all(zeros is None for _, zeros, _, _ in before)
    text = one.page.locator("[data-testid=stMain]").inner_text()
    assert "exactly zero" not in text and "off by" not in text
    assert one.page.locator("[aria-label=Threshold]").count() == 0
    one.page.get_by_text("DDPM + threshold", exact=True).first.click()
    one.button("Lock in").click()
    one.page.get_by_text("You said DDPM + threshold.").wait_for()
    one.page.wait_for_url(re.compile("reveal=cut"))
    seeds = [re.search(r"seed (\d+), recipe ([0-9a-f]{8})", text) for *_, text in columns(one)]
    assert len({match[1] for match in seeds}) == 1
    assert all("exactly zero" in text for *_, text in columns(one))
    one.page.reload()
    one.page.get_by_text("You said DDPM + threshold.").wait_for()


def test_a_threshold_changes_the_zeros_without_a_rerun(visit):
    one = visit("compare?reveal=show")
    figure = one.page.locator("figure[data-key=cut]")
    figure.wait_for()
    (low, few), (high, many) = figure.evaluate(MOVE)  # in one breath: nothing can have rerun
    assert high > low and many > few and high > 0.9
    one.page.wait_for_url(re.compile("thr="))
    one.page.reload()
    figure.wait_for()
    assert float(figure.get_attribute("data-share")) == pytest.approx(high)


def test_the_threshold_works_from_the_keyboard(visit):
    one = visit("compare?reveal=show")
    slider = one.page.get_by_role("slider", name="Threshold")
    slider.focus()
    slider.press("Home")
    start = slider.get_attribute("aria-valuetext")
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != start and "zeros" in start
    one.button("Match the data's zeros").press("Enter")
    assert int(slider.input_value()) > 0


def test_an_exact_zero_is_drawn_white_and_nothing_else_is(visit):
    one = visit("compare?reveal=show")
    for key, zeros, _, _ in columns(one):
        canvas = one.page.locator(f"figure[data-key={key}] canvas.picture").first
        assert canvas.evaluate(FILLED) == 784 - int(zeros)
    one.page.get_by_role("switch", name="|x| > 0 only").press("Space")
    one.button("Next sample").press("Enter")
    canvas = one.page.locator("figure[data-key=ddpm] canvas.picture").first
    colours = canvas.evaluate("""(canvas) => {
      const { width, height } = canvas;
      const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      const seen = new Set();
      for (let k = 0; k < pixels.length; k += 4) seen.add(pixels.slice(k, k + 3).join());
      return [...seen];
    }""")
    assert set(colours) <= {"255,255,255", "225,228,233", "20,23,28"} and "20,23,28" in colours


def test_live_samples_stand_beside_the_recorded_ones(visit):
    one = visit("compare?reveal=show&n=1&steps=5&seed=3")
    one.button("Generate").click()
    one.page.get_by_text("Live, measured here:").wait_for()
    one.page.locator(".st-key-stop-live").wait_for(state="detached")
    live = [text for *_, text in columns(one)]
    assert all("Live, seed 3" in text and "recorded, seed" in text for text in live)


def test_a_live_run_stops_within_a_second(visit):
    one = visit("compare?reveal=show&steps=100&live=All+of+them")
    before = columns(one)
    one.button("Generate").click()
    one.page.get_by_role("progressbar").wait_for()
    patience, begun = slowness(), time.monotonic()
    one.button("Stop").click()
    one.page.locator(".st-key-stop-live").wait_for(state="detached")
    took = time.monotonic() - begun
    assert took < max(patience, slowness())  # of before and after
    assert columns(one) == before


def test_every_file_of_a_comparison_downloads_and_opens(visit, chromium, tmp_path):
    one = visit("compare?reveal=show&n=1")
    recipe, shown = one.recipe(), columns(one)
    one.button("Download").click()
    files = {}
    for name in ["Pictures (PNG)", "Figures (HTML)", "Numbers (CSV)", "Table (Markdown)",
                 "Samples (npz)", "Recipe (JSON)"]:  # fmt: skip
        with one.page.expect_download() as waiting:
            one.button(name).click()
        file = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(file)
        files[file.suffix] = file
        assert recipe in file.name and file.stat().st_size > 300
    samples = np.load(files[".npz"])
    assert {key: int((samples[key] == 0).sum()) for key, *_ in shown} == {
        key: int(zeros) for key, zeros, *_ in shown
    }
    assert json.loads(files[".json"].read_text())["recipe"] == recipe
    assert len(files[".csv"].read_text().splitlines()) == len(shown) + 2
    _opens_alone(chromium, files[".html"])


def _opens_alone(chromium, file):
    """The page of figures draws all of them and asks nobody for anything."""
    context = chromium.new_context()
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.locator(".main-svg").first.wait_for()
    assert page.locator(".js-plotly-plot").count() == 5
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_choices_stay_in_the_link_and_come_back(visit):
    one = visit("compare?reveal=show")
    one.page.get_by_role("radio", name="100", exact=True).first.click()
    one.page.wait_for_url(re.compile("n=100"))
    one.page.reload()
    one.page.get_by_text(re.compile("in (30|100) samples")).first.wait_for()
    one.button("Copy link").click()
    link = one.page.get_by_text(re.compile(r"^http://localhost.*thr=")).first.inner_text().strip()
    other = visit(link.removeprefix(one.server + "/"))
    assert columns(other) == columns(one) and other.recipe() == one.recipe()


@pytest.mark.parametrize("bad", ["thr=nan", "reveal=nobody", "n=7", "data=Muons", "live=x"])
def test_a_bad_link_to_compare_is_named_and_the_page_works(visit, bad):
    one = visit(f"compare?{bad}")
    one.page.get_by_text(f"Ignored: {bad}").wait_for()
    one.button("Just show me").click()
    one.page.get_by_text("Nearest to the zeros").wait_for()


def test_every_figure_has_a_name_for_those_who_do_not_see_it(visit):
    one = visit("compare?reveal=show")
    one.page.get_by_text("Where a dense model's bits go").wait_for()
    charts = one.page.get_by_test_id("stPlotlyChart")
    charts.nth(3).wait_for()
    named = one.page.locator("[role=figure][aria-label], canvas[role=img], svg[role=img]")
    names = named.evaluate_all("(all) => all.map((e) => e.ariaLabel)")
    assert charts.count() == 4 and all(names)
    assert len([name for name in names if "zero" in name]) >= len(columns(one)) + 1


def opened_one_by_one(one, names):
    """Each popover of these buttons is clean, and all of the page fits on a phone."""
    for name in names:
        one.page.get_by_role("button", name=name).first.click()
        body = one.page.get_by_test_id("stPopoverBody")
        body.locator("pre, p, button").first.wait_for()  # its parts are fetched when it opens
        one.page.wait_for_timeout(500)
        assert found(one) == []
        one.page.keyboard.press("Escape")
    one.page.set_viewport_size({"width": 400, "height": 800})
    one.page.wait_for_function(f"() => !({LOST})")


def test_everything_open_on_compare_is_clean(visit):
    one = visit("compare?reveal=show&n=1&steps=5")
    one.button("Generate").click()
    one.page.get_by_text("Live, measured here:").wait_for()
    one.page.locator(".st-key-more summary").click()
    assert found(one) == []
    opened_one_by_one(one, ["Explain", re.compile("^Recipe"), "Copy link", "Download"])


# -- links -----------------------------------------------------------------------------------------


def test_controls_write_the_link_and_reading_it_sets_them(visit):
    one = visit("decode")
    one.page.get_by_role("radio", name="8", exact=True).first.click()
    one.page.get_by_role("spinbutton", name="Seed").fill("42")
    one.page.get_by_role("spinbutton", name="Seed").press("Enter")
    one.page.wait_for_url(re.compile(r"label=8.*seed=42|seed=42.*label=8"))
    one.page.reload()
    seed = one.page.get_by_role("spinbutton", name="Seed")
    seed.wait_for()
    assert seed.input_value() == "42"
    one.page.get_by_role("link", name="About", exact=True).click()
    one.page.get_by_role("heading", name="About", exact=True).wait_for()
    one.page.get_by_role("link", name="Decode", exact=True).click()
    seed.wait_for()
    assert seed.input_value() == "42"


def test_a_copied_link_gives_the_same_result_elsewhere(visit):
    one = visit("decode?steps=10&seed=51&eta=0.5").generate()
    one.button("Copy link").click()
    link = one.page.get_by_text(re.compile(r"^http://localhost.*sha=")).first.inner_text().strip()
    other = visit(link.removeprefix(one.server + "/")).generate()
    assert other.recipe() == one.recipe() and other.pairs() == one.pairs()


@pytest.mark.parametrize("bad", ["seed=abc", "guidance=99", "steps=7", "seed=nan", "label=77"])
def test_a_bad_link_is_named_and_the_page_works(visit, bad):
    one = visit(f"decode?{bad}")
    one.page.get_by_text(f"Ignored: {bad}").wait_for()
    one.button("New seed").click()
    one.page.wait_for_url(re.compile(r"seed=\d+"))


def test_no_script_in_a_link_runs(visit):
    one = visit("decode?seed=<img src=x onerror=window.__xss=1>&model=<script>__xss=1</script>")
    one.page.get_by_text("Ignored: seed=").wait_for()
    assert one.page.evaluate("window.__xss") is None


# -- files -----------------------------------------------------------------------------------------


def test_every_file_downloads_and_opens(visit, tmp_path, checkpoints, monkeypatch):
    one = visit("decode?steps=10&seed=61").generate()
    count, recipe = len(one.pairs()), one.recipe()
    one.button("Download").click()
    files = {}
    for name in ["Picture (PNG)", "Animation (GIF)", "Sparse matrix (npz)", "Pairs (CSV)",
                 "Trace (JSON)", "Notebook (ipynb)"]:  # fmt: skip
        with one.page.expect_download() as waiting:
            one.button(name).click()
        file = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(file)
        files[file.suffix] = file
        assert recipe in file.name and file.stat().st_size > 300
    matrix = scipy.sparse.load_npz(io.BytesIO(files[".npz"].read_bytes()))
    assert matrix.nnz == count
    assert len(files[".csv"].read_text().splitlines()) == count + 2
    assert json.loads(files[".json"].read_text())["recipe"]["recipe"] == recipe
    _run_notebook(files[".ipynb"], checkpoints, count, monkeypatch)


def _run_notebook(path, checkpoints, count, monkeypatch):
    monkeypatch.setenv("SED_CHECKPOINTS", str(checkpoints))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = (
        "import asyncio, sys, nbformat; from nbclient import NotebookClient; "
        "book = nbformat.read(sys.argv[1], 4); NotebookClient(book, timeout=120).execute(); "
        "nbformat.write(book, sys.argv[1])"
    )  # in a process of its own: Playwright's event loop runs in this one
    subprocess.run([sys.executable, "-c", command, str(path)], check=True)
    book = nbformat.read(path, 4)
    said = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", [])
    )
    assert said.startswith(f"{count} of 784") and "another checkpoint" not in said


# -- form ------------------------------------------------------------------------------------------


def found(one):
    """What axe finds."""
    from axe_playwright_python.sync_playwright import Axe

    one.page.wait_for_function("() => !document.querySelector('[data-stale=true]')")
    one.page.evaluate(SETTLED)
    results = Axe().run(one.page)
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in results.response["violations"]]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_clean_on_a_screen(visit, path):
    one = visit(path)
    one.page.get_by_role("heading", name=re.compile(PAGES[path])).first.wait_for()
    if path in ("", "decode"):
        one.button("To the end").click()
    assert found(one) == []
    assert not one.page.evaluate(LOST)
    assert one.page.get_by_test_id("stException").count() == 0


@pytest.mark.parametrize("path", PAGES)
def test_every_page_fits_a_phone(visit, path):
    one = visit(path, width=400, height=800)
    one.page.get_by_role("heading", name=re.compile(PAGES[path])).first.wait_for()
    assert not one.page.evaluate(LOST)
    assert found(one) == []


def test_a_result_with_everything_open_is_clean(visit):
    one = visit("decode?steps=10&seed=71").generate()
    one.page.locator(".st-key-more summary").click()
    one.button("To the end").click()
    assert found(one) == []
    for name in [re.compile("^Recipe"), "Copy link", "Download"]:
        one.page.get_by_role("button", name=name).first.click()
        body = one.page.get_by_test_id("stPopoverBody")
        body.locator("pre, p, button").first.wait_for()  # its parts are fetched when it opens
        one.page.wait_for_timeout(500)
        assert found(one) == []
        one.page.keyboard.press("Escape")
    one.page.set_viewport_size({"width": 400, "height": 800})
    one.page.wait_for_function(f"() => !({LOST})")
