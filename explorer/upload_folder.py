"""The folder of one reading, which goes when it ends; where its app was killed, the next sweeps."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = "sed-upload-"
YOUNG = 60.0  # seconds in which its owner may not have locked it yet
OLD = 86_400.0  # seconds after which nobody reads a file any more


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of one's own, locked as long as we live."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = _locked(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep() -> None:
    """Remove the folders whose owners are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another's, or gone meanwhile
            age = time.time() - path.lstat().st_mtime
            lock = _locked(path) if age > YOUNG else None
            if lock is not None or age > OLD:
                shutil.rmtree(path, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _locked(path: Path) -> int | None:
    """A lock on a folder, which the system takes back when its holder dies; None if it is held."""
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
