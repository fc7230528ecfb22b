"""How cost grows with always-zero dimensions: the same pairs, padded from 1k to 1M dimensions.

    python -m benchmarks.scaling [--quick] [--threads 2] [--out benchmarks/results/scaling.json]

Rows have non-zeros in 1,000 dimensions (100 pairs a row), and separately in 50 (20 pairs a row),
spread evenly over the whole range; every other dimension is always zero. Which dimensions and what
values a row has is the same at every size, only the dimensions' numbers move apart.

    SED, nested and flat head   SAVAE of the shipped width without a draft head, whose output is
                                dense in the dimensions; the latent denoiser of the recipes. The
                                nested head has blocks of blocks of dimensions, and shared weights
    DDPM                        an MLP U-Net over all dimensions
    LDM                         a dense autoencoder of two hidden layers, SED's latent denoiser

A training step is a whole step of `sed_core.training.fit`: loss, gradient, clipping, AdamW, moving
average. A sample takes 50 DDIM steps; SED's weights are random here and would stop at random, so
its decoder is made to emit the pairs of a row: all choosing is done, then overruled.
Every case runs in a process of its own. Dense cases that would need more memory than the bound are
not run, and say so.

    python -m benchmarks.scaling --cells [--quick]

What a cell costs by its panel of genes instead (`benchmarks.panels`), to `scaling-cells.json`.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from datetime import date
from math import log, sqrt
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import panels
from sed_core.baselines import DDPM, LDM, AutoencoderConfig, DDPMConfig, DenseValues
from sed_core.chance import seeded
from sed_core.costs import apart, peak_memory, warm_up
from sed_core.evaluation import machine
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch
from sed_core.stream import last
from sed_core.training import fit

RESULTS = Path(__file__).parent / "results" / "scaling.json"
OF_CELLS = RESULTS.with_name("scaling-cells.json")
DIMS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK_DIMS = (1_000, 3_000, 10_000)
ACTIVE = {1_000: 100, 50: 20}  # active dimensions, and pairs a row
METHODS = {
    "sed_nested": "SED, nested head",
    "sed_flat": "SED, flat head",
    "ddpm": "DDPM",
    "ldm": "LDM",
}
BATCH, STEPS, LATENT, BATCHES, WARM = 16, 50, 64, 4, 3
HEADS = {"sed_nested": "nested", "sed_flat": "flat"}
TRAINING_BOUND, SAMPLING_BOUND = 8.0, 2.0  # GiB
WORDS = 20  # bytes a parameter takes in training: weight, gradient, two moments, average
GROWTH, NEAR_FLAT = 1.2, 0.05
FIGURES = ("step_ms", "sample_ms", "peak_bytes")


class Case(NamedTuple):
    """One line of the result."""

    method: str
    active: int
    dim: int
    quick: bool


# -- data and models -------------------------------------------------------------------------------


def rows(case: Case, n: int, seed: int) -> SparseBatch:
    """n rows whose active dimensions are spread evenly over all dimensions."""
    pairs, chance = ACTIVE[case.active], seeded(seed)
    chosen = [torch.randperm(case.active, generator=chance)[:pairs].sort().values for _ in range(n)]
    place = (torch.stack(chosen) * case.dim).div(case.active, rounding_mode="floor")
    value = torch.rand(n, pairs, generator=chance) + 0.05
    return SparseBatch(place, value, torch.ones_like(place, dtype=torch.bool), case.dim)


def build(case: Case) -> nn.Module:
    """An untrained model of this size."""
    latent = DenoiserConfig(latent=LATENT)
    if case.method == "ddpm":
        return DDPM(DenseValues(), DDPMConfig(dim=case.dim, widths=latent.widths))
    if case.method == "ldm":
        shape = AutoencoderConfig(dim=case.dim, latent=LATENT, widths=(1024, 1024))
        return LDM(DenseValues(), shape, latent)
    head: Any = HEADS[case.method]
    savae = SAVAEConfig(dim=case.dim, latent=LATENT, index_head=head, draft="none", value_mean=0.5)
    return SED(savae, latent)


def parameters(case: Case) -> int:
    """Counted without memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(case).parameters())


def too_large(case: Case) -> tuple[str | None, str | None]:
    """Why this case's training, and why its sampling, is not run."""
    if case.method.startswith("sed"):
        return None, None
    count = parameters(case)
    needs = (count * WORDS / 2**30, count * 4 / 2**30)
    bounds = (TRAINING_BOUND, SAMPLING_BOUND)
    train, draw = (
        f"needs about {need:.1f} GiB, the bound is {bound:g} GiB" if need > bound else None
        for need, bound in zip(needs, bounds, strict=True)
    )
    return train, draw


# -- one case --------------------------------------------------------------------------------------


def measure(case: Case, train: bool, draw: bool) -> dict[str, Any]:
    """Milliseconds of a step and of a sample, and peak memory; in a process of its own."""
    warm_up()
    before = peak_memory()
    torch.manual_seed(0)
    model = build(case)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_ms": _training(model, case) if train else None,
    }
    for parameter in model.parameters():
        parameter.grad = None
    model.eval().requires_grad_(False)
    found["sample_ms"] = _sampling(model, case) if draw else None
    found["peak_bytes"] = peak_memory() - before
    return found


def _training(model: nn.Module, case: Case) -> dict[str, Any]:
    """Milliseconds of a step of `fit`."""
    made = [rows(case, BATCH, seed) for seed in range(BATCHES)]
    run = fit(model, [*made] * 50, lr=1e-4, generator=seeded(0), precision="float32")
    for _ in range(WARM):
        next(run)
    return repeated(lambda: next(run), quick=case.quick)


def _sampling(model: nn.Module, case: Case) -> dict[str, Any]:
    """Milliseconds a sample."""
    real = rows(case, BATCH, 0)

    def draw() -> Any:
        if isinstance(model, SED):
            return sample_sed(model, real)
        return model.sample(BATCH, steps=STEPS, generator=seeded(0))  # type: ignore[operator]

    draw()
    return repeated(draw, quick=case.quick, share=BATCH)


def sample_sed(model: SED, real: SparseBatch) -> SparseBatch:
    """Noise -> latent -> as many pairs as `real` has: its own, chosen anew and overruled."""
    z = last(model.diffuse(len(real), steps=STEPS, generator=seeded(0)))
    stop = torch.full((len(real),), real.dim)
    stream = model.decode(z, prefix=real, choose=stop, generator=seeded(1), detail=False)
    return last(stream)


def repeated(call: Callable[[], Any], *, quick: bool, share: int = 1) -> dict[str, Any]:
    """Median and quartiles of three runs, of more where they are short, of fewer where long."""
    budget, spent = 300 if quick else 2_000, list[float]()
    while (len(spent) < 3 and sum(spent) < 20_000) or (sum(spent) < budget and len(spent) < 60):
        started = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - started))
    both = spent * 2 if len(spent) == 1 else spent
    low, value, high = (q / share for q in statistics.quantiles(both, n=4, method="inclusive"))
    ends = {"low": round(low, 4), "high": round(high, 4)}
    return {"value": round(value, 4), **ends, "n": len(spent)}


def run(case: Case) -> dict[str, Any]:
    """One line of the result, with what was not run and why."""
    train, draw = too_large(case)
    told = {"method": case.method, "active": case.active, "pairs": ACTIVE[case.active]}
    empty = {"step_ms": None, "sample_ms": None, "peak_bytes": None}
    line = {**told, "dim": case.dim, "parameters": parameters(case), **empty}
    reasons = [("training", train), ("sampling", draw)]
    why = "; ".join(f"{what} {reason}" for what, reason in reasons if reason) or None
    if train and draw:
        return line | {"not_run": why}
    try:
        return line | apart(measure, case, train is None, draw is None) | {"not_run": why}
    except BrokenProcessPool:
        return line | {"not_run": "its process was killed, most likely for lack of memory"}


# -- fits and targets ------------------------------------------------------------------------------


def value_of(line: dict[str, Any], figure: str) -> float | None:
    """A figure of a line as a number."""
    found = line[figure]
    return found["value"] if isinstance(found, dict) else found


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float | None]:
    """Least-squares slope of log y over log x, and its standard error."""
    a, b = [log(v) for v in x], [log(v) for v in y]
    n, mean_a, mean_b = len(a), statistics.fmean(a), statistics.fmean(b)
    spread = sum((u - mean_a) ** 2 for u in a)
    found = sum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True)) / spread
    rest = [v - mean_b - found * (u - mean_a) for u, v in zip(a, b, strict=True)]
    error = sqrt(sum(r * r for r in rest) / (n - 2) / spread) if n > 2 else None
    return found, error


def fits(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Growth exponents of every curve: over all sizes, and over its upper decade."""
    found: list[dict[str, Any]] = []
    for method in METHODS:
        for active in ACTIVE:
            for figure in FIGURES:
                curve = [
                    (line["dim"], value_of(line, figure))
                    for line in lines
                    if (line["method"], line["active"]) == (method, active)
                ]
                known = [(dim, value) for dim, value in curve if value]
                found += _ranges(method, active, figure, known)
    return found


def _ranges(
    method: str, active: int, figure: str, known: list[tuple[int, float]]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, share in (("all", 0.0), ("upper decade", 0.0999)):
        chosen = [(d, v) for d, v in known if d >= share * max((d for d, _ in known), default=0)]
        if len(chosen) < 2:
            continue
        exponent, error = slope([d for d, _ in chosen], [v for _, v in chosen])
        ends = {"from": chosen[0][0], "to": chosen[-1][0], "points": len(chosen)}
        told = {"method": method, "active": active, "figure": figure, "range": name}
        numbers = {
            "exponent": round(exponent, 4),
            "error": None if error is None else round(error, 4),
        }
        found.append(told | numbers | ends)
    return found


def targets(lines: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted of SED with the nested head, what came, and whether that is enough."""
    got: list[dict[str, Any]] = []
    for active in ACTIVE:
        mine = [ln for ln in lines if (ln["method"], ln["active"]) == ("sed_nested", active)]
        for figure, words in (("step_ms", "a training step"), ("sample_ms", "a sample")):
            curve = [(ln["dim"], value_of(ln, figure)) for ln in mine if value_of(ln, figure)]
            if len(curve) < 2:
                continue
            (small, low), (large, high) = curve[0], curve[-1]
            ratio = (high or 0) / (low or 1)
            name = f"{words} at {large:,} over {small:,} dimensions, {active} active"
            got.append(_target(name, f"at most {GROWTH}", ratio, ratio <= GROWTH))
            fit_of = ("sed_nested", active, figure, "all")
            exponent = next(
                f["exponent"]
                for f in found
                if (f["method"], f["active"], f["figure"], f["range"]) == fit_of
            )
            name = f"growth exponent of {words}, {active} active"
            got.append(_target(name, f"below {NEAR_FLAT}", exponent, exponent < NEAR_FLAT))
    return got


def _target(name: str, wanted: str, got: float, met: bool) -> dict[str, Any]:
    return {"name": name, "wanted": wanted, "got": round(got, 4), "met": met}


# -- report ----------------------------------------------------------------------------------------


def report(*, quick: bool, show: Callable[[str], None], dims: Sequence[int]) -> dict[str, Any]:
    """Everything that `scaling.json` holds."""
    started, lines = time.perf_counter(), list[dict[str, Any]]()
    for active in (50,) if quick else ACTIVE:
        for dim in dims:
            for method in METHODS:
                show(f"{METHODS[method]}, {active} of {dim:,}")
                if dim >= active:
                    lines.append(run(Case(method, active, dim, quick)))
    found = fits(lines)
    setting = {
        "date": date.today().isoformat(),
        **machine(nn.Linear(1, 1)),
        "threads": torch.get_num_threads(),
        "seed": 0,
        "batch": BATCH,
        "steps": STEPS,
        "memory_bound_gib": TRAINING_BOUND,
        "sampling_bound_gib": SAMPLING_BOUND,
        "draft": "none",
        "index_head": HEADS,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return {
        "format": "sed-scaling",
        "version": 1,
        "setting": setting,
        "methods": [{"key": key, "name": name} for key, name in METHODS.items()],
        "runs": lines,
        "fits": found,
        "targets": targets(lines, found),
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """The report for a reader."""
    s = found["setting"]
    runs = Table(title=f"batch {s['batch']}, {s['steps']} DDIM steps, {s['device']}")
    for name in ("active", "dimensions", "method", "parameters", "ms a step", "ms a sample", "MiB"):
        runs.add_column(name, justify="right")
    runs.add_column("not run")
    for line in found["runs"]:
        step, sample, peak = (value_of(line, figure) for figure in FIGURES)
        told = [str(line["active"]), f"{line['dim']:,}", METHODS[line["method"]]]
        numbers = [_say(step), _say(sample), "" if peak is None else f"{peak / 2**20:.0f}"]
        runs.add_row(*told, f"{line['parameters'] / 1e6:.1f} M", *numbers, line["not_run"] or "")
    grown = Table(title="growth exponents (log-log slope, standard error)")
    for name in ("method", "active", "figure", "range", "exponent", "from", "to"):
        grown.add_column(name, justify="right")
    for f in found["fits"]:
        error = "" if f["error"] is None else f" ± {f['error']:.3f}"
        told = [METHODS[f["method"]], str(f["active"]), f["figure"], f["range"]]
        grown.add_row(*told, f"{f['exponent']:.3f}{error}", f"{f['from']:,}", f"{f['to']:,}")
    met = Table(title="targets")
    for name in ("name", "wanted", "got", "met"):
        met.add_column(name)
    for t in found["targets"]:
        met.add_row(t["name"], t["wanted"], f"{t['got']:.3g}", "yes" if t["met"] else "no")
    return [runs, grown, met]


def _say(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main(
    quick: Annotated[bool, typer.Option(help="Up to 10,000 dimensions, few repeats.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="Cells in two panels of genes.")] = False,
    most: Annotated[int, typer.Option(help="Largest number of dimensions.")] = DIMS[-1],
    threads: Annotated[int, typer.Option(help="Of torch; 0 for its own choice.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where the figures are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Measure how SED, DDPM and LDM grow with always-zero dimensions."""
    if threads:
        torch.set_num_threads(threads)
    dims = [dim for dim in (QUICK_DIMS if quick else DIMS) if dim <= most]
    console = Console(stderr=True)
    with console.status("scaling") as status:
        if cells:
            found = panels.report(repeats=3 if quick else 5, quick=quick)
        else:
            found = report(quick=quick, show=status.update, dims=dims)
    file = out or (OF_CELLS if cells else RESULTS)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        print(json.dumps(found))
        return
    for table in (panels.tables if cells else tables)(found):
        Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
