"""Labels of the cells in a visitor's file: categorical columns of obs whose categories are text.

Runs in the reading process only, never in the app's. What is no label, or holds more than a label
may, is left out and not read; a label that contradicts itself makes the file a damaged one.
"""

from collections.abc import Iterator

import h5py
import numpy as np
from h5py import h5l, h5o  # pyright: ignore[reportAttributeAccessIssue]

from explorer.upload_account import LONGEST, Damaged, Refused, Source, attribute, damaged
from explorer.upload_names import codes, text

LOOKED = 1000  # members of a table looked at


def labels(
    source: Source, frame: h5py.Group, index: str, count: int
) -> tuple[dict[str, list[str]], np.ndarray]:
    """Categories of each label, and codes int16 (labels, count); a code of -1 is unknown."""
    found: dict[str, list[str]] = {}
    numbers, left = list[np.ndarray](), source.limits["label_text"]
    for name in columns(frame, index):
        if len(found) == source.limits["label_columns"]:
            break
        try:
            read = label(source, frame, name, count, left)
        except Damaged:
            raise
        except Refused:  # stored in a way, or of a size, that is not read: no label
            continue
        if read is not None:
            found[name] = read[0]
            numbers.append(read[1])
            left -= len(name) + sum(map(len, read[0]))
    return found, np.array(numbers, np.int16).reshape(len(found), count)


def columns(frame: h5py.Group, index: str) -> Iterator[str]:
    """Members of a table that are groups by hard links, and not its names."""
    names: list[bytes] = []

    def look(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) >= LOOKED else None

    frame.id.links.iterate(look)
    for raw in names:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            continue
        fine = name.isprintable() and len(name) <= LONGEST and name != index
        hard = frame.id.links.get_info(raw).type == h5l.TYPE_HARD
        if fine and hard and h5o.get_info(frame.id, raw).type == h5o.TYPE_GROUP:
            yield name


def label(
    source: Source, frame: h5py.Group, name: str, count: int, left: int
) -> tuple[list[str], np.ndarray] | None:
    """Categories and codes of a column, None if it is no label or beyond `left` characters."""
    if h5o.get_info(frame.id, name.encode()).addr in source.addresses:
        return None
    column = source.group(frame, name, "a column of obs")
    if attribute(column, "encoding-type") != "categorical":
        return None
    if attribute(column, "encoding-version") not in (None, "0.2.0"):
        return None
    what = "the labels in obs"
    values = categories(source, column, what)
    if values is None or len(name) + sum(map(len, values)) > left:
        return None
    if len(set(values)) < len(values):
        raise damaged(f"{what} name a category twice")
    return values, codes(source, column, count, len(values), -1, what).astype(np.int16)


def categories(source: Source, column: h5py.Group, what: str) -> list[str] | None:
    """The list of categories, None where it is no plain text, too long or not printable."""
    found = source.child(column, "categories", f"the list of {what}")
    if not isinstance(found, h5py.Dataset) or found.shape is None or len(found.shape) != 1:
        return None
    if not 1 <= found.shape[0] <= source.limits["label_names"]:
        return None
    values = text(source, found, found.shape, what)
    return values if all(len(v) <= LONGEST and v.isprintable() for v in values) else None
