"""How fast samples come: SED against DDPM (1,000 steps), DDIM (50 steps) and LDM (50 steps).

    python -m benchmarks.speed [--timed 1000] [--out benchmarks/results/speed.json]

On calorimeter windows (97 % zeros), MNIST (81 %) and Fashion-MNIST (50 %): shipped checkpoints,
every class asked for as often, without guidance, so that a step is one network evaluation; SED and
LDM take 50 DDIM steps in the latent. Runs are interleaved; figures are medians over the repeats,
the long DDPM is run once, from end to end or its first `--timed` steps, all of which are alike, and
the rest reckoned. Every contender runs with one thread and with all of torch's, and the better
median counts: many small steps are slower on two threads than on one.
Where a dense checkpoint does not ship, a network of its shape with random weights stands in, which
takes exactly as long.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sed_core import hub
from sed_core.baselines import DDPM, LDM, AutoencoderConfig, DDPMConfig, DenseValues
from sed_core.chance import seeded
from sed_core.costs import draw, milliseconds
from sed_core.evaluation import machine
from sed_core.sed import DenoiserConfig

RESULTS = Path(__file__).parent / "results" / "speed.json"
BATCH, STEPS, LONG = 64, 50, 1000
PAPER = "reported, other data or hardware"


class Case(NamedTuple):
    """A data set, its share of zeros, and the ratios that are wanted and reported."""

    data: str
    short: str
    side: int
    classes: int
    zeros: float
    against_ddpm: float | None
    against_ddim: float | None
    reported: str


CASES = (
    Case("ecal", "ecal", 32, 5, 0.967, 100, 3, "19x (95 % zeros)"),
    Case("mnist", "mnist", 28, 10, 0.809, 30, None, "7x"),
    Case("fashion_mnist", "fashion", 28, 10, 0.50, None, None, "about 1x"),
)


def contender(kind: str, case: Case) -> tuple[str, nn.Module, bool] | None:
    """Name, model, and whether it is trained; None for a SED that does not ship."""
    name = f"{kind.lower()}-{case.short}"
    if any(card.name == name and card.size for card in hub.shipped()):
        return name, hub.load(name), True
    if kind == "SED":
        return None
    return f"{name} (random weights)", stand_in(kind, case), False


def stand_in(kind: str, case: Case) -> nn.Module:
    """A dense network of the recipes' shape."""
    dim = case.side**2
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        if kind == "DDPM":
            config = DDPMConfig(dim=dim, side=case.side, classes=case.classes)
            return DDPM(DenseValues(), config).eval().requires_grad_(False)
        shape = AutoencoderConfig(dim=dim, side=case.side)
        latent = DenoiserConfig(latent=shape.latent, classes=case.classes)
        return LDM(DenseValues(), shape, latent).eval().requires_grad_(False)


# -- timing ----------------------------------------------------------------------------------------


def rows_of(case: Case, *, repeats: int, batch: int, timed: int) -> list[dict[str, Any]]:
    """Every contender on one data set."""
    found = {kind: contender(kind, case) for kind in ("SED", "DDPM", "LDM")}
    present = {kind: entry for kind, entry in found.items() if entry is not None}
    calls = {kind: _call(entry[1], case, batch) for kind, entry in present.items()}
    for call in calls.values():
        call()  # the first run is slower
    times = _interleaved(calls, repeats, batch)
    rows = [_row(case, kind, present[kind], "ddim", STEPS, STEPS, times[kind]) for kind in present]
    with threads(times["DDPM"]["threads"]):
        ms = {"value": _ancestral(present["DDPM"][1], case, batch, timed), "n": 1}
    ms["threads"] = times["DDPM"]["threads"]
    return [*rows, _row(case, "DDPM", present["DDPM"], "ddpm", LONG, timed, ms)]


def _interleaved(
    calls: dict[str, Callable[[], Any]], repeats: int, batch: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds a sample of each contender with the number of threads that suits it best."""
    tried = sorted({1, torch.get_num_threads()})
    spent: dict[tuple[str, int], list[float]] = {(kind, n): [] for kind in calls for n in tried}
    for _ in range(repeats):
        for kind, n in spent:
            with threads(n):
                spent[kind, n].append(milliseconds(calls[kind], repeats=1, rows=batch)["value"])
    found = [(kind, {**_middle(ms), "threads": n}) for (kind, n), ms in spent.items()]
    return {
        kind: min((ms for name, ms in found if name == kind), key=lambda ms: ms["value"])
        for kind in calls
    }


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Torch with that many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _call(model: nn.Module, case: Case, batch: int) -> Callable[[], Any]:
    label = _labels(model, batch)
    return lambda: draw(model, batch, seed=0, steps=STEPS, label=label)


def _labels(model: Any, batch: int) -> Tensor | None:
    """Every class equally often."""
    return torch.arange(batch) % model.classes if model.classes else None


def _middle(spent: list[float]) -> dict[str, Any]:
    values = torch.tensor(spent, dtype=torch.float64)
    value, low, high = (values.quantile(q).item() for q in (0.5, 0.25, 0.75))
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": len(spent)}


def _ancestral(model: nn.Module, case: Case, batch: int, timed: int) -> float:
    """Milliseconds a sample of 1,000 ancestral steps, of which `timed` are run."""
    assert isinstance(model, DDPM)
    label, chance = _labels(model, batch), seeded(0)
    stream = model.stream(batch, steps=LONG, sampler="ddpm", label=label, generator=chance)
    started = time.perf_counter()
    for _, _step in zip(range(timed), stream, strict=False):
        pass
    return round(1000 * (time.perf_counter() - started) / batch * LONG / timed, 4)


def _row(
    case: Case,
    kind: str,
    entry: tuple[str, nn.Module, bool],
    sampler: str,
    steps: int,
    timed: int,
    ms: dict[str, Any],
) -> dict[str, Any]:
    note = "" if timed == steps else f"{timed} of {steps:,} steps timed, the rest reckoned"
    return {
        "data": case.data,
        "zeros": case.zeros,
        "method": kind,
        "checkpoint": entry[0],
        "trained": entry[2],
        "sampler": sampler,
        "steps": steps,
        "ms": ms,
        "timed_steps": timed,
        "note": note,
    }


# -- report ----------------------------------------------------------------------------------------


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as long as SED each peer takes, and whether that is what was wanted."""
    found: list[dict[str, Any]] = []
    for case in CASES:
        ms = {(r["method"], r["steps"]): r["ms"]["value"] for r in rows if r["data"] == case.data}
        for name, key, least, reported in (
            ("DDPM (1,000 steps)", ("DDPM", LONG), case.against_ddpm, case.reported),
            ("DDIM (50 steps)", ("DDPM", STEPS), case.against_ddim, None),
            ("LDM (50 steps)", ("LDM", STEPS), None, None),
        ):
            if ("SED", STEPS) not in ms or key not in ms:
                continue
            ratio = ms[key] / ms["SED", STEPS]
            found.append(
                {
                    "data": case.data,
                    "zeros": case.zeros,
                    "against": name,
                    "ratio": round(ratio, 3),
                    "wanted": None if least is None else f"at least {least:g}",
                    "met": None if least is None else ratio >= least,
                    "reported": reported,
                }
            )
    return found


def report(*, repeats: int, batch: int, timed: int) -> dict[str, Any]:
    """Everything that `speed.json` holds."""
    started = time.perf_counter()
    parts = [rows_of(case, repeats=repeats, batch=batch, timed=timed) for case in CASES]
    rows = [row for part in parts for row in part]
    setting = {
        "date": date.today().isoformat(),
        **machine(nn.Linear(1, 1)),
        "threads": torch.get_num_threads(),
        "seed": 0,
        "batch": batch,
        "repeats": repeats,
        "guidance": 1.0,
        "seconds": round(time.perf_counter() - started, 1),
    }
    told = {"format": "sed-speed", "version": 1, "setting": setting}
    return {**told, "rows": rows, "ratios": ratios(rows)}


def tables(found: dict[str, Any]) -> list[Table]:
    """The report for a reader."""
    setting = found["setting"]
    times = Table(title=f"ms a sample, batch {setting['batch']}, {setting['device']}")
    for name in (
        "data",
        "zeros",
        "method",
        "sampler",
        "steps",
        "ms",
        "quartiles",
        "threads",
        "note",
    ):
        times.add_column(name)
    for r in found["rows"]:
        ms, trained = r["ms"], "" if r["trained"] else "random weights; "
        ends = f"{ms['low']:.3g} to {ms['high']:.3g}" if "low" in ms else "one run"
        told = [r["data"], f"{r['zeros']:.1%}", r["method"], r["sampler"], f"{r['steps']:,}"]
        times.add_row(*told, f"{ms['value']:.4g}", ends, str(ms["threads"]), trained + r["note"])
    times_as = Table(title="times as long as SED (DDIM, 50 steps)")
    for name in ("data", "against", "ratio", "wanted", "met", PAPER):
        times_as.add_column(name)
    for r in found["ratios"]:
        met = {None: "", True: "yes", False: "no"}[r["met"]]
        told = [r["wanted"] or "", met, r["reported"] or ""]
        times_as.add_row(r["data"], r["against"], f"{r['ratio']:.3g}", *told)
    return [times, times_as]


def main(
    timed: Annotated[int, typer.Option(help="Of DDPM's 1,000 steps, how many.")] = LONG,
    batch: Annotated[int, typer.Option(help="Samples at once.")] = BATCH,
    repeats: Annotated[int, typer.Option(help="Of the short samplers.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the figures are kept.")] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Time SED and its peers."""
    found = report(repeats=repeats, batch=batch, timed=timed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        print(json.dumps(found))
        return
    for table in tables(found):
        Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
