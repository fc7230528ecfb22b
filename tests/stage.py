"""Where a component stands while it is tested: a static page, or a small Streamlit app."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen


def hosted(js: str, css: str, data: Mapping[str, Any], function: str = "player") -> str:
    """A page that calls a component as Streamlit does: in a shadow root, again on every rerun."""
    return f"""<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
    <title>host</title><main><h1>host</h1><div id="host"></div></main>
    <script type="module">{js}
    const shadow = document.getElementById("host").attachShadow({{ mode: "open" }});
    const style = document.createElement("style");
    style.textContent = {json.dumps(css)};
    shadow.append(style);
    window.said = [];
    const tell = (name, value) => window.said.push([name, value]);
    window.mount = (data) => {{
      window.leave = {function}({{ parentElement: shadow, data, setStateValue: tell,
        setTriggerValue: tell }});
    }};
    window.mount({json.dumps(data)});
    </script>"""


def state(page: Any) -> dict[str, str]:
    """What the component says of itself."""
    return page.locator(".sed").evaluate("node => ({...node.dataset})")


def faults(page: Any) -> list[tuple[str, str]]:
    """What assistive tools find, and a page that scrolls sideways."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    rules = [(rule["id"], rule["nodes"][0]["html"][:120]) for rule in found]
    return [*rules, *([("scrolls sideways", "")] if wide else [])]


@contextmanager
def served(folder: Path, script: str) -> Iterator[str]:
    """A running Streamlit app of one script; yields its address."""
    (folder / "app.py").write_text(script, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(folder / "app.py")]
    options = ["--server.headless=true", f"--server.port={port}", "--server.fileWatcherType=none"]
    root = Path(__file__).parents[1]
    process = subprocess.Popen([*command, *options, "--browser.gatherUsageStats=false"], cwd=root)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/_stcore/health")
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(address: str) -> None:
    for _ in range(120):
        try:
            urlopen(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(f"{address} does not answer")
