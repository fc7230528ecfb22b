"""Results of the page Counts as files, and back: each carries its recipe. Pure functions."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load, save
from torch import Tensor

from explorer import exports
from explorer.count_bench import METHODS, Measured
from explorer.count_fill import Filled, Truth
from explorer.count_params import Params
from explorer.count_runs import SIDE, Watched
from explorer.count_runs import names as dimension_names
from explorer.figures import counts as figures
from explorer.figures.counts import Tile
from sed_core.count_files import imputed_npz
from sed_core.stream import Step, Trace

Result = Watched | Measured | Filled


def recipe(found: Result) -> dict[str, Any]:
    """Everything needed to make the same result again, and how it went here."""
    params = found.params
    seconds = found.seconds
    told = {
        "recipe": found.stamp, "model": params.model, "model_sha256": found.sha,
        "parameters": params.said(), "command": command(found),
        "seconds": dict(seconds) if isinstance(seconds, Mapping) else seconds,
        "device": found.device, "made": found.made, "versions": dict(exports.versions()),
    }  # fmt: skip
    if isinstance(found, Measured):
        told["models_sha256"], told["trained"] = dict(found.shas), found.trained
        told["figures"] = {key: dict(some) for key, some in found.figures.items()}
    if isinstance(found, Filled):
        told["truth"] = {"words": found.truth.words, "label": found.truth.label,
                         "key": list(found.truth.key)}  # fmt: skip
    return told


def command(found: Result) -> str:
    """The same result from the command line; models that were trained here first."""
    own = found.trained if isinstance(found, Measured) else ""
    if not own:
        return found.params.command()
    lines = found.params.command().splitlines()
    again = lines[0].replace("counts-toy", "runs/counts-toy/checkpoint", 1)
    again = again.replace("counts-toy.npz", "trained-here.npz")
    return "\n".join([own, again, *lines])


def name(found: Result, ending: str) -> str:
    """A file name that says which recipe is inside."""
    return f"counts_{found.params.view}_{found.stamp}.{ending}"


# -- numbers ---------------------------------------------------------------------------------------

CONTENTS = {
    "watch": "counts (1, D); dying: the states of the row that dies, from t = 0 on, at times, of "
    "which the share alive lives; born: the states on the way to counts, with births, deaths and "
    "rate of each step",
    "bench": "one array (n, 10) a method; exact: draws of the exact law",
    "fill": "draws (M, 1, 784), their mean and sd; counts: the truth; observed: which pixels were "
    "seen. The command takes this file as its rows.npz",
}


def npz(found: Result) -> bytes:
    """Whole numbers as int64 (`CONTENTS` says which), the recipe beside them."""
    if isinstance(found, Filled):
        truth, observed = found.truth.counts[None], found.observed[None]
        return imputed_npz(found.draws[:, None], truth, observed, recipe(found))
    file, told = io.BytesIO(), np.array(json.dumps(recipe(found)))
    arrays = {key: part.numpy() for key, part in _arrays(found).items()}
    np.savez_compressed(file, recipe=told, **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def _arrays(found: Watched | Measured) -> Mapping[str, Tensor]:
    if isinstance(found, Measured):
        return found.samples
    steps = found.births.steps
    aux = {key: torch.cat([step.aux[key] for step in steps]) for key in ("births", "deaths")}
    return {
        "counts": found.counts, "dying": found.deaths, "born": torch.cat([s.x for s in steps]),
        **aux, "rate": torch.cat([step.aux["rate"] for step in steps]).float(),
        "times": torch.tensor(found.times, dtype=torch.float64),
        "alive": torch.tensor(found.alive, dtype=torch.float64),
        "t": torch.tensor([step.t for step in steps], dtype=torch.float64),
    }  # fmt: skip


# -- recordings ------------------------------------------------------------------------------------


def tape(found: Result) -> bytes:
    """A result as it is recorded: safetensors, whole numbers in as few bytes as hold them."""
    parts = (
        {"draws": found.draws, "counts": found.truth.counts, "observed": found.observed}
        if isinstance(found, Filled) else _arrays(found)
    )  # fmt: skip
    told = torch.frombuffer(bytearray(json.dumps(recipe(found)).encode()), dtype=torch.uint8)
    return save({"recipe": told, **{key: _small(part) for key, part in parts.items()}})


def _small(part: Tensor) -> Tensor:
    if part.dtype != torch.int64:
        return part.contiguous()
    return part.to(torch.uint8 if int(part.max()) < 256 else torch.int32).contiguous()


def read(data: bytes) -> Result:
    """The result that `tape` recorded; of filling in, only the end of the way."""
    arrays = load(data)
    told = json.loads(bytes(arrays.pop("recipe").tolist()))
    whole = {key: part.long() for key, part in arrays.items()
             if part.dtype in (torch.uint8, torch.int32)}  # fmt: skip
    return _result(told, arrays | whole)


def _result(told: dict[str, Any], arrays: Mapping[str, Tensor]) -> Result:
    params = Params(**told["parameters"])
    end = (told["made"], told["device"])
    if params.view == "bench":
        return Measured(params, told["models_sha256"], arrays, told["figures"], told["seconds"],
                        *end, told["trained"])  # fmt: skip
    if params.view == "fill":
        about = told["truth"]
        truth = Truth(arrays["counts"], about["label"], about["words"], tuple(about["key"]))
        states = arrays["draws"].to(torch.uint8)[None]
        return Filled(params, told["model_sha256"], truth, arrays["observed"], (0.0,), states,
                      told["seconds"], *end)  # fmt: skip
    return Watched(params, told["model_sha256"], tuple(arrays["times"].tolist()),
                   tuple(arrays["alive"].tolist()), arrays["dying"], _births(arrays),
                   told["seconds"], *end)  # fmt: skip


def _births(arrays: Mapping[str, Tensor]) -> Trace[Tensor]:
    n = len(arrays["born"])
    before = torch.cat([torch.zeros_like(arrays["born"][:1]), arrays["born"][:-1]])
    return Trace(
        tuple(
            Step(
                "counts", k + 1, n, arrays["t"][k].item(), arrays["born"][k : k + 1],
                before[k : k + 1] + arrays["rate"][k : k + 1],
                {key: arrays[key][k : k + 1] for key in ("births", "deaths", "rate")},
            )
            for k in range(n)
        )
    )  # fmt: skip


# -- lists -----------------------------------------------------------------------------------------


def table(found: Result) -> str:
    """CSV, one count a line; the first line is a comment with the recipe."""
    file = io.StringIO()
    file.write(f"# {json.dumps(recipe(found))}\n")
    lines = csv.writer(file, lineterminator="\n")
    head, rows = _lines(found)
    lines.writerow(head)
    lines.writerows(rows)
    return file.getvalue()


def _lines(found: Result) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    if isinstance(found, Watched):
        return ("row", "dimension", "count"), _long(found.counts)
    if isinstance(found, Measured):
        sets = ([key, *line] for key, some in found.samples.items() for line in _long(some))
        return ("method", "row", "dimension", "count"), sets
    seen = found.observed.int().tolist()
    draws = ([*line, seen[line[1]]] for line in _long(found.draws))
    return ("draw", "pixel", "count", "seen"), draws


def _long(rows: Tensor) -> Iterator[list[int]]:
    for number, row in enumerate(rows.tolist()):
        for place, count in enumerate(row):
            yield [number, place, count]


def trace_json(found: Watched | Filled) -> str:
    """All steps (`sed_core.stream.Trace.from_json` reads them) with the recipe."""
    if isinstance(found, Watched):
        trace, more = found.births, {"dying": found.deaths.tolist(), "times": list(found.times)}
    else:
        n = len(found.states)
        steps = (Step("counts", k + 1, n, found.times[k], found.states[k]) for k in range(n))
        trace, more = Trace(tuple(steps)), {"observed": found.observed.int().tolist()}
    return json.dumps({**json.loads(trace.to_json()), **more, "recipe": recipe(found)})


# -- pictures --------------------------------------------------------------------------------------


def png(found: Watched | Filled) -> bytes:
    """What came out, as a picture; its text holds the recipe."""
    image = picture(found) if isinstance(found, Watched) else figures.sheet(tiles(found, zoom=6))
    about, file = PngInfo(), io.BytesIO()
    about.add_text("recipe", json.dumps(recipe(found)))
    image.save(file, "PNG", pnginfo=about)
    return file.getvalue()


def picture(found: Watched) -> Image.Image:
    """What was born."""
    if found.counts.shape[1] == SIDE**2:
        return figures.digit(found.counts, zoom=12)
    most = int(found.counts.max())
    return figures.bars(found.counts, dimension_names(), most=most)


def tiles(found: Filled, zoom: int = 5) -> list[Tile]:
    """Truth, what the model saw, mean, sd, and every draw, with the lines that say so."""
    told, observed = found.summary, found.observed
    first = [
        Tile("Truth", figures.digit(found.truth.counts, zoom)),
        Tile("What the model saw", figures.erased(found.truth.counts, observed, zoom)),
        Tile("Mean of the draws", figures.digit(told.mean, zoom)),
        Tile(f"sd, up to {told.sd.max().item():.0f}", figures.deviation(told.sd, zoom)),
    ]
    draws = (figures.digit(draw, zoom) for draw in found.draws)
    return first + [Tile(f"Draw {k}", image) for k, image in enumerate(draws, start=1)]


def gif(found: Watched | Filled) -> bytes:
    """The whole way as a moving picture; the recipe is its comment."""
    if isinstance(found, Watched):
        start = torch.zeros_like(found.counts)
        births = torch.cat([start, *(step.x for step in found.births.steps)])
        made = figures.gif([found.deaths.numpy()[:, None], births.numpy()[:, None]])
    else:
        made = figures.gif([found.states.numpy()], columns=4, zoom=4)
    return exports.with_comment(made, json.dumps(recipe(found)))


def methods(found: Measured) -> dict[str, str]:
    """Names of the methods that take part, by key."""
    return {key: words for key, words in METHODS.items() if key in found.samples}
