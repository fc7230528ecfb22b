"""What a reading process left behind, believed only as far as it was checked here."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from explorer.upload_terms import (
    LABEL_COLUMNS,
    LABEL_NAMES,
    LABEL_TEXT,
    LONGEST,
    MB,
    BadUpload,
    Counts,
    Label,
    UploadLimits,
    damaged,
)

SENTENCE = 300  # characters of a sentence
PART = 1 << 20  # entries checked at once
FILES = {"verdict.json", "names.json", "data.npy", "indices.npy", "indptr.npy", "labels.npy"}


def received(folder: Path, limits: UploadLimits) -> Counts:
    """What a reader left in its folder, believed only as far as it was checked here."""
    try:
        _plain(folder)
        verdict = _json(folder / "verdict.json", MB)
        if not verdict["ok"]:
            raise _refusal(verdict["say"])
        return _counts(folder, verdict, limits)
    except BadUpload:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError):
        raise damaged("what was read from it does not hold together") from None


def _plain(folder: Path) -> None:
    """Raise unless a folder holds the promised files and nothing else."""
    found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(folder)}
    if found.keys() != FILES or not all(stat.S_ISREG(e.st_mode) for e in found.values()):
        raise ValueError("other files than promised")


def _json(file: Path, most: int) -> Any:
    if file.stat().st_size > most:
        raise ValueError("more text than promised")
    return json.loads(file.read_text(encoding="utf-8"))


def _refusal(said: object) -> BadUpload:
    """A reader's sentence, if it is one."""
    if not isinstance(said, str) or not said.isprintable() or not 0 < len(said) <= SENTENCE:
        raise ValueError("no sentence")
    return BadUpload(said)


def _counts(folder: Path, verdict: dict[str, Any], limits: UploadLimits) -> Counts:
    """The matrix and its names, checked; the matrix stays on disk until it is touched."""
    n, g = _within(verdict["shape"][0], limits.cells), _within(verdict["shape"][1], limits.genes)
    nnz, total = _within(verdict["nnz"], limits.nonzeros), _within(verdict["total"], 2**62)
    held = _json(folder / "names.json", 6 * (LONGEST + 2) * (n + g) + 12 * LABEL_TEXT + MB)
    genes, cells = _names(held["genes"], g), _names(held["cells"], n)
    labels = _labels(held["labels"], folder / "labels.npy", n)
    data = _vector(folder / "data.npy", "<i8", nnz)
    indices = _vector(folder / "indices.npy", "<i4", nnz)
    ends = np.array(_vector(folder / "indptr.npy", "<i8", n + 1))
    if ends[0] != 0 or ends[-1] != nnz or (np.diff(ends) < 0).any():
        raise ValueError("row pointers that do not rise")
    if _checked(data, indices, ends, g) != total:
        raise ValueError("another total than promised")
    if nnz < 2**31:
        ends = ends.astype(np.int32)  # what scipy would make of it
    matrix = sparse.csr_matrix((data, indices, ends), shape=(n, g), copy=False)
    matrix.has_canonical_format = True
    return Counts(matrix, genes, cells, total, labels)


def _within(value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError("a number out of range")
    return value


def _names(names: object, count: int) -> tuple[str, ...]:
    """Names of genes or cells."""
    found = _words(names, 1)
    if len(found) != count:
        raise ValueError("another number of names than promised")
    return found


def _words(words: object, least: int) -> tuple[str, ...]:
    """Different words of at least so many characters."""
    if not isinstance(words, list):
        raise ValueError("no list of words")
    fine = all(type(x) is str and least <= len(x) <= LONGEST and x.isprintable() for x in words)
    if not fine or len(set(words)) != len(words):
        raise ValueError("words that are none")
    return tuple(words)


def _labels(held: object, file: Path, n: int) -> dict[str, Label]:
    """The labels of n cells."""
    if not isinstance(held, dict):
        raise ValueError("no labels")
    names = {name: _words(words, 0) for name, words in held.items()}
    _words([*names], 1)
    text = sum(len(name) + sum(map(len, words)) for name, words in names.items())
    if len(names) > LABEL_COLUMNS or text > LABEL_TEXT:
        raise ValueError("more labels than promised")
    codes = _vector(file, "<i2", len(names) * n).reshape(len(names), n)
    for words, column in zip(names.values(), codes, strict=True):
        if not 1 <= len(words) <= LABEL_NAMES or column.min() < -1 or column.max() >= len(words):
            raise ValueError("labels out of range")
    return {name: Label(names[name], column) for name, column in zip(names, codes, strict=True)}


def _vector(file: Path, kind: str, length: int) -> np.memmap[Any, Any]:
    """A vector of a .npy file, mapped and private: changes to it stay in memory."""
    held = np.load(file, mmap_mode="c", allow_pickle=False)
    if not isinstance(held, np.memmap) or held.dtype != kind or held.shape != (length,):
        raise ValueError("another array than promised")
    return held


def _checked(data: np.memmap[Any, Any], indices: np.memmap[Any, Any], ends: Any, g: int) -> int:
    """The sum of all counts, if every column is in range and ascends and every count is one.

    Reads the files a part at a time beside the maps, so that a large matrix takes no memory here.
    """
    total, top = 0, 0
    with open(str(data.filename), "rb") as values, open(str(indices.filename), "rb") as columns:
        values.seek(data.offset)
        columns.seek(indices.offset)
        while top < len(ends) - 1:
            after = max(top + 1, int(np.searchsorted(ends, ends[top] + PART, side="right")) - 1)
            size = int(ends[after] - ends[top])
            if size > (after - top) * g:
                raise ValueError("more entries in a row than it has places")
            value = np.fromfile(values, data.dtype, size)
            column = np.fromfile(columns, indices.dtype, size)
            _check_part(value, column, ends[top + 1 : after] - ends[top], g)
            total += int(value.sum())
            top = after
    return total


def _check_part(value: np.ndarray, column: np.ndarray, starts: np.ndarray, g: int) -> None:
    """Raise unless whole rows hold counts from 1 to 2**24 at ascending columns below g."""
    if not value.size:
        return
    if value.min() < 1 or value.max() > 2**24 or column.min() < 0 or column.max() >= g:
        raise ValueError("values or columns out of range")
    falls = column[1:] <= column[:-1]
    falls[starts[(starts > 0) & (starts < column.size)] - 1] = False  # a new row starts lower
    if falls.any():
        raise ValueError("columns that do not ascend")
