"""Scenes: a recorded sample as the compact, versioned data that every player plays.

A scene is a dict of JSON values. Its time line has two parts, as the method has: `latent["n"]`
denoising steps, then the pairs. Bytes are base64 text.

    format, version, id   "sed-scene", 1, a hash of everything below
    title, caption        words
    unit, cell            what a value counts ("grey level"), what an index is ("pixel")
    width, height, dim    the picture
    low, top              values (in `unit`) at the lightest and the darkest colour
    tone                  "log" where the colours between them go by equal ratios, else "linear"
    start                 the position at which the latent is ready and no pair is placed yet
    latent                {"n": L, "guess": L x dim colour rows (bytes) or null,
                           "filled": non-zero pixels of each guess or null}
    map                   null, or the training latents in two dimensions and the way through them,
                          all as unsigned 16-bit pairs in a common box: {"cloud", "label" (bytes),
                          "classes": names, "path": [[x, y]] x L, "guess": the same}
    pairs                 {"index", "value", "shade", "p", "mean", "sd"}: one entry a pair; value,
                          mean, sd in `unit`; shade a row of the colour table
    next                  the law of each choice: entry k belongs to k pairs on the canvas, the last
                          is the one that chose "stop". {"stop": [p], "top": [[[index, p] x 5]],
                          "start": [first index], "law": bytes}; law is 255 sqrt(p) from `start` on
    fork                  null, or {"at": k, "index": j}: pairs after the k-th are another
                          continuation, made to begin with dimension j
    seconds, recipe       passed on as they came, or null
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.figures.colours import Tone, shade
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, Trace

FORMAT = "sed-scene"
VERSION = 1
CLOUD = 3000  # training latents on the map: enough to see the classes, few enough to send
NEEDED = ("index", "value", "prob", "stop", "top_index", "top_prob", "mean", "sd", "next")
MAP_NEEDED = ("xy", "label", "project", "origin")

Array = NDArray[Any]
Fork = Mapping[str, int]


def scene(
    trace: Trace[Any],
    *,
    width: int,
    height: int,
    guesses: SparseBatch | Any = None,
    cloud: Mapping[str, Any] | None = None,
    title: str = "",
    caption: str = "",
    unit: str = "grey level",
    cell: str = "pixel",
    scale: float = 255.0,
    low: float | None = None,
    top: float | None = 1.0,
    tone: Tone = "linear",
    fork: Fork | None = None,
    seconds: Mapping[str, float] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a player needs to replay one sample, as JSON values (see the module's head).

    Args:
        trace: one sample, recorded with `detail=True`.
        guesses: what the guess of each latent step would decode to (data units), one row a step.
        cloud: `xy`, `label`, `project`, `origin` of the training latents, as a checkpoint's
            `latents.safetensors` holds them; `classes` may name the labels.
        scale: data units times this are in `unit`.
        low: the data value at the lightest colour; None takes a fitting one.
        top: the data value at the darkest colour; None takes the largest there is.
        fork: pairs kept and the index chosen instead, where the trace is such a continuation.
    """
    latent = [step for step in trace.steps if step.stage == "latent"]
    decoded = [step for step in trace.steps if step.stage == "pairs"]
    dim = _check(latent, decoded, width * height)
    chosen = [step for step in decoded if 0 <= _number(step, "index") < dim]
    values = np.array([_number(step, "value") for step in chosen])
    dense = None if guesses is None else _dense(guesses, len(latent), dim)
    low, top = _range(values, dense, low, top, tone)
    data = {
        "title": title, "caption": caption, "unit": unit, "cell": cell,
        "width": width, "height": height, "dim": dim,
        "low": _round(low * scale), "top": _round(top * scale), "tone": tone,
        "start": len(latent) + 1 if latent else 0,  # each end of the latent part is a position
        "latent": _latent(len(latent), dense, low, top, tone),
        "map": _map(latent, cloud) if cloud is not None and latent else None,
        "pairs": _pairs(chosen, scale) | {
            "shade": shade(values, low=low, top=top, tone=tone).tolist()
        },
        "next": _next(decoded, dim),
        "fork": None if fork is None else {"at": int(fork["at"]), "index": int(fork["index"])},
        "seconds": None if seconds is None else dict(seconds),
        "recipe": None if recipe is None else dict(recipe),
    }  # fmt: skip
    text = json.dumps(data, sort_keys=True, default=str)
    name = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return {"format": FORMAT, "version": VERSION, "id": name, **data}


def join(trace: Trace[Any], at: int, continuation: Trace[Any]) -> Trace[Any]:
    """A forked sample as one trace: `trace` up to its first `at` pairs, then the continuation."""
    latent = [step for step in trace.steps if step.stage == "latent"]
    pairs = [step for step in trace.steps if step.stage == "pairs"]
    if not 0 <= at <= len(pairs):
        raise ValueError(f"the trace has {len(pairs)} decoding steps; cannot keep {at} of them")
    return Trace((*latent, *pairs[:at], *continuation.steps))


def length(scene: Mapping[str, Any]) -> int:
    """The last position of the time line."""
    return scene["start"] + len(scene["pairs"]["index"])


def place(scene: Mapping[str, Any], position: int) -> tuple[str, int]:
    """Stage and step at a position of the time line (the player's state value `step`)."""
    if position < scene["start"]:
        return "latent", max(0, position)
    return "pairs", min(position - scene["start"], len(scene["pairs"]["index"]))


# -- the parts of a scene -----------------------------------------------------------------------


def _pairs(chosen: Sequence[Step[Any]], scale: float) -> dict[str, list[Any]]:
    def column(name: str, factor: float = 1.0) -> list[float]:
        return [_round(_number(step, name) * factor) for step in chosen]

    return {
        "index": [int(_number(step, "index")) for step in chosen],
        "value": column("value", scale),
        "p": column("prob"),
        "mean": column("mean", scale),
        "sd": column("sd", scale),
    }


def _next(decoded: Sequence[Step[Any]], dim: int) -> dict[str, Any]:
    laws = [_numbers(step, "next")[:dim] for step in decoded]
    starts = [int((law > 0).argmax()) if (law > 0).any() else dim for law in laws]
    tails = [np.rint(255 * np.sqrt(law[start:])) for law, start in zip(laws, starts, strict=True)]
    return {
        "stop": [_round(_number(step, "stop")) for step in decoded],
        "top": [_top(step) for step in decoded],
        "start": starts,
        "law": _bytes(np.concatenate(tails), np.uint8),
    }


def _top(step: Step[Any]) -> list[list[float]]:
    """The most probable dimensions, best first, without those that can't be."""
    index, prob = _numbers(step, "top_index"), _numbers(step, "top_prob")
    return [[int(i), _round(p)] for i, p in zip(index, prob, strict=True) if p > 0]


def _latent(steps: int, dense: Array | None, low: float, top: float, tone: Tone) -> dict[str, Any]:
    if dense is None:
        return {"n": steps, "guess": None, "filled": None}
    rows = shade(dense, low=low, top=top, tone=tone)
    return {
        "n": steps,
        "guess": _bytes(rows, np.uint8),
        "filled": (dense != 0).sum(1).tolist(),
    }


def _map(latent: Sequence[Step[Any]], cloud: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in MAP_NEEDED if name not in cloud]
    if missing:
        raise ValueError(f"a map needs {', '.join(MAP_NEEDED)}; {', '.join(missing)} not given")
    project, origin = _numpy(cloud["project"]), _numpy(cloud["origin"])
    path = np.stack([_numpy(step.x)[0] @ project + origin for step in latent])
    guess = np.stack([_numpy(_guess_of(step))[0] @ project + origin for step in latent])
    xy, label = _thin(_numpy(cloud["xy"]), _numpy(cloud["label"]))
    everything = np.concatenate([xy, path, guess])
    least, most = everything.min(0), everything.max(0)

    def boxed(points: Array) -> Array:
        return np.rint(65535 * (points - least) / np.maximum(most - least, 1e-9))

    names = cloud.get("classes") or range(int(label.max(initial=0)) + 1)
    return {
        "cloud": _bytes(boxed(xy), "<u2"),
        "label": _bytes(label, np.uint8),
        "classes": [str(name) for name in names],
        "path": boxed(path).astype(int).tolist(),
        "guess": boxed(guess).astype(int).tolist(),
    }


def _guess_of(step: Step[Any]) -> Any:
    return step.x if step.x0 is None else step.x0


def _thin(xy: Array, label: Array) -> tuple[Array, Array]:
    """At most CLOUD points, the same ones every time, whatever order they came in."""
    kept = np.random.default_rng(0).permutation(len(xy))[:CLOUD]
    return xy[kept], label[kept]


# -- checks and small change --------------------------------------------------------------------


def _check(latent: Sequence[Step[Any]], decoded: Sequence[Step[Any]], cells: int) -> int:
    if not decoded:
        raise ValueError("a scene needs decoding steps, got a trace without any")
    rows = {len(step.x) for step in (*latent, *decoded)}
    if rows != {1}:
        raise ValueError(f"a scene shows one sample, got a trace of {max(rows)}; record one row")
    missing = [name for name in NEEDED if name not in decoded[0].aux]
    if missing:
        raise ValueError(
            f"a scene needs the details of each pair, got steps without {', '.join(missing)}; "
            "record the stream with detail=True"
        )
    dim = decoded[0].x.dim
    if cells != dim:
        raise ValueError(f"width x height must be the dimension {dim}, got {cells}")
    return dim


def _dense(guesses: Any, steps: int, dim: int) -> Array:
    dense = _numpy(guesses.to_dense() if isinstance(guesses, SparseBatch) else guesses)
    dense = dense.reshape(len(dense), -1)
    if dense.shape != (steps, dim):
        raise ValueError(
            f"guesses must be one row of {dim} values for each of {steps} latent steps, "
            f"got {dense.shape}"
        )
    return dense


def _range(
    values: Array, dense: Array | None, low: float | None, top: float | None, tone: Tone
) -> tuple[float, float]:
    """The values at the lightest and the darkest colour."""
    shown = np.concatenate([values, [] if dense is None else dense[dense != 0]])
    most = float(top if top is not None else shown.max(initial=1e-9))
    least = float(shown.min(initial=most)) if tone == "log" else most / 255
    return least if low is None else low, most


def _numpy(part: Any) -> Array:
    array = part.detach().cpu().numpy() if hasattr(part, "detach") else np.asarray(part)
    return array.astype(np.float64)


def _numbers(step: Step[Any], name: str) -> Array:
    return _numpy(step.aux[name])[0]


def _number(step: Step[Any], name: str) -> float:
    return float(_numbers(step, name))


def _round(number: float) -> float:
    """Five digits that count: what a reader sees, no more to send."""
    return float(f"{number:.5g}")


def _bytes(array: Array, dtype: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()
