"""README's comparison tables: every shipped checkpoint of a data set in one run.

    python -m benchmarks.compare [mnist] [fashion_mnist] [ecal] [--samples 2000]

Writes benchmarks/results/compare-DATA.json, .md and .csv. The same as `sed-core evaluate SED
--against PEERS --out ...`; samples are kept in runs/compare, so an interrupted run goes on there.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from sed_core import comparison, hub

RESULTS = Path(__file__).parent / "results"
DATA = ("mnist", "fashion_mnist", "ecal")


def peers(data: str) -> list[str]:
    """Shipped checkpoints that make samples of this data, SED first."""
    cards = [card for card in hub.shipped() if card.data == data and card.family != "DigitJudge"]
    return [card.name for card in sorted(cards, key=lambda card: card.family != "SED")]


def main(
    data: Annotated[list[str] | None, typer.Argument(help="mnist, fashion_mnist, ecal.")] = None,
    samples: Annotated[int, typer.Option(help="Of each checkpoint.")] = 2000,
    seed: Annotated[int, typer.Option(help="Where chance starts.")] = 0,
    guidance: Annotated[float, typer.Option(help="Of conditional models.")] = 2.0,
    steps: Annotated[int, typer.Option(help="Network evaluations.")] = 50,
    repeats: Annotated[int, typer.Option(help="Timed runs a batch size.")] = 3,
    keep: Annotated[Path, typer.Option(help="Samples drawn before.")] = Path("runs/compare"),
    out: Annotated[Path, typer.Option(help="Folder of the tables.")] = RESULTS,
    threads: Annotated[int, typer.Option(help="Of torch; 0 for its own choice.")] = 0,
) -> None:
    """Compare all shipped checkpoints of each data set."""
    if threads:
        torch.set_num_threads(threads)
    plan = comparison.Plan(
        samples=samples, seed=seed, guidance=guidance, steps=steps, repeats=repeats
    )
    console = Console(stderr=True)
    for name in data or DATA:
        if not (refs := peers(name)):
            console.print(f"{name}: no checkpoint ships for it")
            continue
        chosen: Any = name
        with console.status(name) as status:
            started = time.monotonic()

            def show(share: float, words: str, name: str = name, started: float = started) -> None:
                minutes = (time.monotonic() - started) / 60
                status.update(f"{name}: {words} {share:.0%} after {minutes:.1f} min")

            result = comparison.compare(
                refs, comparison.aim_at(chosen), plan=plan, keep=keep, progress=show
            )
        files = comparison.write_table(result, [out / f"compare-{name}"])
        console.print(f"{name}: {', '.join(str(file) for file in files)}")


if __name__ == "__main__":
    typer.run(main)
