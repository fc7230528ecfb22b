"""The names of cells and genes in a visitor's file: text, printable, each once.

Runs in the reading process only, never in the app's.
"""

import re

import h5py
import numpy as np
from h5py import h5t

from explorer.upload_account import LONGEST, Refused, Source, attribute, damaged, encoding


def table(source: Source, name: str) -> tuple[h5py.Group, str]:
    """`obs` or `var`, and which of its columns holds the names."""
    frame = source.group(source.root, name, f"the table {name}")
    encoding(frame, f"the table {name}", {"dataframe"}, "dataframe")
    index = attribute(frame, "_index") or "_index"
    if "/" in index or index in ("", ".", ".."):
        raise damaged(f"the table {name} does not say where its names are")
    return frame, index


def names(source: Source, frame: h5py.Group, index: str, count: int, what: str) -> list[str]:
    """The names in a table: text, printable, at most 256 characters, each once."""
    column = source.child(frame, index, f"the column of names of the {what}")
    found = column_text(source, column, count, f"the names of the {what}")
    for name in found:
        if not 0 < len(name) <= LONGEST or not name.isprintable():
            raise Refused(
                f"The names of the {what} must have 1 to {LONGEST} printable characters and some "
                "do not; please rename them and upload the file again."
            )
    if len(set(found)) < count:
        raise twins(found, what)
    return found


def twins(found: list[str], what: str) -> Refused:
    """A refusal of names that occur more than once, with one of them."""
    seen: set[str] = set()
    twin = next(name for name in found if name in seen or seen.add(name))
    example = f" ({twin})" if re.fullmatch(r"[\w:-]{1,40}", twin) else ""
    call = "var_names_make_unique" if what == "genes" else "obs_names_make_unique"
    return Refused(
        f"Each name may occur once, but {len(found) - len(set(found)):,} {what} repeat the name of "
        f"another{example}; please make the names unique, for example with AnnData's {call}."
    )


def column_text(
    source: Source, column: h5py.Group | h5py.Dataset, count: int, what: str
) -> list[str]:
    """A column of text in any of the three ways AnnData stores one."""
    if isinstance(column, h5py.Dataset):
        encoding(column, what, {"string-array"}, "string-array")
        return text(source, column, (count,), what)
    kind = encoding(column, what, {"categorical", "nullable-string-array"}, "none")
    if kind == "categorical":
        return categorical(source, column, count, what)
    if kind == "none":
        raise damaged(f"it does not say how {what} are stored")
    values = text(source, source.array(column, "values", what), (count,), what)
    mask = source.array(column, "mask", f"the mask of {what}")
    source.account(mask, (count,), f"the mask of {what}")
    if mask.dtype.kind != "b" or mask[:].view(np.uint8).any():
        raise Refused(f"Some of {what} are missing; please name them all and upload again.")
    return values


def categorical(source: Source, column: h5py.Group, count: int, what: str) -> list[str]:
    """A column stored as codes of a list of values."""
    listed = source.array(column, "categories", f"the list of {what}")
    shape = listed.shape
    if shape is None or len(shape) != 1 or shape[0] > count:
        raise damaged(f"the list of {what} has an impossible length")
    values = text(source, listed, shape, what)
    return [values[int(k)] for k in codes(source, column, count, len(values), 0, what)]


def codes(
    source: Source, column: h5py.Group, count: int, most: int, least: int, what: str
) -> np.ndarray:
    """The codes of a categorical column, whole numbers from `least` to below `most`."""
    held = source.array(column, "codes", f"the codes of {what}")
    source.account(held, (count,), f"the codes of {what}")
    if held.dtype.kind not in "iu":
        raise damaged(f"the codes of {what} are not whole numbers")
    found = held[:]
    if found.size and (int(found.min()) < least or int(found.max()) >= most):
        raise damaged(f"the codes of {what} are out of range")
    return found


def text(source: Source, array: h5py.Dataset, shape: tuple[int, ...], what: str) -> list[str]:
    """Strings of an array, a few at a time so that none is taken for longer than it may be."""
    kind = array.id.get_type()
    if kind.get_class() != h5t.STRING:
        raise Refused(f"In this file {what} are not text; please store them as text.")
    if not kind.is_variable_str() and kind.get_size() > 4 * LONGEST:
        raise Refused(f"In this file {what} are longer than {LONGEST} characters; please cut them.")
    source.account(array, shape, what)
    found: list[str] = []
    while (top := len(found)) < shape[0]:
        for raw in array[top : top + 4 + top]:  # few at first: each may claim the whole file
            if len(raw) > 4 * LONGEST:
                raise Refused(
                    f"In this file {what} are longer than {LONGEST} characters; please cut them."
                )
            found.append(decoded(raw, what))
    return found


def decoded(raw: bytes, what: str) -> str:
    """A name as text."""
    try:
        return bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(f"In this file {what} are not UTF-8 text; please store them so.") from None
