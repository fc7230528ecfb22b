"""The eraser: masks as text, and rubbing out by mouse, finger and keyboard in a real browser."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stage import faults, hosted, served, state
from test_scene import ring

from explorer.eraser import pack, payload, source, unpack

browser = pytest.mark.browser
SIDE = 28
LEVELS = [int(level) for level in (255 * ring()).round()]
EVERYTHING = pack(torch.ones(SIDE**2, dtype=torch.bool))

Open = Callable[..., Any]


def half() -> torch.Tensor:
    """All but the lower half."""
    return torch.arange(SIDE**2) < SIDE**2 // 2


# -- masks as text --------------------------------------------------------------------------------


@given(seen=st.lists(st.booleans(), min_size=1, max_size=800))
def test_a_mask_comes_back_from_its_text(seen: list[bool]) -> None:
    text = pack(torch.tensor(seen))
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert unpack(text, len(seen)).tolist() == seen


def test_the_text_is_short_and_its_first_bit_is_the_first_entry() -> None:
    assert len(EVERYTHING) == 131
    assert pack(torch.tensor([True, *[False] * 7])) == "gA"


@pytest.mark.parametrize(
    "text", ["", "gA", EVERYTHING[:-1], EVERYTHING + "A", "*" * 131, "é" * 131, EVERYTHING + "="]
)
def test_what_is_no_mask_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="a mask of 784 entries is 131 letters of base64url"):
        unpack(text, SIDE**2)


def test_bits_beyond_the_last_entry_are_refused() -> None:
    assert unpack("gA", 5).tolist() == [True, *[False] * 4]
    with pytest.raises(ValueError, match="mask of 5"):
        unpack("_w", 5)


@pytest.mark.parametrize("levels", [LEVELS[1:], [*LEVELS[1:], 256], [-1, *LEVELS[1:]]])
def test_only_grey_levels_are_erased(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="28 x 28 grey levels from 0 to 255, got 78"):
        payload(levels, SIDE, EVERYTHING)


# -- in a browser ---------------------------------------------------------------------------------


def data(mask: torch.Tensor | None = None, **options: Any) -> dict[str, Any]:
    return payload(LEVELS, SIDE, EVERYTHING if mask is None else pack(mask), **options)


def host(mask: torch.Tensor | None = None, **options: Any) -> str:
    text = data(mask, **options)
    return hosted(source("eraser.js"), source("eraser.css"), text, "eraser")


def erased(page: Any) -> int:
    return int(state(page)["erased"])


def place(page: Any, row: int, column: int) -> tuple[float, float]:
    """Where the middle of a cell is on the screen."""
    box = page.locator(".picture").bounding_box()
    size = box["width"] / SIDE
    return box["x"] + (column + 0.5) * size, box["y"] + (row + 0.5) * size


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def reported(page: Any) -> torch.Tensor:
    """The newest report, once it is about what is shown now."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        said = page.evaluate("window.said")
        if said and int((~unpack(said[-1][1], SIDE**2)).sum()) == erased(page):
            assert {name for name, _ in said} == {"mask"}
            return unpack(said[-1][1], SIDE**2)
        page.wait_for_timeout(50)
    raise AssertionError(f"no report of what is shown in {page.evaluate('window.said')}")


def square(row: int, column: int, reach: int) -> torch.Tensor:
    """What is seen after one touch with a brush that reaches so far."""
    seen = torch.ones(SIDE, SIDE, dtype=torch.bool)
    seen[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = False
    return seen.flatten()


@browser
@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_press_erases_under_the_brush(visit: Open, size: int) -> None:
    page = visit(host())
    press(page, f"Brush {size} by {size}")
    page.mouse.click(*place(page, 10, 7))
    assert erased(page) == size**2
    assert torch.equal(reported(page), square(10, 7, size // 2))
    page.mouse.click(*place(page, 0, 27))  # in a corner the brush ends at the edge
    assert torch.equal(reported(page), square(10, 7, size // 2) & square(0, 27, size // 2))
    assert page.locator(".count").inner_text() == f"{erased(page)} of 784 pixels erased"


@browser
def test_a_quick_drag_leaves_no_gap_and_is_one_undo(visit: Open) -> None:
    page = visit(host())
    press(page, "Brush 1 by 1")
    page.mouse.move(*place(page, 5, 3))
    page.mouse.down()
    page.mouse.move(*place(page, 5, 20))
    page.mouse.move(*place(page, 15, 20))
    page.mouse.up()
    page.mouse.move(*place(page, 20, 5))  # the hand is up: nothing more
    seen = torch.ones(SIDE, SIDE, dtype=torch.bool)
    seen[5, 3:21] = seen[5:16, 20] = False
    assert torch.equal(reported(page), seen.flatten())
    assert erased(page) == 28
    press(page, "Undo")
    assert erased(page) == 0
    assert reported(page).all()
    assert page.get_by_role("button", name="Undo").is_disabled()


@browser
def test_it_reports_300_ms_after_the_last_change(visit: Open) -> None:
    page = visit(host())
    page.evaluate("""() => {
      const root = document.getElementById("host").shadowRoot.querySelector(".sed");
      const watch = new MutationObserver(() => { window.changed = performance.now(); });
      watch.observe(root, { attributes: true });
      const push = window.said.push.bind(window.said);
      window.said.push = (one) => { window.told = performance.now(); return push(one); };
    }""")
    page.locator(".picture").focus()
    for _ in range(6):
        page.keyboard.press("Shift+ArrowRight")
    reported(page)
    assert 250 < page.evaluate("window.told - window.changed") < 900


@browser
def test_what_was_erased_can_be_brought_back(visit: Open) -> None:
    page = visit(host())
    press(page, "Erase all")
    assert erased(page) == SIDE**2
    press(page, "Bring back")
    press(page, "Brush 5 by 5")
    page.mouse.click(*place(page, 14, 14))
    assert erased(page) == SIDE**2 - 25
    assert torch.equal(reported(page), ~square(14, 14, 2))
    press(page, "Bring all back")
    assert erased(page) == 0
    for left in (SIDE**2 - 25, SIDE**2, 0):
        press(page, "Undo")
        assert erased(page) == left


@browser
def test_a_keyboard_does_all_that_a_mouse_does(visit: Open) -> None:
    page = visit(host())
    page.keyboard.press("Tab")
    for _ in range(40):
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")  # it stays inside
    assert erased(page) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert torch.equal(reported(page), square(0, 1, 1))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert erased(page) == 12
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    seen = square(0, 1, 1) & square(2, 1, 1) & square(2, 2, 1) & square(2, 3, 1) & square(2, 4, 1)
    assert torch.equal(reported(page), seen)
    live = page.locator("[aria-live]")
    assert live.text_content() == f"{erased(page)} of 784 pixels erased"
    page.keyboard.press("ArrowLeft")
    assert live.text_content() == "Row 2, column 3: erased."
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert live.text_content() == f"Row 4, column 3: grey level {LEVELS[4 * SIDE + 3]}."
    before = erased(page)
    page.keyboard.press("Control+z")
    assert erased(page) == before - 3
    press(page, "Bring back")
    page.locator(".picture").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    assert erased(page) < before - 3


@browser
def test_the_cursor_of_the_keyboard_can_be_seen(visit: Open) -> None:
    page = visit(host())
    blue = """(canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let found = 0;
      for (let k = 0; k < data.length; k += 4)
        found += data[k] === 0 && data[k + 1] === 114 && data[k + 2] === 178;
      return found;
    }"""
    assert page.locator(".picture").evaluate(blue) == 0
    page.locator(".picture").focus()
    small = page.locator(".picture").evaluate(blue)
    press(page, "Brush 5 by 5")
    page.locator(".picture").focus()
    assert page.locator(".picture").evaluate(blue) > small > 50


@browser
def test_a_finger_draws(visit: Open) -> None:
    page = visit(host(), width=400, touch=True)
    page.touchscreen.tap(*place(page, 20, 9))
    assert torch.equal(reported(page), square(20, 9, 1))
    assert page.locator(".picture").evaluate("node => getComputedStyle(node).touchAction") == "none"


@browser
def test_erased_cells_hide_their_grey_level(visit: Open) -> None:
    """Hatched, whatever stood there: two pictures with the same upper half look the same."""
    first = visit(host(half()))
    other = LEVELS[: SIDE**2 // 2] + [0] * (SIDE**2 // 2)
    text = payload(other, SIDE, pack(half()))
    second = visit(hosted(source("eraser.js"), source("eraser.css"), text, "eraser"))
    shots = [page.locator(".picture").evaluate("c => c.toDataURL()") for page in (first, second)]
    assert shots[0] == shots[1]
    for page in (first, second):
        press(page, "Bring all back")
    shots = [page.locator(".picture").evaluate("c => c.toDataURL()") for page in (first, second)]
    assert shots[0] != shots[1]


@browser
def test_a_new_mask_redraws_and_the_readers_own_that_comes_back_does_not(visit: Open) -> None:
    page = visit(host())

    def mount(mask: torch.Tensor, **options: Any) -> None:
        page.evaluate("data => window.mount(data)", data(mask, **options))

    mount(half())
    assert erased(page) == SIDE**2 // 2
    mine = half() & square(3, 3, 1)
    page.mouse.click(*place(page, 3, 3))
    assert torch.equal(reported(page), mine)
    page.mouse.click(*place(page, 3, 13))
    mount(mine)  # a late echo of the first press
    assert erased(page) == SIDE**2 // 2 + 18
    assert torch.equal(reported(page), mine & square(3, 13, 1))
    mount(mine & square(3, 13, 1))
    mount(mine)  # now it is news: the host wants it back
    assert erased(page) == SIDE**2 // 2 + 9
    mount(half(), disabled=True)
    assert erased(page) == SIDE**2 // 2
    page.mouse.click(*place(page, 3, 3))
    page.locator(".picture").focus()
    page.keyboard.press("Space")
    assert erased(page) == SIDE**2 // 2
    assert page.locator("button:enabled").count() == 0
    mount(half())
    page.mouse.click(*place(page, 3, 3))
    assert erased(page) == SIDE**2 // 2 + 9
    assert page.locator(".sed").count() == 1


@browser
def test_a_new_picture_begins_with_its_own_mask_and_keeps_the_brush(visit: Open) -> None:
    page = visit(host())
    press(page, "Brush 1 by 1")
    page.evaluate(
        """(data) => {
          const root = document.getElementById("host").shadowRoot;
          root.querySelector("canvas").dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
          window.erased = root.querySelector(".sed").dataset.erased;
          window.mount(data);
        }""",
        payload(LEVELS[::-1], SIDE, pack(half())),
    )
    page.wait_for_timeout(500)
    assert page.evaluate("[window.erased, window.said.length]") == ["1", 0]
    assert erased(page) == SIDE**2 // 2
    page.mouse.click(*place(page, 3, 3))
    assert erased(page) == SIDE**2 // 2 + 1
    assert torch.equal(reported(page), half() & square(3, 3, 0))  # nothing of the old one
    page.evaluate("document.getElementById('host').remove(); window.leave()")
    page.wait_for_timeout(400)


@browser
@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("disabled", [False, True])
def test_no_axe_violation_and_no_sideways_scroll(visit: Open, width: int, disabled: bool) -> None:
    page = visit(host(half(), disabled=disabled), width=width)
    assert faults(page) == []
    for control in page.locator("button").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 43.9, control.inner_text()


APP = """
import streamlit as st
from explorer.eraser import eraser
from test_eraser import EVERYTHING, LEVELS, SIDE, half
from explorer.eraser import pack, unpack


def changed():
    st.session_state.mine = st.session_state.it.mask


if st.button("Lower half"):
    st.session_state.mine = pack(half())
mask = st.session_state.setdefault("mine", EVERYTHING)
result = eraser(LEVELS, SIDE, mask, key="it", on_mask=changed)
st.text(f"erased here: {int((~unpack(mask, SIDE**2)).sum())}; reported {result.mask is not None}")
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with served(tmp_path, APP) as address:
        yield address


@browser
def test_in_streamlit_the_page_hears_of_the_mask_and_can_set_another(
    chromium: Any, server: str
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server)
    page.get_by_text("erased here: 0; reported False").wait_for()
    page.mouse.click(*place(page, 4, 4))
    page.get_by_text("erased here: 9; reported True").wait_for()
    press(page, "Lower half")
    page.get_by_text(f"erased here: {SIDE**2 // 2};").wait_for()
    page.wait_for_function(
        "[...document.querySelectorAll('*')].some((node) => "
        f"node.shadowRoot?.querySelector('[data-erased=\"{SIDE**2 // 2}\"]'))"
    )
    page.mouse.click(*place(page, 4, 4))
    page.get_by_text(f"erased here: {SIDE**2 // 2 + 9};").wait_for()
    press(page, "Undo")
    page.get_by_text(f"erased here: {SIDE**2 // 2};").wait_for()
    context.close()
