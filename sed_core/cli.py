"""The command line: sed-core train, sample, evaluate, models, doctor.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a fault
told in one sentence, 2 a command that is not understood, 130 stopped by Ctrl-C.
"""

import json
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from sed_core import __version__

if TYPE_CHECKING:
    from torch import Generator as TorchGenerator
    from torch import nn

    from sed_core.sparse import SparseBatch

ROWS = 256  # samples drawn at once

app = typer.Typer(
    name="sed-core",
    help="Train, sample and measure sparse diffusion models.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out, err = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True)

Checkpoint = Annotated[str, typer.Argument(help="Shipped name, folder, or owner/name[@revision].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Network = Annotated[bool, typer.Option("--network", help="Allow downloads.")]
Seed = Annotated[int, typer.Option(help="Where chance starts; the same seed, the same result.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Steps = Annotated[int, typer.Option(help="Network evaluations of the sampler.")]


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
    name: Annotated[str, typer.Argument(help="Recipe, such as sed-mnist.")],
    budget: Annotated[Literal["cpu", "gpu"], typer.Option(help="How much time there is.")] = "cpu",
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the run is kept; runs/NAME if left out.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a model; killed at any moment, the same command goes on where it stopped."""
    from sed_core import recipes

    folder = folder or Path("runs") / name
    started, last = time.monotonic(), None
    with _bar() as show:
        for last in recipes.train(name, budget=budget, out=folder, seed=seed, device=device):
            parts = " ".join(f"{key} {float(part):.4g}" for key, part in last.parts.items())
            left = f"{_clock(last.seconds_left)} left"
            show(
                getattr(last, "stage", "train"),
                last.step / last.steps,
                f"{last.step}/{last.steps} {left}  {parts}",
            )
    seconds = round(time.monotonic() - started, 1)
    losses = {key: float(part) for key, part in last.parts.items()} if last else {}
    result = {"name": name, "out": str(folder / "checkpoint"), "seconds": seconds, "losses": losses}
    _tell(
        result,
        f"{name} is trained and lies in {folder / 'checkpoint'} ({_clock(seconds)})",
        as_json,
    )


# -- sample ----------------------------------------------------------------------------------------


@app.command()
def sample(
    name: Checkpoint,
    n: Annotated[int, typer.Option("-n", "--samples", help="How many samples.")] = 1,
    label: Annotated[int | None, typer.Option(help="Class; any if left out.")] = None,
    guidance: Annotated[
        float, typer.Option(help="0 unconditional, 1 conditional, more: amplified.")
    ] = 1.0,
    steps: Steps = 50,
    eta: Annotated[float, typer.Option(help="Noise of a DDIM step, 0 to 1.")] = 0.0,
    temperature: Annotated[float, typer.Option(help="Chance of the pairs; 0 for none.")] = 1.0,
    seed: Seed = 0,
    sampler: Annotated[Literal["ddim", "ddpm"], typer.Option(help="Latent sampler.")] = "ddim",
    file: Annotated[
        Path | None, typer.Option("--out", help="File ending in .npz, .csv, .json or .png.")
    ] = None,
    device: Device = "auto",
    network: Network = False,
    as_json: AsJson = False,
) -> None:
    """Draw samples; sample k of a seed is the same however many are drawn."""
    from sed_core import chance, files, hub, limits

    limits.LAPTOP.check(
        rows=n, steps=steps, guidance=guidance, eta=eta, temperature=temperature, seed=seed
    )
    if file is not None:
        files.check(file)
    source = hub.resolve(name, allow_network=network)
    model = _sampler(hub.load(name, device=device, allow_network=network), name)
    asked = {"steps": steps, "sampler": sampler, "eta": eta, "label": label, "guidance": guidance}
    own = {"temperature": temperature} if _is_sed(model) else {}
    if not own and temperature != 1:
        raise ValueError(f"{name} draws no pairs, so it has no temperature; leave it out")
    asked |= own
    started = time.perf_counter()
    with _bar() as show:
        quiet = {"detail": False} if own else {}
        batch = _draw(model, chance.split(chance.seeded(seed), n), asked | quiet, show)
    seconds = time.perf_counter() - started
    recipe = _recipe(source, {"n": n, "seed": seed, **asked})
    if file is not None:
        files.write(file, batch, recipe)
    _tell_samples(batch, recipe, seconds, file, as_json)


def _is_sed(model: "nn.Module") -> bool:
    from sed_core.sed import SED

    return isinstance(model, SED)


def _sampler(model: "nn.Module", name: str) -> Any:
    """A model that makes samples: SED or a dense peer."""
    if not hasattr(model, "stream"):
        raise ValueError(
            f"{name} is a {type(model).__name__}, which makes no samples; see 'sed-core models'"
        )
    return model


def _draw(
    model: Any,
    generators: "list[TorchGenerator]",
    asked: Mapping[str, Any],
    show: Callable[[str, float, str], None],
) -> "SparseBatch":
    """All samples, a bounded number of rows at a time; of a dense one, what is not exactly 0."""
    from sed_core.sparse import SparseBatch

    parts: list[SparseBatch] = []
    for first in range(0, len(generators), ROWS):
        rows = generators[first : first + ROWS]
        step = None
        for step in model.stream(len(rows), generator=rows, **asked):
            part = _share(step.stage, 1 - step.t)
            show("sampling", (first + part * len(rows)) / len(generators), step.stage)
        assert step is not None
        x = step.x.to("cpu")
        parts.append(x if isinstance(x, SparseBatch) else SparseBatch.from_dense(x))
    return SparseBatch.concat(parts)


def _share(stage: str, done: float) -> float:
    """How much of a sample is made; the latent of SED takes about a third of its time."""
    return {"latent": 0.3 * done, "pairs": 0.3 + 0.7 * done}.get(stage, done)


def _recipe(source: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to make the same samples again."""
    from sed_core.hub import WEIGHTS
    from sed_core.store import read_manifest

    return {
        "checkpoint": source.ref,
        "commit": source.commit,
        "weights_sha256": read_manifest(source.folder)[WEIGHTS].sha256,
        **asked,
        "versions": {"sed-core": __version__, "torch": version("torch")},
    }


def _tell_samples(
    batch: "SparseBatch",
    recipe: Mapping[str, Any],
    seconds: float,
    file: Path | None,
    as_json: bool,
) -> None:
    pairs: list[int] = [int(count) for count in batch.nnz]
    where = {"out": str(file)} if file else json.loads(_pairs(batch))
    result: dict[str, Any] = {"recipe": recipe, "seconds": round(seconds, 3), "pairs": pairs}
    said = (
        f"{len(pairs)} samples in {seconds:.1f} s, {sum(pairs) / len(pairs):.0f} pairs each, "
        f"{batch.sparsity:.1%} exact zeros"
    )
    _tell(
        result | where, f"{said}, in {file}" if file else f"{said}; keep them with --out", as_json
    )


def _pairs(batch: "SparseBatch") -> bytes:
    from sed_core.files import pairs_json

    return pairs_json(batch, {})


# -- evaluate --------------------------------------------------------------------------------------


@app.command()
def evaluate(
    name: Checkpoint,
    samples: Annotated[
        int | None,
        typer.Option(help="How many samples to judge; 10,000, or 2,000 each with --against."),
    ] = None,
    seed: Seed = 0,
    guidance: Annotated[float, typer.Option(help="Guidance of the samples.")] = 2.0,
    steps: Steps = 50,
    data: Annotated[
        Literal["mnist", "fashion_mnist", "ecal"] | None, typer.Option(help="Data set.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Checkpoint that judges the samples.")] = None,
    keep: Annotated[
        bool, typer.Option("--save", help="Put the figures into the checkpoint.")
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="Other checkpoints, with commas: one table of all of them.")
    ] = None,
    outs: Annotated[
        list[Path] | None,
        typer.Option("--out", help="With --against: .json, .md or .csv; without an ending, all."),
    ] = None,
    drawn: Annotated[
        Path | None,
        typer.Option("--keep", help="With --against: folder of samples to go on from."),
    ] = None,
    costs: Annotated[
        bool, typer.Option(help="With --against: count and time what a sample costs.")
    ] = True,
    device: Device = "auto",
    network: Network = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on real test data, every figure beside that of real against real."""
    from sed_core import evaluation, hub, limits
    from sed_core.domains import digits

    samples = samples or (10_000 if against is None else 2_000)
    limits.LAPTOP.check(rows=samples, steps=steps, guidance=guidance, seed=seed)
    card = next((card for card in hub.shipped() if card.name == name), None)
    chosen: Any = data or (card.data if card else "mnist")
    model = hub.load(name, device=device, allow_network=network)
    if against is not None or not _evaluated_alone(model, chosen):
        asked = {"samples": samples, "seed": seed, "guidance": guidance, "steps": steps}
        refs = [name, *(ref.strip() for ref in (against or "").split(",") if ref.strip())]
        place = {"device": device, "network": network}
        result = _compare(
            refs, chosen, asked | {"costs": costs}, judge, outs or [], drawn, place, as_json
        )
        if keep:
            _keep_comparison(refs, chosen, result)
        return
    if outs or drawn:
        raise ValueError("--out and --keep belong to a comparison; name its peers with --against")
    test = digits.load(chosen, "test", allow_network=network)
    started = time.monotonic()
    with _bar() as show:
        if isinstance(model, hub.FAMILIES["DigitJudge"]):
            least = evaluation.JUDGE_TARGETS.get(chosen)
            result = evaluation.evaluate_judge(model, test, least=least, seed=seed)  # type: ignore[arg-type]
        else:
            named = judge or (card.judge if card else f"judge-{chosen}")
            result = evaluation.evaluate_digits(
                _sampler(model, name),
                hub.load(named, device=device, allow_network=network),  # type: ignore[arg-type]
                digits.load(chosen, "train", allow_network=network),
                test,
                samples=samples,
                guidance=guidance,
                seed=seed,
                steps=steps,
                progress=lambda share: show("evaluating", share, _left(started, share)),
            )
    if keep:
        _keep(name, chosen, result)
    _tell(result, evaluation.table(result), as_json)


def _compare(
    refs: list[str],
    data: Any,
    asked: Mapping[str, Any],
    judge: str | None,
    outs: list[Path],
    drawn: Path | None,
    place: Mapping[str, Any],
    as_json: bool,
) -> dict[str, Any]:
    """One table of all methods, told and written."""
    from sed_core import comparison

    comparison.files_of(outs)  # refuses a bad ending before any work
    started = time.monotonic()
    with _bar() as show:
        result = comparison.compare(
            refs,
            comparison.aim_at(data, judge=judge, **place),
            plan=comparison.Plan(**asked),
            keep=drawn,
            progress=lambda share, words: show(words, share, _left(started, share)),
            **place,
        )
    comparison.write_table(result, outs)
    _tell(result, comparison.markdown(result), as_json)
    return result


def _evaluated_alone(model: "nn.Module", data: str) -> bool:
    """Whether a model has figures of its own: rebuilt digits, or a judge's right answers."""
    return type(model).__name__ == "DigitJudge" or (_is_sed(model) and data != "ecal")


def _keep_comparison(refs: list[str], data: str, result: Mapping[str, Any]) -> None:
    """Put each checkpoint's rows into its metrics.json, and its card where it has no other."""
    from sed_core import hub, model_card

    for ref in refs:
        folder = _own_folder(ref)
        metrics = hub.figures(folder) | {"comparison": model_card.of_checkpoint(result, ref)}
        title = ref if folder.name == ref else f"{folder.parent.name}"
        alone = "figures" in metrics
        card = (model_card.sed_card if alone else model_card.compared_card)(title, data, metrics)
        hub.revise(folder, metrics=metrics, card=card)


def _own_folder(ref: str) -> Path:
    """The folder of a checkpoint that may be written to."""
    from sed_core import hub

    source = hub.resolve(ref)
    if source.commit:
        raise ValueError(f"{ref} lies in the Hub's cache; copy its folder to keep figures in it")
    return source.folder


def _keep(name: str, data: str, result: Mapping[str, Any]) -> None:
    """Put figures into metrics.json, leave what else stands there, and write the card anew."""
    from sed_core import evaluation, hub, model_card

    folder = _own_folder(name)
    metrics = {**hub.figures(folder), **result}
    judged = "judge_worst" in result["figures"]
    title = folder.name if folder.name != "checkpoint" else f"sed-{data}"
    card = (
        evaluation.judge_card(metrics, data)
        if judged
        else model_card.sed_card(title, data, metrics)
    )
    hub.revise(folder, metrics=metrics, card=card)


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
    _tell({"models": rows}, table, as_json)


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
    _tell(result, table, as_json)
    if faults:
        raise ValueError(f"something is broken: {', '.join(faults)}")


# -- telling ---------------------------------------------------------------------------------------


def _tell(result: Mapping[str, Any], said: str | Table, as_json: bool) -> None:
    """A result for machines or for people."""
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        out.print(said)


@contextmanager
def _bar() -> Generator[Callable[[str, float, str], None]]:
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


def _left(started: float, share: float) -> str:
    """Time left, if the rest goes as the share that is done."""
    return f"{_clock((time.monotonic() - started) * (1 - share) / max(share, 1e-6))} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    main()
