"""A result as files: each carries its recipe. Pure functions: bytes or text out."""

import csv
import io
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import nbformat
import numpy as np
from nbformat import v4
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from explorer import figures, scene
from explorer.kinds import Kind
from explorer.runs import GUESSES, Run, Shown

PACKAGES = ("sparse-diffusion-explorer", "torch", "numpy")
COLUMNS = (
    "order", "index", "row", "column", "value", "probability", "stop_probability", "mean", "sd",
)  # fmt: skip


def recipe(run: Run) -> dict[str, Any]:
    """Everything needed to make the same result again, and how it went here."""
    return {
        "recipe": run.stamp,
        "model": run.params.model,
        "model_sha256": run.sha,
        "parameters": asdict(run.params),
        "forks": [{"at": at, "index": index} for at, index in run.forks],
        "command": run.params.command(),
        "pairs": int(run.sample.nnz[0]),
        "guesses_decoded": min(GUESSES, run.params.steps),
        "seconds": {"latent": round(run.latent_seconds, 3), "pairs": round(run.pairs_seconds, 3)},
        "device": run.device,
        "made": run.made,
        "versions": dict(versions()),
    }


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Names and versions of what computed the result."""
    known = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            known.append((name, version(name)))
        except PackageNotFoundError:
            known.append((name, "source tree"))
    return tuple(known)


def name(run: Run, ending: str) -> str:
    """A file name that says which recipe is inside."""
    return f"sed_{run.params.model}_{run.stamp}.{ending}"


def npz(run: Run) -> bytes:
    """Scipy's sparse format (`scipy.sparse.load_npz` opens it), the recipe beside the matrix."""
    matrix = run.sample.to_csr()
    file = io.BytesIO()
    np.savez_compressed(
        file, format=np.array(b"csr"), shape=np.array(matrix.shape), data=matrix.data,
        indices=matrix.indices, indptr=matrix.indptr, recipe=np.array(json.dumps(recipe(run))),
    )  # fmt: skip
    return file.getvalue()


def pairs_csv(run: Run) -> str:
    """The pairs in order, one a line; the first line is a comment with the recipe."""
    file = io.StringIO()
    file.write(f"# {json.dumps(recipe(run))}\n")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows(safe_cells(line) for line in _lines(run))
    return file.getvalue()


def _lines(run: Run) -> Iterable[list[Any]]:
    width = run.kind.side
    for step in run.pair_steps:
        index = int(step.aux["index"][0])
        if index < run.sample.dim:
            numbers = (float(step.aux[key][0]) for key in ("value", "prob", "stop", "mean", "sd"))
            yield [step.i, index, index // width, index % width, *(f"{n:.7g}" for n in numbers)]


def safe_cells(cells: Iterable[Any]) -> list[str]:
    """Cells that no spreadsheet takes for a formula: text that could start one gets a quote."""
    return [_safe(str(cell)) for cell in cells]


def _safe(cell: str) -> str:
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def png(result: Shown, position: int | None = None) -> bytes:
    """The picture at a position of the time line (None: the end); its text holds the recipe."""
    at = scene.length(result.scene) if position is None else position
    file, about = io.BytesIO(), PngInfo()
    about.add_text("recipe", json.dumps(recipe(result.run)))
    Image.open(io.BytesIO(figures.png(result.scene, at))).save(file, "PNG", pnginfo=about)
    return file.getvalue()


def gif(result: Shown) -> bytes:
    """The whole way as a moving picture; the recipe is its comment."""
    return with_comment(figures.gif(result.scene), json.dumps(recipe(result.run)))


def with_comment(gif: bytes, text: str) -> bytes:
    """A GIF with one more comment block before its end."""
    words = text.encode()
    blocks = [words[k : k + 255] for k in range(0, len(words), 255)]
    comment = b"".join(bytes([len(block)]) + block for block in blocks)
    return gif[:-1] + b"\x21\xfe" + comment + b"\x00\x3b"


def trace_json(run: Run) -> str:
    """The whole trace (`sed_core.stream.Trace.from_json` reads it) with the recipe."""
    return json.dumps({**json.loads(run.trace.to_json()), "recipe": recipe(run)})


def notebook(run: Run) -> str:
    """A notebook that loads the checkpoint and makes the same sample; it runs as it stands."""
    book = v4.new_notebook()
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    book.metadata["sed_recipe"] = recipe(run)
    book.cells = [
        v4.new_markdown_cell(_intro(run)),
        v4.new_code_cell(_load(run)),
        v4.new_code_cell(_sample(run)),
        *([v4.new_code_cell(_forks(run))] if run.forks else []),
        v4.new_code_cell(_look(run)),
    ]
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    nbformat.validate(book)
    return nbformat.writes(book)


def _intro(run: Run) -> str:
    return (
        f"# Sample {run.stamp}\n\n"
        f"Made with Sparse Diffusion Explorer from `{run.params.model}`. Needs the package "
        "`sparse-diffusion-explorer` in this notebook's Python; no network.\n\n"
        f"The same from a shell: `{run.params.command()}`"
    )


def _load(run: Run) -> str:
    return (
        "import torch\n\n"
        "from sed_core import hub\n"
        "from sed_core.chance import seeded, split\n"
        "from sed_core.stream import last\n\n"
        f"model = hub.load({run.params.model!r})"
    )


def _sample(run: Run) -> str:
    p = run.params
    return (
        f"chance = split(seeded({p.seed}), 1)\n"
        "latent = last(model.diffuse(\n"
        f"    1, steps={p.steps}, sampler={p.sampler!r}, eta={p.eta!r}, label={p.label!r},\n"
        f"    guidance={p.guidance!r}, generator=chance,\n"
        "))\n"
        "here = chance[0].get_state()  # where chance stands when the pairs begin\n"
        f"sample = last(model.decode(latent, temperature={p.temperature!r}, generator=chance))"
    )


def _forks(run: Run) -> str:
    return (
        "# Keep the first pairs, choose another place next, and go on with the same noise.\n"
        "from sed_core.sparse import SparseBatch\n\n"
        f"for at, index in {list(run.forks)!r}:\n"
        "    first = SparseBatch(\n"
        "        sample.index[:, :at], sample.value[:, :at], sample.mask[:, :at], sample.dim\n"
        "    )\n"
        "    again = torch.Generator()\n"
        "    again.set_state(here)\n"
        "    sample = last(model.decode(\n"
        f"        latent, temperature={run.params.temperature!r}, prefix=first,\n"
        "        choose=torch.tensor([index]), generator=[again],\n"
        "    ))"
    )


def _levels(kind: Kind) -> str:
    """Code that turns the sample into grey levels."""
    if kind.tone == "linear":
        return "levels = (255 * (1 - sample.to_dense()[0])).round().to(torch.uint8)"
    low, top = kind.low, kind.top
    return (
        f"most = torch.tensor({top / low}).log()\n"
        f"size = (sample.to_dense()[0] / {low}).clamp_min(1).log() / most\n"
        "levels = (255 * (1 - size.clamp_max(1))).round().to(torch.uint8)"
    )


def _look(run: Run) -> str:
    return (
        "from PIL import Image\n\n"
        f'print(f"{{int(sample.nnz[0])}} of {{sample.dim}} {run.kind.cell}s are written, '
        'the others are exactly zero")\n'
        f"expected = {int(run.sample.nnz[0])}  # pairs in the app\n"
        "if int(sample.nnz[0]) != expected:\n"
        '    print(f"The app had {expected}: another checkpoint, or other arithmetic.")\n'
        f"{_levels(run.kind)}\n"
        "side = int(sample.dim**0.5)\n"
        "Image.fromarray(levels.reshape(side, side).numpy()).resize((280, 280), 0)"
    )
