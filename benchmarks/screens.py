"""The README's pictures of the app, taken from the app: docs/decode.png, compare.png, counts.png.

    python -m benchmarks.screens [--out docs]

Needs the test extra and Debian's chromium. Starts the app on a free port, drives it, stops it.
"""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT = 1280, 1200
START, ROOM = 60, 700  # seconds until the app answers; milliseconds until a picture is at rest


@contextmanager
def app() -> Iterator[str]:
    """The address of the app, for as long as it is needed."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
    server = subprocess.Popen([*command, "--server.port", str(port)])
    try:
        wait(f"http://localhost:{port}/_stcore/health")
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait()


def wait(url: str) -> None:
    """Until the address answers."""
    for _ in range(10 * START):
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the app did not answer within {START} s")


def decode(page: Page, address: str) -> None:
    """Two thirds of the pairs of a five."""
    page.goto(f"{address}/decode?label=5&seed=12")
    generated(page, ".st-key-stop", back=60)


def generated(page: Page, stop: str, back: int) -> None:
    """Generate, wait until Stop is gone, and step back from the end."""
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("progressbar").wait_for()
    page.locator(stop).wait_for(state="detached")
    page.get_by_role("button", name="To the end").click()
    for _ in range(back):
        page.get_by_role("button", name="One step back").click()


def compare(page: Page, address: str) -> None:
    """The recorded samples with the numbers shown."""
    page.goto(f"{address}/compare?reveal=show")
    page.get_by_role("heading", name="How many zeros").wait_for()
    page.locator("canvas").first.wait_for()


def counts(page: Page, address: str) -> None:
    """An eight with few of its steps of births to come."""
    page.goto(f"{address}/counts?label=8&seed=3")
    generated(page, ".st-key-counts_stop", back=5)


def cells(page: Page, address: str) -> None:
    """Recorded cells among real ones, and a gene of T cells."""
    page.goto(f"{address}/cells?gene=CD3D")
    page.locator(".js-plotly-plot").nth(1).wait_for()


SHOWN = {"decode": decode, "compare": compare, "counts": counts, "cells": cells}


def main(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs"),
) -> None:
    """Take the pictures."""
    with app() as address, sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, show in SHOWN.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            show(page, address)
            page.wait_for_timeout(ROOM)
            page.screenshot(path=out / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    typer.run(main)
