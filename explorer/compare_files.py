"""What is compared, as files: each carries its recipe. Pure functions: bytes or text out."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from explorer import compared, exports
from explorer.compared import CUT, NAMES, Array, Recording
from explorer.drawing import Live
from explorer.figures.picture import picture
from explorer.results import measured_words, result

COLUMNS = ("source", "method", "checkpoint", "seed", "sample", "class", "exact_zeros", "share")


@dataclass(frozen=True, eq=False)
class Compared:
    """What the page shows: chosen recorded samples, a threshold, and what was made here."""

    recording: Recording
    rows: Array
    at: int
    label: int | None  # the class that was asked for
    lives: Mapping[str, Live]

    @property
    def tau(self) -> float:
        """The threshold, in data units."""
        return self.recording.curve["tau"][self.at] if self.recording.about["curve"] else 0.0

    @property
    def stamp(self) -> str:
        """The name of all this: a hash of the samples, the choice and the threshold."""
        about = self.recording.about
        told = [about["sha256"], self.rows.tolist(), self.tau]
        told += [[key, live.recipe, len(live.values)] for key, live in self.lives.items()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]

    def values(self, key: str) -> Array:
        """The recorded samples of a column, after the threshold where it has one."""
        some = self.recording.method(key).values[self.rows]
        return compared.cut(some, self.tau) if key == CUT else some

    def made(self) -> Iterator[tuple[str, Live, Array]]:
        """The samples made here, with those that the threshold cuts."""
        for key, live in self.lives.items():
            half = compared.halved(live.values)
            yield key, live, half
            if key == "ddpm" and CUT in self.recording.columns:
                yield CUT, live, compared.cut(half, self.tau)


def name(found: Compared, ending: str) -> str:
    """A file name that says which comparison is inside."""
    return f"sed_compare_{found.recording.kind.data}_{found.stamp}.{ending}"


def recipe(found: Compared) -> dict[str, Any]:
    """Everything needed to make the same samples again."""
    about = found.recording.about
    keys = ("data", "command", "seed", "samples", "guidance", "steps", "sampler", "made", "device")
    methods = [
        {"key": m.key, "checkpoint": m.checkpoint, "model_sha256": m.sha, "recipe": m.recipe,
         "seed": about["seed"], "seconds": m.seconds}
        for m in found.recording.methods
    ]  # fmt: skip
    live = [
        {"key": key, "recipe": one.recipe, "model_sha256": one.sha, "samples": len(one.values),
         "parameters": asdict(one.params), "command": one.params.command(), "made": one.made,
         "device": one.device, "seconds": round(one.seconds, 3)}
        for key, one in found.lives.items()
    ]  # fmt: skip
    return {
        "recipe": found.stamp, **{key: about[key] for key in keys},
        "samples_sha256": about["sha256"], "shown": len(found.rows),
        "class": found.recording.kind.what(found.label), "threshold": found.tau,
        "rules": about["curve"]["rules"] if about["curve"] else {}, "methods": methods,
        "live": live, "versions": about["versions"],
    }  # fmt: skip


def npz(found: Compared) -> bytes:
    """Samples as they were counted: `<method>` (n, D), `live_<method>`, the recipe beside them."""
    arrays = {key: found.values(key) for key in found.recording.columns}
    arrays |= {f"live_{key}": values for key, _, values in found.made()}
    labels, told = found.recording.labels[found.rows], np.array(json.dumps(recipe(found)))
    file = io.BytesIO()
    np.savez_compressed(file, label=labels, recipe=told, **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def numbers_csv(found: Compared) -> str:
    """Exact zeros of every sample, one a line; the first line is a comment with the recipe."""
    file = io.StringIO()
    file.write(f"# {json.dumps(recipe(found))}\n")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows(exports.safe_cells(line) for line in _lines(found))
    return file.getvalue()


def _lines(found: Compared) -> Iterator[list[Any]]:
    recording, dim = found.recording, found.recording.kind.dim
    labels = [recording.kind.what(int(label)) for label in recording.labels]
    for key in recording.columns:
        counts, checkpoint = (found.values(key) == 0).sum(1), recording.method(key).checkpoint
        for row, zeros in zip(found.rows, counts, strict=True):
            yield ["recorded", NAMES[key], checkpoint, recording.about["seed"], int(row) + 1,
                   labels[row], int(zeros), f"{zeros / dim:.6f}"]  # fmt: skip
    for key, live, values in found.made():
        for row, zeros in enumerate((values == 0).sum(1), 1):
            yield ["live", NAMES[key], live.params.model, live.params.seed, row,
                   recording.kind.what(live.params.label), int(zeros),
                   f"{zeros / dim:.6f}"]  # fmt: skip


def table(found: Compared) -> list[dict[str, str]]:
    """Every column and the data, one line each: zeros and quality."""
    recording, dim = found.recording, found.recording.kind.dim
    real, quality = recording.real, recording.about["quality"]
    lines = []
    for key in recording.columns:
        counts = compared.zeros(recording, key, found.rows, found.tau)
        line = {"method": NAMES[key], "exact zeros": f"{counts.mean() / dim:.1%}",
                "off by": f"{compared.gap(counts, real):.3g} {recording.kind.cell}s"}  # fmt: skip
        values = {q["key"]: compared.quality(recording, key, q["key"], found.at) for q in quality}
        lines.append(line | {q["short"]: compared.said(values[q["key"]], q) for q in quality})
    floor, cell = recording.floor, recording.kind.cell
    line = {"method": f"as many real {recording.kind.things}",
            "exact zeros": f"{floor.mean() / dim:.1%}",
            "off by": f"{compared.gap(floor, real):.3g} {cell}s"}  # fmt: skip
    lines.append(line | {q["short"]: compared.said(q["real"], q) for q in quality})
    return lines


def markdown(lines: Sequence[Mapping[str, str]], words: str = "") -> str:
    """Lines as a Markdown table, and what was done below it."""
    head = list(lines[0])
    rows = [head, ["---"] * len(head), *([line[key] for key in head] for line in lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{words}\n" if words else f"{table}\n"


def report(found: Compared) -> str:
    """What the page shows as Markdown: this comparison, and the whole measured one where it is."""
    about, kind = found.recording.about, found.recording.kind
    told = (
        f"{len(found.rows)} recorded samples of each, seed {about['seed']}, guidance "
        f"{about['guidance']:g}, {about['steps']} steps; threshold {found.tau * kind.scale:.4g} "
        f"{kind.unit}; recipe {found.stamp}. Quality is of all {found.recording.count} samples."
    )
    text = f"# {kind.title}: sparse and dense\n\n{markdown(table(found), told)}"
    if measured := result(f"compare-{kind.data}"):
        n = measured["setting"]["n"]
        text += f"\n## Measured with {n:,} samples\n\n{measured_table(measured)}"
    return text


def measured_table(measured: Mapping[str, Any]) -> str:
    """The table of `sed-core evaluate --against`: every method and figure, with intervals."""
    columns = measured["columns"]
    rows = [measured["test"], measured["real"], *measured["methods"]]
    lines = []
    for row in rows:
        figures = {**row.get("figures", {}), **row.get("costs", {})}
        line = {"method": row["name"]}
        lines.append(line | {c["title"]: _cell(figures.get(c["key"])) for c in columns})
    return markdown(lines, measured_words(measured))


def _cell(figure: Mapping[str, Any] | None) -> str:
    if not figure or figure.get("value") is None:
        return ""
    between = f" ({figure['low']:.4g} to {figure['high']:.4g})" if "low" in figure else ""
    return f"{figure['value']:.4g}{between}"


def recipe_json(found: Compared) -> str:
    """The recipe as JSON text."""
    return json.dumps(recipe(found), indent=1)


def png(found: Compared, sample: int) -> bytes:
    """One sample of every column side by side, as the page draws them."""
    kind, gap, foot = found.recording.kind, 24, 44
    row = min(sample, len(found.rows) - 1)
    images = [(key, found.values(key)[row].astype(np.float32)) for key in found.recording.columns]
    drawn = [picture(values, kind.side, kind.side, kind.top, low=kind.low, tone=kind.tone, zoom=8)
             for _, values in images]  # fmt: skip
    wide, high = drawn[0].size
    sheet = Image.new("RGB", (len(drawn) * (wide + gap) + gap, high + gap + foot), "#ffffff")
    pen = ImageDraw.Draw(sheet)
    for place, ((key, values), image) in enumerate(zip(images, drawn, strict=True)):
        left = gap + place * (wide + gap)
        sheet.paste(image, (left, gap))
        zeros = f"{NAMES[key]}: {int((values == 0).sum())} of {kind.dim} exactly zero"
        pen.text((left, gap + high + 8), zeros, fill="#14171c", font_size=14)
    about, file = PngInfo(), io.BytesIO()
    about.add_text("recipe", json.dumps(recipe(found)))
    sheet.save(file, "PNG", pnginfo=about)
    return file.getvalue()
