"""How the time of a sample grows with the dimensions, measured on the reader's own machine.

A short run of `benchmarks.scaling`'s question: 20 pairs a sample, among more and more dimensions
that are always zero. Weights are random: a row may stop early, but its batch goes on.
"""

import math
import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import torch

from explorer.jobs import Tick
from sed_core.baselines import DDPM, DDPMConfig, DenseValues
from sed_core.chance import seeded
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.stream import Step

DIMS = (1_000, 4_000, 16_000, 32_000)
METHODS = {"sed_nested": "SED, nested head", "ddpm": "DDPM"}
ACTIVE, PAIRS, STEPS, ROWS, REPEATS = 50, 20, 50, 16, 2


def measure(tick: Tick) -> dict[str, Any]:
    """Milliseconds a sample of SED and DDPM at each size, medians over the repeats."""
    runs, shares = [], 1 / (len(METHODS) * len(DIMS))
    for place, (method, dim) in enumerate((m, d) for d in DIMS for m in METHODS):
        tick(place * shares)
        model = _model(method, dim)
        part = lambda done, place=place: tick((place + done) * shares)  # noqa: E731
        runs.append({"method": method, "dim": dim, "ms": round(_milliseconds(model, part), 4)})
    return {
        "date": date.today().isoformat(), "threads": torch.get_num_threads(), "batch": ROWS,
        "steps": STEPS, "active": ACTIVE, "runs": runs,
        "exponents": {method: exponent(runs, method) for method in METHODS},
    }  # fmt: skip


def stage(fraction: float) -> str:
    """What is being timed, in words."""
    place = min(int(fraction * len(METHODS) * len(DIMS)), len(METHODS) * len(DIMS) - 1)
    name = list(METHODS.values())[place % len(METHODS)]
    return f"Timing {name} at {DIMS[place // len(METHODS)]:,} dimensions"


def exponent(runs: list[dict[str, Any]], method: str) -> float:
    """The power of the dimension that the time grows with: the slope of a line in logarithms."""
    some = [run for run in runs if run["method"] == method]
    x = np.log([run["dim"] for run in some])
    return round(float(np.polyfit(x, np.log([run["ms"] for run in some]), 1)[0]), 3)


def _model(method: str, dim: int) -> SED | DDPM:
    """A network of that size with random weights; global chance stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        if method == "ddpm":
            made = DDPM(DenseValues(), DDPMConfig(dim=dim, widths=(512, 512, 256, 128)))
        else:
            made = SED(_savae(dim), DenoiserConfig(latent=64))
        return made.eval().requires_grad_(False)


def _savae(dim: int) -> SAVAEConfig:
    return SAVAEConfig(
        dim=dim, index_head="nested", draft="none", mask="none", max_pairs=PAIRS, value_mean=0.5,
        value_sd=0.2,
    )  # fmt: skip


def _milliseconds(model: SED | DDPM, tick: Tick) -> float:
    spent = []
    for repeat in range(REPEATS + 1):  # the first run is slower and does not count
        begun = time.perf_counter()
        for done, _ in enumerate(_stream(model), 1):
            tick((repeat + min(1.0, done / (STEPS + PAIRS))) / (REPEATS + 1))
        spent.append(1000 * (time.perf_counter() - begun) / ROWS)
    return float(np.median(spent[1:])) or math.nan


def _stream(model: SED | DDPM) -> Iterator[Step[Any]]:
    options = {"steps": STEPS, "generator": seeded(0)}
    if isinstance(model, SED):
        options["detail"] = False
    return model.stream(ROWS, **options)
