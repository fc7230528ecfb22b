"""Visitors' h5ad files, read without trusting a byte of them: counts and names, or one sentence.

The HDF5 library never runs in the app's process. `upload_reader` runs it, in a fork that lives for
one file under limits of memory, time and files; its arrays are checked again before use.
"""

import stat
import struct
from pathlib import Path

from explorer.upload_folder import folder
from explorer.upload_process import ask, prepare
from explorer.upload_results import received
from explorer.upload_terms import (
    LOCAL,
    LONGEST,
    MB,
    PRESETS,
    PUBLIC,
    WORKSHOP,
    BadUpload,
    Counts,
    Label,
    UploadLimits,
    damaged,
)

__all__ = [
    "LOCAL",
    "PRESETS",
    "PUBLIC",
    "WORKSHOP",
    "BadUpload",
    "Counts",
    "Label",
    "UploadLimits",
    "prepare",
    "read_counts",
]

MAGIC = b"\x89HDF\r\n\x1a\n"


def read_counts(
    path: str | Path, *, layer: str | None = None, limits: UploadLimits = PUBLIC
) -> Counts:
    """The counts in X of an h5ad file, or in one of its layers, and the labels of its cells.

    A process of its own reads them; `prepare` starts it ahead.

    Raises:
        BadUpload: one sentence that says what is wrong with the file and what to do.
    """
    _look(Path(path), limits)
    if layer is not None and (not 0 < len(layer) <= LONGEST or "/" in layer or layer[0] == "."):
        raise BadUpload("A layer is named by 1 to 256 characters without a slash; name one so.")
    try:
        with folder() as place:
            ask(Path(path), layer, limits, place)
            return received(place, limits)
    except OSError:
        raise BadUpload("There is no room to read this file in; please try again later.") from None


def _look(path: Path, limits: UploadLimits) -> None:
    """Refuse what its size and its first bytes give away."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BadUpload("This is not a file; please upload an h5ad file.")
        if found.st_size > limits.file_bytes:
            raise BadUpload(
                f"This file has {found.st_size / MB:,.1f} MB and the limit here is "
                f"{limits.file_bytes / MB:,.0f} MB; please upload fewer cells or genes."
            )
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        raise BadUpload("This file can't be opened any more; please upload it again.") from None
    if not head.startswith(MAGIC):
        raise BadUpload(_other_kind(head))
    end = _declared_end(head)
    if end is None or found.st_size > end:
        raise damaged("it does not end where it says it does")
    if found.st_size < end:
        raise damaged(f"it was cut off, {end - found.st_size:,} bytes are missing")


def _other_kind(head: bytes) -> str:
    """What to say of a file that is no HDF5 file."""
    if not head:
        return "This file is empty (0 bytes); please upload an h5ad file."
    if head.startswith(b"\x1f\x8b"):
        return "This file is packed with gzip; please unpack it and upload the h5ad file inside."
    if head.startswith(b"PK"):
        return "This file is a zip archive; please unpack it and upload the h5ad file inside."
    if head[:48].isascii() and b"\0" not in head:
        return "This file is text and not h5ad, whatever its name; please save it with AnnData."
    return "This is not an h5ad file, whatever its name; please save the data with AnnData."


def _declared_end(head: bytes) -> int | None:
    """The length in bytes that the file's first block declares, None where it can't be told."""
    places = {0: (13, 24, 40), 1: (13, 28, 44), 2: (9, 12, 28), 3: (9, 12, 28)}
    if len(head) < 64 or head[8] not in places:
        return None
    width, base, end = places[head[8]]
    if head[width] != 8 or any(head[base : base + 8]):
        return None
    return struct.unpack_from("<Q", head, end)[0]
