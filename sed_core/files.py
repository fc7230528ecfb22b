"""Samples as files others can open: sparse npz, csv of pairs, json, png; each with its recipe."""

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sed_core.sparse import SparseBatch

Recipe = Mapping[str, Any]


def npz(batch: SparseBatch, recipe: Recipe, largest: int = 0) -> bytes:
    """Scipy's sparse format (`scipy.sparse.load_npz` opens it), the recipe beside the matrix.

    Args:
        largest: the largest count, where values are counts; they are then written as int64.
    """
    matrix = batch.to_csr()
    matrix = matrix.astype(np.int64) if largest else matrix
    arrays: dict[str, Any] = {
        "format": np.array(b"csr"),
        "shape": np.array(matrix.shape),
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "recipe": np.array(json.dumps(recipe)),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def pairs_csv(batch: SparseBatch, recipe: Recipe, largest: int = 0) -> bytes:
    """One (sample, index, value) line a pair; the recipe goes into a file beside it."""
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(("sample", "index", "value"))
    for row in range(len(batch)):
        index, value = batch.pairs(row)
        lines.writerows((row, int(d), f"{float(v):.9g}") for d, v in zip(index, value, strict=True))
    return file.getvalue().encode()


def pairs_json(batch: SparseBatch, recipe: Recipe, largest: int = 0) -> bytes:
    """The recipe and the pairs of each sample."""
    rows = [batch.pairs(row) for row in range(len(batch))]
    samples: list[Any] = [
        {"index": index.tolist(), "value": (value.long() if largest else value).tolist()}
        for index, value in rows
    ]
    return json.dumps({"recipe": dict(recipe), "dim": batch.dim, "samples": samples}).encode()


def png(batch: SparseBatch, recipe: Recipe, largest: int = 0) -> bytes:
    """Square pictures on one sheet: exact zeros white, 1 or the largest count black."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    sheet = Image.fromarray(_sheet(batch, largest or 1))
    text = PngInfo()
    text.add_text("recipe", json.dumps(recipe))
    file = io.BytesIO()
    sheet.resize((sheet.width * 4, sheet.height * 4), Image.Resampling.NEAREST).save(
        file, "PNG", pnginfo=text
    )
    return file.getvalue()


def _sheet(batch: SparseBatch, largest: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All samples side by side, a pixel of grey between them."""
    side, columns = _side(batch.dim), max(1, isqrt(len(batch) - 1) + 1)
    rows = -(-len(batch) // columns)
    sheet = torch.full((rows * (side + 1) + 1, columns * (side + 1) + 1), 200, dtype=torch.uint8)
    grey = (255 * (1 - (batch.to_dense().cpu() / largest).clamp(0, 1))).round().to(torch.uint8)
    for k, picture in enumerate(grey):
        y, x = (place * (side + 1) + 1 for place in divmod(k, columns))
        sheet[y : y + side, x : x + side] = picture.reshape(side, side)
    return sheet.numpy()


def _side(dim: int) -> int:
    if isqrt(dim) ** 2 != dim:
        raise ValueError(f"a png needs square pictures, got {dim} dimensions; use .npz")
    return isqrt(dim)


WRITERS: Mapping[str, Callable[[SparseBatch, Recipe, int], bytes]] = {
    ".npz": npz,
    ".csv": pairs_csv,
    ".json": pairs_json,
    ".png": png,
}


def check(path: Path, endings: Sequence[str] = tuple(WRITERS)) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        ValueError: for another ending than these or a folder that is not there.
    """
    if path.suffix not in endings:
        raise ValueError(f"can write {', '.join(endings)}, got {path.name!r}; change its ending")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r}; make it or name another")


def write(path: Path, batch: SparseBatch, recipe: Recipe, *, largest: int = 0) -> None:
    """Write samples in the format the ending asks for: whole, or not at all.

    Args:
        largest: the largest count, where values are counts and are to be written as such.
    """
    check(path)
    replace_file(path, WRITERS[path.suffix](batch, recipe, largest))
    if path.suffix == ".csv":
        replace_file(
            path.with_name(path.name + ".recipe.json"), json.dumps(recipe, indent=1).encode()
        )


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what stood there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
