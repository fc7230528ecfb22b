"""Folders that are whole or not there: written beside, hashed in a manifest, then renamed."""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
META = "meta.json"
LARGEST_MANIFEST = 1 << 20

_STEP = re.compile(r"step-(\d{6,})")
_TEMPORARY = re.compile(r"\.tmp-(\d+)-([0-9a-f]{8})-\d+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIFE = secrets.token_hex(4)  # tells this process from an earlier one with the same number
_COUNT = itertools.count()


class CheckpointError(ValueError):
    """A checkpoint that can't be read or written, in one plain sentence."""


class Entry(NamedTuple):
    """What the manifest says about one file."""

    sha256: str
    size: int


class Saved(NamedTuple):
    """One stored step of a training run."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` and their manifest at `folder` in one rename, in place of what stood there."""
    folder = folder.absolute()
    temporary = _temporary(folder.parent)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_all(temporary, files)
        if folder.exists():
            _discard(folder)
        os.rename(temporary, folder)
        _sync_folder(folder.parent)
    except OSError as fault:
        raise CheckpointError(
            f"could not write {folder.name}: {fault.strerror or fault}; "
            "free some space or choose another folder"
        ) from fault
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Entry]:
    """What `folder` should hold: file name -> hash and size."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise CheckpointError(f"{_name(path)} is too large for a manifest; fetch it again")
        raw: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} has no {MANIFEST}, so it is no whole checkpoint; fetch or save it again"
        ) from None
    except (OSError, ValueError, RecursionError) as fault:
        if isinstance(fault, CheckpointError):
            raise
        raise CheckpointError(f"{_name(path)} can't be read as JSON; fetch it again") from None
    return _entries(raw, folder)


def read_verified(folder: Path, name: str, entry: Entry) -> bytes:
    """The bytes of one file, refused unless size and sha256 are those of the manifest."""
    path = folder / name
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise CheckpointError(
                f"{_name(path)} has {size} bytes, its manifest says {entry.size}; fetch it again"
            )
        content = path.read_bytes()
    except OSError as fault:
        raise CheckpointError(
            f"{_name(path)} can't be read ({fault.strerror}); fetch it again"
        ) from None
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise CheckpointError(
            f"{_name(path)} was altered: its sha256 is not the one in {MANIFEST}; fetch it again"
        )
    return content


def verify(folder: Path) -> dict[str, Entry]:
    """Check every file the manifest of `folder` names and return the manifest."""
    manifest = read_manifest(folder)
    for name, entry in manifest.items():
        read_verified(folder, name, entry)
    return manifest


def sweep(parent: Path) -> None:
    """Remove temporary folders that a killed process left in `parent`; live writers keep theirs."""
    for path in _children(parent):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _alive(int(match[1]), match[2]):
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Store:
    """The steps of one training run, of which the newest whole one is loaded after a kill."""

    folder: Path
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
    ) -> None:
        """Write one step, unless it is there whole; drop all but the newest `keep`."""
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        target = self.folder / f"step-{step:06d}"
        sweep(self.folder)
        if not _whole(target):
            self._write(target, _files(step, tensors, meta))
        self._prune()

    def load(self) -> Saved | None:
        """The newest step whose manifest verifies, or None where there is none."""
        sweep(self.folder)
        for path in self._steps():
            try:
                return _read_step(path)
            except CheckpointError:
                continue
        return None

    def _write(self, target: Path, files: Mapping[str, bytes]) -> None:
        try:
            write_folder(target, files)
        except CheckpointError:
            if not _whole(target):  # else another process has just put the same step there
                raise

    def _steps(self) -> Iterator[Path]:
        named = [(m, p) for p in _children(self.folder) if (m := _STEP.fullmatch(p.name))]
        yield from (path for _, path in sorted(named, key=lambda pair: -int(pair[0][1])))

    def _prune(self) -> None:
        kept = 0
        for path in self._steps():
            if kept < self.keep and _whole(path):
                kept += 1
            else:
                _discard(path)


def _files(
    step: int, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
) -> dict[str, bytes]:
    """The content of a step's folder."""
    for stem in tensors:
        if not _SAFE_NAME.fullmatch(stem):
            raise ValueError(f"a file of a step needs a plain name, got {stem!r}")
    files = {f"{stem}.safetensors": pack(named) for stem, named in tensors.items()}
    text = json.dumps({"step": step, "meta": dict(meta)}, indent=1, allow_nan=False)
    return {**files, META: text.encode()}


def pack(named: Mapping[str, Tensor]) -> bytes:
    """Named tensors as the bytes of a safetensors file."""
    return tensors_to_bytes({k: v.detach().cpu().contiguous().clone() for k, v in named.items()})


def _read_step(folder: Path) -> Saved:
    """Everything in one step's folder, each byte checked."""
    manifest = read_manifest(folder)
    content = {name: read_verified(folder, name, entry) for name, entry in manifest.items()}
    try:
        head: Any = json.loads(content.pop(META))
        step, meta = int(head["step"]), dict(head["meta"])
        tensors = {Path(name).stem: tensors_from_bytes(raw) for name, raw in content.items()}
    except (KeyError, TypeError, ValueError, SafetensorError) as fault:
        raise CheckpointError(f"{folder.name} is not a stored step: {fault}") from fault
    return Saved(step, tensors, meta)


def _whole(folder: Path) -> bool:
    """Whether every file of `folder` is as its manifest says."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _entries(raw: Any, folder: Path) -> dict[str, Entry]:
    """The checked content of a manifest."""
    where = f"{folder.name}/{MANIFEST}"
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where} must hold one JSON object; fetch it again")
    table = cast("dict[str, Any]", raw)
    version, files = table.get("format_version"), table.get("files")
    if type(version) is not int or version < 1 or not isinstance(files, dict):
        raise CheckpointError(f"{where} lacks its format_version or its files; fetch it again")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format {version}, this sed-core reads up to {FORMAT_VERSION}; "
            "update sed-core"
        )
    return {
        name: _entry(name, value, where) for name, value in cast("dict[str, Any]", files).items()
    }


def _entry(name: str, value: Any, where: str) -> Entry:
    """One line of a manifest, with the name made safe to join to a folder."""
    table = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    digest, size = table.get("sha256"), table.get("size")
    honest = isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
    if not (_SAFE_NAME.fullmatch(name) and honest and type(size) is int and size >= 0):
        raise CheckpointError(f"{where} has a bad line for {name[:40]!r}; fetch it again")
    return Entry(cast(str, digest), size)


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, then their manifest, and wait until the disk has them."""
    os.mkdir(folder)
    for name, content in files.items():
        _write_file(folder / name, content)
    table = {n: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for n, c in files.items()}
    text = json.dumps({"format_version": FORMAT_VERSION, "files": table}, indent=1)
    _write_file(folder / MANIFEST, text.encode())
    _sync_folder(folder)


def _write_file(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a loss of power, where the system has a call for it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(folder: Path) -> None:
    """Take a folder out of sight in one move, then delete it."""
    hidden = _temporary(folder.parent)
    with suppress(FileNotFoundError):  # another process was quicker
        os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _temporary(parent: Path) -> Path:
    return parent / f".tmp-{os.getpid()}-{_LIFE}-{next(_COUNT)}"


def _alive(process: int, life: str) -> bool:
    """Whether the writer of a temporary folder may still be at work."""
    if process == os.getpid():
        return life == _LIFE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
