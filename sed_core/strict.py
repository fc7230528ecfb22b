"""Reading what others wrote: small JSON files with exactly the keys and types we wait for."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from sed_core.store import CheckpointError

LARGEST_NUMBER = 1_000_000  # of any size in a configuration
STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file; run 'git lfs pull'",
    b"<": "a web page, not the file; download it again",
    b"PK\x03\x04": "an archive, maybe of pickles, which can run code; only safetensors are read",
    b"\x80\x02": "a pickle, which can run code; only safetensors are read",
    b"\x80\x04": "a pickle, which can run code; only safetensors are read",
}


def read_json(path: Path, largest: int) -> dict[str, Any]:
    """A JSON object from a file of at most `largest` bytes."""
    where = f"{path.parent.name}/{path.name}"
    refuse_strangers(path)
    if path.stat().st_size > largest:
        raise CheckpointError(f"{where} is larger than {largest} bytes; fetch it again")
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where} can't be read as JSON; fetch it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{where} must hold one JSON object; fetch it again")
    return cast("dict[str, Any]", content)


def refuse_strangers(path: Path) -> None:
    """Recognise by its first bytes what often stands in place of the file that was meant."""
    where = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except FileNotFoundError:
        raise CheckpointError(f"{where} is missing; fetch {path.parent.name} again") from None
    except OSError as fault:
        raise CheckpointError(f"{where} can't be read: {fault.strerror}; fetch it again") from None
    for first, what in STRANGERS.items():
        if start.startswith(first):
            raise CheckpointError(f"{where} is {what}")


def exactly(raw: Any, hints: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a JSON object that has the keys of `hints`, no other, and their types."""
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where} must be an object, got {_show(raw)}; fetch it again")
    table = cast("dict[str, Any]", raw)
    unknown, missing = sorted(table.keys() - hints), sorted(hints.keys() - table.keys())
    if unknown or missing:
        said = [f"has unknown {', '.join(unknown)[:80]}"] if unknown else []
        said += [f"lacks {', '.join(missing)[:80]}"] if missing else []
        raise CheckpointError(
            f"{where} {' and '.join(said)}; fetch it again, or use the sed-core that wrote it"
        )
    return {key: value_of(table[key], hint, f"{where} {key}") for key, hint in hints.items()}


def value_of(value: Any, hint: Any, where: str) -> Any:
    """One JSON value of the wanted type; lists become tuples, whole numbers floats where asked."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
        return _fitting(value, fits, f"one of {', '.join(map(repr, choices))}", where)
    if get_origin(hint) is tuple:
        fits = isinstance(value, list) and all(map(_is_size, cast("list[Any]", value)))
        return tuple(_fitting(value, fits, "a list of whole numbers", where))
    if hint is float:
        fits = type(value) in (int, float) and math.isfinite(value)
        return float(_fitting(value, fits, "a finite number", where))
    if hint is int:
        return _fitting(value, _is_size(value), f"a whole number to {LARGEST_NUMBER}", where)
    return _fitting(value, type(value) is hint, f"of type {hint.__name__}", where)


def _fitting(value: Any, fits: bool, wanted: str, where: str) -> Any:
    if not fits:
        raise CheckpointError(f"{where} must be {wanted}, got {_show(value)}; fetch it again")
    return value


def _is_size(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST_NUMBER


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
