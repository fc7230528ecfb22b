"""What every test stands on: hypothesis settings, no network, marks that skip themselves."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning starves a shared core
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip

settings.register_profile(
    "ours",
    deadline=None,  # a shared machine is slow now and then
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ours")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine can't run, and say what is missing."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("data") and not os.environ.get("SED_DATA"):
        pytest.skip("needs the real data; set SED_DATA to its folder")
    if item.get_closest_marker("browser") and not CHROMIUM.exists():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The one browser of all browser tests: Playwright allows one a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a static page; afterwards nothing may have gone to the console or to the network."""
    noise, requests, contexts = list[str](), list[str](), list[Any]()

    def visit(text: str, *, width: int = 1440, motion: str = "reduce", touch: bool = False) -> Any:
        file = tmp_path / "page.html"
        file.write_text(text, encoding="utf-8")
        size = {"width": width, "height": 900}
        options = {"viewport": size, "reduced_motion": motion, "has_touch": touch}
        contexts.append(chromium.new_context(**options, bypass_csp=True))
        page = contexts[-1].new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [words for words in noise if "willReadFrequently" not in words] == []  # our own reading
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine can be reached: a test that needs more is wrong."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise ConnectionRefusedError(111, f"no network in tests, asked for {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
