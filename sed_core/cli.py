"""The command line: sed-core train, sample, impute, evaluate, models, doctor.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a fault
told in one sentence, 2 a command that is not understood, 130 stopped by Ctrl-C.
"""

import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from sed_core.commands.cells import told_of_stopping, train_on_file
from sed_core.commands.evaluating import evaluate
from sed_core.commands.sampling import impute, sample
from sed_core.commands.telling import AsJson, Device, Seed, bar, clock, tell

app = typer.Typer(
    name="sed-core",
    help="Train, sample and measure sparse diffusion models.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Run a command; every fault ends as one sentence and an exit code, never as a traceback."""
    try:
        app()
    except Exception as fault:
        if "--debug" in sys.argv:
            raise
        print(f"sed-core: {_sentence(fault)}", file=sys.stderr)
        sys.exit(1)


def _sentence(fault: Exception) -> str:
    """A fault in words: our own as they are, the system's shortened, bugs by name."""
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.strerror}: {fault.filename}" if fault.filename else fault.strerror
    if isinstance(fault, ValueError | FloatingPointError):
        return " ".join(str(fault).split())
    if isinstance(fault, ImportError):
        return f"{fault.name} is not installed; install this package again with its dependencies"
    name = type(fault).__name__
    return (
        f"an internal fault ({name}: {fault}); run it again as 'sed-core --debug ...' and report it"
    )


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Sparse diffusion models."""


# -- train -----------------------------------------------------------------------------------------


@app.command()
def train(
    name: Annotated[
        str, typer.Argument(help="Recipe, such as sed-mnist; with --data: sed or counts.")
    ],
    budget: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="Of a recipe: how much time there is.")
    ] = "cpu",
    data: Annotated[Path | None, typer.Option(help="Cells of your own: an h5ad file.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of obs that tells types.")] = None,
    unknown: Annotated[
        list[str] | None,
        typer.Option(help="Value of the label that means no type, such as unassigned."),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts; X if left out.")] = None,
    genes: Annotated[
        int | None,
        typer.Option(help="So many genes, the most variable; all, or for counts 2,000."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="About how long to train; the family's plan if left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps in all, instead.")] = None,
    hold_out: Annotated[
        float, typer.Option(help="Share of the cells to set aside, in OUT/test.h5ad.")
    ] = 0.0,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the run is kept; runs/NAME if left out.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a model; killed at any moment, the same command goes on where it stopped."""
    if data is None:
        own = {
            "label": label,
            "unknown": unknown,
            "layer": layer,
            "genes": genes,
            "minutes": minutes,
            "steps": steps,
        }
        _refuse_without_data(name, {**own, "hold-out": hold_out or None})
        folder = folder or Path("runs") / name
        moves = recipe_moves(name, budget, folder, seed, device)
    else:
        folder = folder or Path("runs") / f"{name}-{data.stem}"
        moves = train_on_file(
            name, data, label=label, unknown=unknown or (), layer=layer, genes=genes,
            minutes=minutes, steps=steps, hold_out=hold_out, out=folder, seed=seed, device=device,
            command=_typed(),
        )  # fmt: skip
    _train(name, moves, folder, as_json)


def recipe_moves(name: str, budget: Any, out: Path, seed: int, device: str) -> Iterator[Any]:
    """Progress of a recipe of ours."""
    from sed_core import recipes

    yield from recipes.train(name, budget=budget, out=out, seed=seed, device=device)


def _refuse_without_data(name: str, options: Mapping[str, Any]) -> None:
    """Options of cells, and names of their families, mean nothing without a file."""
    given = [f"--{option}" for option, value in options.items() if value is not None]
    if given or name in ("sed", "counts"):
        raise ValueError(
            f"{' and '.join(given) or 'train ' + name} is for cells of your own; name their file "
            "with --data cells.h5ad"
        )


def _typed() -> str:
    """The command as it was typed, for the recipe."""
    return shlex.join(["sed-core", *sys.argv[1:]])


def _train(name: str, moves: Iterator[Any], folder: Path, as_json: bool) -> None:
    """Go through a training, with a bar over it."""
    started, last = time.monotonic(), None
    with bar() as show, told_of_stopping(lambda: "a state is kept every minute, "):
        for last in moves:
            parts = " ".join(f"{key} {float(part):.4g}" for key, part in last.parts.items())
            left = f"{clock(last.seconds_left)} left"
            show(
                getattr(last, "stage", "train"),
                last.step / last.steps,
                f"{last.step}/{last.steps} {left}  {parts}",
            )
    seconds = round(time.monotonic() - started, 1)
    losses = {key: float(part) for key, part in last.parts.items()} if last else {}
    result = {"name": name, "out": str(folder / "checkpoint"), "seconds": seconds, "losses": losses}
    tell(
        result,
        f"{name} is trained and lies in {folder / 'checkpoint'} ({clock(seconds)})",
        as_json,
    )


app.command()(sample)
app.command()(impute)
app.command()(evaluate)

# -- models and doctor -----------------------------------------------------------------------------


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the checkpoints that ship with this clone."""
    from sed_core import hub

    cards = hub.shipped()
    rows = [asdict(card) | {"folder": str(card.folder), "size": card.size} for card in cards]
    table = Table("name", "family", "data", "zeros", "weights", "story", box=None)
    for c in cards:
        size = f"{c.size / 1e6:.1f} MB" if c.size else "missing"
        table.add_row(c.name, c.family, c.data, f"{c.zeros:.0%}", size, c.story)
    tell({"models": rows}, table, as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at versions, device, data and checkpoints; exit code 1 where something is broken."""
    from sed_core import health

    rows = list(health.findings())
    table = Table("what", "found", box=None)
    for what, found, fine in rows:
        table.add_row(what, found if fine else f"FAULT: {found}")
    faults = [what for what, _, fine in rows if not fine]
    result = {"found": {what: found for what, found, _ in rows}, "faults": faults}
    tell(result, table, as_json)
    if faults:
        raise ValueError(f"something is broken: {', '.join(faults)}")


if __name__ == "__main__":
    main()
