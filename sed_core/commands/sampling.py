"""sed-core sample and sed-core impute: a model, options of its family, a file."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sed_core.commands.cells import ENDING, impute_file, is_cells, sample_to_file, share_done
from sed_core.commands.telling import AsJson, Checkpoint, Device, Network, Seed, Steps, bar, tell

if TYPE_CHECKING:
    from torch import Generator as TorchGenerator
    from torch import nn

    from sed_core.sparse import SparseBatch

ROWS = 256  # samples drawn at once
LARGEST_CHUNK = 10_000  # of cells, where more than that would gain nothing

# What each family can be asked for beyond steps, label and guidance, and what it is if left out.
DIFFUSED = {"eta": 0.0, "sampler": "ddim"}
THINNED = {"attrition": "none", "strength": 0.02}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "SED": DIFFUSED | {"temperature": 1.0},
    "LogGaussian": DIFFUSED | {"sampler": "ddpm"},
    "GatedLogGaussian": DIFFUSED | {"sampler": "ddpm"},
    "CountsDiff": THINNED | {"schedule": None, "spacing": "t", "births": "stochastic"},
    "MaskedDiffusion": THINNED,
    "NegativeBinomialVAE": {},
}
COUNTS = (
    "CountsDiff",
    "LogGaussian",
    "GatedLogGaussian",
    "MaskedDiffusion",
    "NegativeBinomialVAE",
)  # their samples are whole numbers

Label = Annotated[
    str | None, typer.Option(help="Class, by number, or of cells by name; any if left out.")
]
Chunk = Annotated[
    int | None, typer.Option(help="Of cells: how many at once, speed against memory.")
]
Guidance = Annotated[float, typer.Option(help="0 unconditional, 1 conditional, more: amplified.")]
Schedule = Annotated[
    str | None,
    typer.Option(help="Survival schedule of CountsDiff; the model's own if left out."),
]
Spacing = Annotated[
    Literal["t", "log_odds"] | None, typer.Option(help="Steps of CountsDiff uniform in what.")
]
Attrition = Annotated[
    Literal["none", "rescaled", "rate", "capped", "max"] | None,
    typer.Option(help="How many units die again in a step of CountsDiff."),
]
Strength = Annotated[float | None, typer.Option(help="Strength of the attrition.")]
Births = Annotated[
    Literal["stochastic", "binomial", "poisson"] | None, typer.Option(help="Law of the births.")
]


def sample(
    name: Checkpoint,
    n: Annotated[int, typer.Option("-n", "--samples", help="How many samples.")] = 1,
    label: Label = None,
    guidance: Guidance = 1.0,
    steps: Steps = 50,
    eta: Annotated[float | None, typer.Option(help="Noise of a DDIM step, 0 to 1.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Chance of SED's pairs; 0 for none.")
    ] = None,
    seed: Seed = 0,
    sampler: Annotated[
        Literal["ddim", "ddpm"] | None, typer.Option(help="Sampler of Gaussian diffusion.")
    ] = None,
    schedule: Schedule = None,
    spacing: Spacing = None,
    attrition: Attrition = None,
    strength: Strength = None,
    births: Births = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="File ending in .npz, .csv, .json or .png; of cells .h5ad."),
    ] = None,
    chunk: Chunk = None,
    device: Device = "auto",
    network: Network = False,
    as_json: AsJson = False,
) -> None:
    """Draw samples; sample k of a seed is the same however many are drawn.

    Cells go to an h5ad chunk by chunk; killed at any moment, the same command goes on.
    """
    from sed_core import chance, files, hub, limits
    from sed_core.cell_model import CellModel, in_steps

    whole = is_cells(file)
    (limits.STREAMED if whole else limits.LAPTOP).check(
        rows=n, steps=steps, guidance=guidance, eta=eta or 0.0, temperature=temperature or 0.0,
        seed=seed,
    )  # fmt: skip
    if file is not None:
        files.check(file, (*files.WRITERS, ENDING))
    _check_chunk(chunk, whole)
    own = {"eta": eta, "temperature": temperature, "sampler": sampler, "schedule": schedule}
    own |= {"spacing": spacing, "attrition": attrition, "strength": strength, "births": births}
    walk = {"steps": steps, "guidance": guidance}
    if whole and file is not None:
        found = CellModel.load(name, device=device, allow_network=network)
        walk |= _of_family(makes_samples(found.model, name), name, own)
        sample_to_file(
            found, file, n, label=label, seed=seed, chunk=chunk, asked=walk, as_json=as_json
        )
        return
    source = hub.resolve(name, allow_network=network)
    model = makes_samples(hub.load(name, device=device, allow_network=network), name)
    asked = {**(walk if in_steps(model) else {}), "label": _number(name, label)}
    asked |= _of_family(model, name, own)
    started = time.perf_counter()
    with bar() as show:
        quiet = {"detail": False} if type(model).__name__ == "SED" else {}
        batch = _draw(model, chance.split(chance.seeded(seed), n), asked | quiet, show)
    seconds = time.perf_counter() - started
    recipe = {**hub.origin(source), "n": n, "seed": seed, **asked}
    largest = _largest(model, batch)
    if file is None:
        where: Mapping[str, Any] = json.loads(files.pairs_json(batch, recipe, largest))
    else:
        files.write(file, batch, recipe, largest=largest)
        where = {"out": str(file)}
    _tell_samples(batch, where, recipe, seconds, as_json)


def impute(
    name: Checkpoint,
    rows: Annotated[
        Path,
        typer.Argument(
            help="Cells as .h5ad, or .npz of `counts` (n, D) and `observed` (n, D), true if known."
        ),
    ],
    file: Annotated[
        Path, typer.Option("--out", help=".h5ad, or .npz of `draws` (draws, n, D) and more.")
    ],
    observed: Annotated[
        str | None, typer.Option(help="Of an h5ad: layer that is not 0 where a count is known.")
    ] = None,
    hide: Annotated[
        float | None, typer.Option(help="Of an h5ad: share of entries to hide at random.")
    ] = None,
    zeros_missing: Annotated[
        bool, typer.Option("--zeros-missing", help="Of an h5ad: every zero is missing.")
    ] = False,
    layer: Annotated[
        str | None, typer.Option(help="Of an h5ad: layer with the counts; X if left out.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Completions of each row.")] = 8,
    method: Annotated[
        Literal["conditional", "replace"], typer.Option(help="replace needs no special training.")
    ] = "conditional",
    label: Label = None,
    guidance: Guidance = 1.0,
    steps: Steps = 50,
    rounds: Annotated[int, typer.Option(help="Of RePaint, with --method replace.")] = 1,
    jump: Annotated[int, typer.Option(help="Steps of a round of RePaint.")] = 10,
    schedule: Schedule = None,
    spacing: Spacing = None,
    attrition: Attrition = None,
    strength: Strength = None,
    births: Births = None,
    chunk: Chunk = None,
    seed: Seed = 0,
    device: Device = "auto",
    network: Network = False,
    as_json: AsJson = False,
) -> None:
    """Draw what is missing in rows of counts, several times; what is known comes back as it is.

    Of an h5ad of cells, X holds what is known and one draw of each gap; layers mean, sd, lower and
    upper (5 % and 95 %) are over all draws. --label may be the label's own column.
    """
    from sed_core import chance, count_files, files, hub, limits
    from sed_core.cell_model import CellModel
    from sed_core.stream import last

    own = {"schedule": schedule, "spacing": spacing, "attrition": attrition, "strength": strength}
    own |= {"births": births}
    walk: dict[str, Any] = {"steps": steps, "guidance": guidance, "method": method}
    walk |= {"rounds": rounds, "jump": jump}
    _check_chunk(chunk, is_cells(rows))
    if is_cells(rows):
        files.check(file, (ENDING,))
        limits.STREAMED.check(rows=draws, steps=steps * rounds, guidance=guidance, seed=seed)
        found = CellModel.load(name, device=device, allow_network=network)
        walk |= _of_family(_imputes(found.model, name), name, own)
        impute_file(
            found, rows, file, layer=layer, observed=observed, hide=hide,
            zeros_missing=zeros_missing, draws=draws, label=label, seed=seed, chunk=chunk,
            asked=walk, as_json=as_json,
        )  # fmt: skip
        return
    if zeros_missing or any(option is not None for option in (observed, hide, layer)):
        raise ValueError("--observed, --hide, --zeros-missing and --layer are for .h5ad files")
    counts, known = count_files.read(rows)
    files.check(file, count_files.ENDINGS)
    limits.LAPTOP.check(
        rows=draws * len(counts), steps=steps * rounds, guidance=guidance, seed=seed
    )
    source = hub.resolve(name, allow_network=network)
    model = _imputes(hub.load(name, device=device, allow_network=network), name)
    asked = {**walk, "label": _number(name, label), **_of_family(model, name, own)}
    generators, started = chance.split(chance.seeded(seed), len(counts)), time.perf_counter()
    parts: list[Any] = []
    with bar() as show:
        for first in range(0, len(counts), max(1, ROWS // draws)):
            part = slice(first, first + max(1, ROWS // draws))
            moves = model.impute_stream(
                counts[part], known[part], draws=draws, generator=generators[part], **asked
            )
            parts.append(last(moves).reshape(draws, -1, counts.shape[1]))
            show("imputing", min(1.0, part.stop / len(counts)), f"{len(counts)} rows")
    seconds = time.perf_counter() - started
    recipe = {**hub.origin(source), "draws": draws, "seed": seed, **asked}
    count_files.write(file, parts, counts, known, recipe)
    missing = int((~known).sum())
    said = f"{missing:,} entries of {len(counts)} rows, {draws} draws, in {seconds:.1f} s"
    result = {"recipe": recipe, "seconds": round(seconds, 3), "missing": missing, "out": str(file)}
    tell(result, f"{said}, in {file}", as_json)


def _of_family(model: "nn.Module", name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Options that this family has, filled up; those of others are refused where asked for."""
    from sed_core.thinning import survival_schedule

    family = type(model).__name__
    has = OPTIONS.get(family, DIFFUSED)
    strange = [key for key, value in asked.items() if value is not None and key not in has]
    if strange:
        raise ValueError(
            f"{name} is a {family}, which has no {' or '.join(strange)}; "
            f"leave {'it' if len(strange) == 1 else 'them'} out"
        )
    found = {key: usual if asked.get(key) is None else asked[key] for key, usual in has.items()}
    if "schedule" in found:
        own: Any = model.config
        found["schedule"] = found["schedule"] or own.schedule
        survival_schedule(found["schedule"])  # refuses what is none
    return found


def _number(name: str, label: str | None) -> int | None:
    """The number of a class; of cells, a name will do."""
    from sed_core import hub

    if label is None:
        return None
    if label.lstrip("-").isdecimal():
        return int(label)
    found = hub.vocabulary(name)
    if found is None:
        raise ValueError(f"{name} has no names of labels, so a label is a number, got {label!r}")
    return found.number(label)


def _check_chunk(chunk: int | None, cells: bool) -> None:
    from sed_core.limits import whole

    if chunk is None:
        return
    whole("--chunk", chunk, 1, LARGEST_CHUNK)
    if not cells:
        raise ValueError("--chunk is for cells that go to an .h5ad file; leave it out")


def _imputes(model: "nn.Module", name: str) -> Any:
    if not hasattr(model, "impute_stream"):
        raise ValueError(f"{name} is a {type(model).__name__}; impute with a CountsDiff")
    return model


def makes_samples(model: "nn.Module", name: str) -> Any:
    """The model, if it makes samples.

    Raises:
        ValueError: for a judge.
    """
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
            show("sampling", (first + share_done(step) * len(rows)) / len(generators), step.stage)
        assert step is not None
        x = step.x.to("cpu")
        parts.append(x if isinstance(x, SparseBatch) else SparseBatch.from_dense(x.float()))
    return SparseBatch.concat(parts)


def _largest(model: Any, batch: "SparseBatch") -> int:
    """The largest count there can be, or is; 0 for a family whose samples are no counts."""
    if type(model).__name__ not in COUNTS:
        return 0
    bound = getattr(getattr(model, "config", None), "largest", 0)
    return bound or max(1, int(batch.value.max().item() if batch.value.numel() else 1))


def _tell_samples(
    batch: "SparseBatch",
    where: Mapping[str, Any],
    recipe: Mapping[str, Any],
    seconds: float,
    as_json: bool,
) -> None:
    pairs: list[int] = [int(count) for count in batch.nnz]
    result: dict[str, Any] = {"recipe": recipe, "seconds": round(seconds, 3), "pairs": pairs}
    said = (
        f"{len(pairs)} samples in {seconds:.1f} s, {sum(pairs) / len(pairs):.0f} pairs each, "
        f"{batch.sparsity:.1%} exact zeros"
    )
    told = f"{said}, in {where['out']}" if "out" in where else f"{said}; keep them with --out"
    tell({**result, **where}, told, as_json)
