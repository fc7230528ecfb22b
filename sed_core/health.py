"""What `sed-core doctor` looks at: versions, the machine, the data, the shipped checkpoints."""

import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sed_core import __version__, hub
from sed_core.store import verify
from sed_core.training import best_precision

PACKAGES = ("torch", "numpy", "scipy", "safetensors", "huggingface-hub", "streamlit", "plotly")
Finding = tuple[str, str, bool]


def findings() -> Iterator[Finding]:
    """(what, found, whether that is fine), one after the other."""
    yield from versions()
    yield from machine()
    yield data()
    yield from checkpoints()


def versions() -> Iterable[Finding]:
    """This package, Python, and what the results depend on."""
    yield "sed-core", __version__, True
    yield "python", platform.python_version(), True
    for package in PACKAGES:
        try:
            yield package, version(package), True
        except PackageNotFoundError:
            yield package, "not installed", False


def machine() -> Iterable[Finding]:
    """Device, threads, and the number format that training would use."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    yield "device", f"{device.type} ({name})", True
    policy = os.environ.get("OMP_WAIT_POLICY", "not set; PASSIVE is faster on shared cores")
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores", True
    yield "OMP_WAIT_POLICY", policy, True
    yield "training precision", f"{best_precision(device)} (measured)", True


def data() -> Finding:
    """Where the data sets would come from."""
    named = os.environ.get("SED_DATA")
    if not named:
        return "SED_DATA", "not set; data sets come from their official source with --network", True
    if not Path(named).is_dir():
        return "SED_DATA", f"{named} is no folder; set it to the folder of the data sets", False
    return "SED_DATA", named, True


def checkpoints() -> Iterable[Finding]:
    """Load every shipped checkpoint and check every byte of its folder."""
    for card in hub.shipped():
        try:
            hub.load(card.name, device="cpu")
            verify(card.folder)
            yield card.name, "loads, every byte verified", True
        except ValueError as fault:
            yield card.name, str(fault), False
