"""What sampling counts costs: the network call, and everything else of a step.

    python -m benchmarks.counts [--dim 2000] [--rows 64] [--steps 50] [--repeats 5] [--threads 1]

A model of random weights is sampled as it stands, its call of the network is timed inside the same
run, and what is left is the rest: draws, births, guards, the stream. Of several repeats the one
with the least total counts, for each case; the machine does other things, too.

Writes benchmarks/results/counts.json.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sed_core.chance import seeded
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.evaluation import machine
from sed_core.keep import built
from sed_core.stages import Run

RESULTS = Path(__file__).parent / "results"
WIDTHS = (512, 256)  # of the hidden layers; a narrow network hides less of the rest
BIRTHS = ("stochastic", "poisson", "binomial")
USUAL = "stochastic"  # the sampler's default
MEAN = 0.5  # of the counts that are made: most are 0, as in cells
LARGEST_REST = 0.25  # target at the first width


@dataclass
class Clock:
    """Seconds spent in the network."""

    network: float = 0.0


@contextmanager
def timed(model: CountsDiff) -> Iterator[Clock]:
    """Time every call of the network inside the block."""
    clock, call = Clock(), model.log_rate

    def log_rate(*inputs: Any) -> Tensor:
        started = time.perf_counter()
        found = call(*inputs)
        clock.network += time.perf_counter() - started
        return found

    model.log_rate = log_rate  # type: ignore[method-assign]
    try:
        yield clock
    finally:
        del model.log_rate


def model_of(dim: int, width: int) -> CountsDiff:
    """Random weights, whose rates are about those of counts of mean MEAN."""
    config = CountsConfig(dim=dim, width=width)
    model = built(lambda: CountsDiff(config), Run(Path(), 0, torch.device("cpu")))
    with torch.no_grad():
        model.network.leave.bias.fill_(torch.tensor(MEAN).expm1().log().item())  # type: ignore
    return model.eval()


def case(
    model: CountsDiff, births: Any, attrition: Any, *, rows: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds a step, and what is not the network's share of them."""
    found: list[tuple[float, float]] = []
    asked = {"steps": steps, "births": births, "attrition": attrition}
    for _ in range(repeats + 1):  # the first one warms up
        with timed(model) as clock:
            started = time.perf_counter()
            x = model.sample(rows, **asked, generator=seeded(0))
            found.append((time.perf_counter() - started, clock.network))
    total, network = min(found[1:])
    return {
        "births": births,
        "attrition": attrition,
        "width": model.config.width,
        "mean_count": round(x.double().mean().item(), 3),
        "step_ms": round(1000 * total / steps, 3),
        "network_ms": round(1000 * network / steps, 3),
        "rest": round(1 - network / total, 4),
        "throughput": round(rows * model.dim * steps / total),
    }


def report(*, dim: int, rows: int, steps: int, repeats: int) -> dict[str, Any]:
    """Everything that counts.json holds."""
    started, cases = time.perf_counter(), list[dict[str, Any]]()
    sizes = {"rows": rows, "steps": steps, "repeats": repeats}
    for width in WIDTHS:
        model = model_of(dim, width)
        cases += [case(model, births, "none", **sizes) for births in BIRTHS]
        cases += [case(model, "stochastic", "rescaled", **sizes)]
    setting = {"dim": dim, **sizes, **machine(model), "threads": torch.get_num_threads()}
    setting["seconds"] = round(time.perf_counter() - started, 1)
    return {"format": "sed-counts-cost", "version": 1, "setting": setting, "cases": cases}


def table(result: dict[str, Any]) -> Table:
    """The cases as they are printed."""
    columns = ("width", "births", "attrition", "step (ms)", "network (ms)", "rest",
               "rows x dimensions x steps / s")  # fmt: skip
    shown = Table(*columns, box=None)
    for one in result["cases"]:
        shown.add_row(
            str(one["width"]), one["births"], one["attrition"], f"{one['step_ms']:.2f}",
            f"{one['network_ms']:.2f}", f"{one['rest']:.1%}", f"{one['throughput'] / 1e6:.1f} M",
        )  # fmt: skip
    return shown


def main(
    dim: Annotated[int, typer.Option(help="Dimensions of a row.")] = 2000,
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 64,
    steps: Annotated[int, typer.Option(help="Network evaluations.")] = 50,
    repeats: Annotated[int, typer.Option(help="Runs of each case.")] = 5,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    result = report(dim=dim, rows=rows, steps=steps, repeats=repeats)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "counts.json").write_text(json.dumps(result, indent=1) + "\n")
    console = Console()
    console.print(table(result))
    told = ", ".join(f"{key} {value}" for key, value in result["setting"].items())
    console.print(f"Measured with: {told}.")
    usual = next(one for one in result["cases"] if one["width"] == WIDTHS[0]
                 and one["births"] == USUAL and one["attrition"] == "none")  # fmt: skip
    met = "met" if usual["rest"] <= LARGEST_REST else "missed"
    console.print(
        f"Everything but the network takes {usual['rest']:.1%} of a step at width {WIDTHS[0]} "
        f"with the default births; wanted at most {LARGEST_REST:.0%}: {met}."
    )


if __name__ == "__main__":
    typer.run(main)
