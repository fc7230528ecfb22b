"""What every command shares: its options, its progress on standard error, its result."""

import json
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True)

Checkpoint = Annotated[str, typer.Argument(help="Shipped name, folder, or owner/name[@revision].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Network = Annotated[bool, typer.Option("--network", help="Allow downloads.")]
Seed = Annotated[int, typer.Option(help="Where chance starts; the same seed, the same result.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Steps = Annotated[int, typer.Option(help="Network evaluations of the sampler.")]


def tell(result: Mapping[str, Any], said: str | Table, as_json: bool) -> None:
    """A result for machines or for people."""
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        out.print(said)


@contextmanager
def bar() -> Generator[Callable[[str, float, str], None]]:
    """Show (what, share done, words) on standard error: a bar, or a line each tenth in a log."""
    if not err.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, TextColumn("{task.fields[words]}"), console=err, transient=True
    ) as progress:
        task = progress.add_task("", total=1.0, words="")

        def show(what: str, share: float, words: str) -> None:
            progress.update(task, description=what, completed=share, words=words)

        yield show


def _lines() -> Callable[[str, float, str], None]:
    """Progress for a log: a line whenever another tenth is done."""
    told: set[tuple[str, int]] = set()

    def show(what: str, share: float, words: str) -> None:
        tenth = int(share * 10)
        if (what, tenth) not in told:
            told.add((what, tenth))
            print(f"{what} {share:.0%}  {words}".rstrip(), file=sys.stderr, flush=True)

    return show


def left(started: float, share: float) -> str:
    """Time left, if the rest goes as the share that is done."""
    return f"{clock((time.monotonic() - started) * (1 - share) / max(share, 1e-6))} left"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
