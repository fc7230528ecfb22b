"""What may be read of a visitor's file: looked at before it is read, and every byte accounted for.

Runs in the reading process only, never in the app's.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5o, h5t, h5z  # pyright: ignore[reportAttributeAccessIssue]

LONGEST = 256  # characters of a name or a description
PIECES = 100_000  # chunks of one array
FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}
KNOWN = {
    "anndata": {"0.1.0"},
    "csr_matrix": {"0.1.0"},
    "csc_matrix": {"0.1.0"},
    "array": {"0.2.0"},
    "dataframe": {"0.1.0", "0.2.0"},
    "string-array": {"0.2.0"},
    "categorical": {"0.2.0"},
    "nullable-string-array": {"0.1.0"},
}


class Refused(Exception):
    """The file can't be taken; the message is what the visitor reads."""


class Damaged(Refused):
    """The file's parts contradict each other."""


def damaged(what: str) -> Damaged:
    """A refusal of a file whose parts contradict each other."""
    return Damaged(f"This h5ad file is damaged: {what}; please save it again and upload that.")


def outside(what: str) -> Refused:
    """A refusal of a file that wants other bytes than its own."""
    return Refused(
        f"{what} is a link or lies outside this file, and only what is stored inside an upload "
        "is read; please save the data into one file with AnnData."
    )


@dataclass
class Source:
    """An open file, what one may take from it, and the account of what will be read."""

    root: h5py.Group
    size: int
    limits: dict[str, Any]
    addresses: set[int] = field(default_factory=set)
    extents: list[tuple[int, int]] = field(default_factory=list)
    declared: int = 0

    def child(self, group: h5py.Group, name: str, what: str) -> h5py.Group | h5py.Dataset:
        """A member of a group, by a hard link to an object that was not used before."""
        self._hard(group, name, what)
        found = group[name]
        if not isinstance(found, h5py.Group | h5py.Dataset):
            raise damaged(f"{what} is neither a table nor an array")
        address = h5o.get_info(found.id).addr
        if address in self.addresses:
            raise damaged(f"{what} is stored as one thing with another part")
        self.addresses.add(address)
        return found

    def group(self, group: h5py.Group, name: str, what: str) -> h5py.Group:
        """A member that must be a group."""
        found = self.child(group, name, what)
        if not isinstance(found, h5py.Group):
            raise Refused(
                f"{what} has the layout of AnnData before 0.7; please open the file with a newer "
                "AnnData and save it again."
            )
        return found

    def array(self, group: h5py.Group, name: str, what: str) -> h5py.Dataset:
        """A member that must be an array."""
        found = self.child(group, name, what)
        if not isinstance(found, h5py.Dataset):
            raise damaged(f"{what} is not an array")
        return found

    def account(self, array: h5py.Dataset, shape: tuple[int, ...], what: str) -> None:
        """Check that an array has this shape, and that exactly its bytes lie inside this file."""
        if array.shape != shape:
            raise damaged(f"{what} has another length than the rest implies")
        kept = array.id.get_create_plist()
        layout, item = kept.get_layout(), stored_size(array.id.get_type())
        if layout == h5d.VIRTUAL or kept.get_external_count():
            raise outside(what)
        total = math.prod(shape) * item
        if total > self.limits["array_bytes"]:
            raise Refused(self._too_large(what, total))
        self.declared += total
        if layout == h5d.CHUNKED:
            self._account_chunks(array, shape, item, kept, what)
        elif array.id.get_storage_size() != total:
            raise damaged(f"{what} declares more or less than is stored")
        elif layout == h5d.CONTIGUOUS and total:
            self._account_extent(array.id.get_offset(), total, what)

    def settle(self) -> None:
        """Check that no byte of the file was accounted for twice."""
        ends = sorted(self.extents)
        if any(a + n > b for (a, n), (b, _) in pairwise(ends)):
            raise damaged("two parts claim the same bytes")

    def _account_chunks(
        self, array: h5py.Dataset, shape: tuple[int, ...], item: int, kept: Any, what: str
    ) -> None:
        """Check the filters and that every chunk is there, once, of a size it can have."""
        filters = {kept.get_filter(k)[0] for k in range(kept.get_nfilters())}
        if not filters <= FILTERS:
            raise Refused(
                f"{what} is compressed in a way that is not read here; please save the file with "
                "compression gzip."
            )
        chunk = kept.get_chunk()
        raw = math.prod(chunk) * item
        if raw > self.limits["array_bytes"] // 2:
            raise Refused(self._too_large(f"One chunk of {what}", raw))
        wanted = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        if wanted > PIECES:
            raise Refused(
                f"{what} is cut into {wanted:,} pieces and the limit is {PIECES:,}; please save "
                "the file again with larger chunks."
            )
        most = raw if not filters else raw + raw // 8 + 1024
        seen: set[tuple[int, ...]] = set()

        def look(info: Any) -> bool | None:
            place = tuple(info.chunk_offset)
            inside = all(p < n and p % c == 0 for p, n, c in zip(place, shape, chunk, strict=True))
            fits = info.size <= most and (filters or info.size == raw)
            if not inside or not fits or place in seen:
                raise damaged(f"{what} has chunks that do not fit it")
            seen.add(place)
            self._account_extent(info.byte_offset, info.size, what)
            return None

        if wanted:
            array.id.chunk_iter(look)
        if len(seen) != wanted:
            raise damaged(f"{what} declares more than is stored")

    def _account_extent(self, start: int | None, length: int, what: str) -> None:
        if start is None or length <= 0 or start + length > self.size:
            raise damaged(f"{what} reaches beyond the end of the file")
        self.extents.append((start, length))

    def _too_large(self, what: str, size: int) -> str:
        limit = self.limits["array_bytes"]
        return (
            f"{what} needs {size / 2**20:,.0f} MB when read and the limit here is "
            f"{limit / 2**20:,.0f} MB; please upload fewer cells or genes, or a sparse matrix."
        )

    def _hard(self, group: h5py.Group, name: str, what: str) -> None:
        if not group.id.links.exists(name.encode()):
            raise Refused(
                f"In this file {what} is missing; please save it with AnnData so that it has X, "
                "obs and var, and upload it again."
            )
        if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise outside(what)


def stored_size(kind: h5t.TypeID) -> int:
    """Bytes of one element in the file; text of free length is a length and an address there."""
    free = kind.get_class() == h5t.STRING and kind.is_variable_str()
    return 16 if free else kind.get_size()


def attribute(thing: h5py.Group | h5py.Dataset, name: str) -> str | None:
    """A short text attribute, or None where there is none."""
    if not h5a.exists(thing.id, name.encode()):
        return None
    held = h5a.open(thing.id, name.encode())
    kind = held.get_type()
    size = 0 if kind.get_class() != h5t.STRING or kind.is_variable_str() else kind.get_size()
    if kind.get_class() != h5t.STRING or math.prod(held.shape) != 1 or size > 4 * LONGEST:
        raise damaged("a description in it is not a short text")
    value = np.asarray(thing.attrs[name], dtype=object).reshape(-1)[0]
    value = value.decode() if isinstance(value, bytes) else str(value)
    if len(value) > LONGEST:
        raise damaged("a description in it is not a short text")
    return value


def encoding(thing: h5py.Group | h5py.Dataset, what: str, allowed: set[str], plain: str) -> str:
    """The encoding type of a part, one of those allowed; `plain` where none is named."""
    kind, version = attribute(thing, "encoding-type"), attribute(thing, "encoding-version")
    if kind is None:
        return plain
    if kind not in allowed:
        raise Refused(
            f"{what} is stored in a format that is not read here; please save it as a CSR, CSC or "
            "dense matrix with text names, in an h5ad file."
        )
    if version is not None and version not in KNOWN[kind]:
        raise Refused(
            f"{what} was written in a newer version of the format than is read here; please save "
            "the file with AnnData 0.12."
        )
    return kind
