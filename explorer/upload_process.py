"""The processes that read visitors' files: started when first asked, and again when they died."""

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from explorer.upload_folder import sweep
from explorer.upload_terms import (
    LABEL_COLUMNS,
    LABEL_NAMES,
    LABEL_TEXT,
    MB,
    BadUpload,
    UploadLimits,
    damaged,
)

ROOT = str(Path(__file__).parents[1])
START = "import sys; sys.path.insert(0, sys.argv[1]); import explorer.upload_reader as r; r.main()"
READERS = 2  # files read at once
ENDS = ("SIGALRM", "SIGPROF", "SIGXCPU")  # how the kernel ends a reader at its time
OVERTIME = {-getattr(signal, name) for name in ENDS if hasattr(signal, name)}
PATIENCE = 30.0  # seconds that a file waits for a reader


def ask(path: Path, layer: str | None, limits: UploadLimits, folder: Path) -> None:
    """Have a file read into a folder, or say why that came to no end."""
    bounds = asdict(limits) | {
        "cpu_seconds": int(limits.most_seconds) + 1,
        "output_bytes": 8 * limits.nonzeros + 64 * MB,
        "label_columns": LABEL_COLUMNS,
        "label_names": LABEL_NAMES,
        "label_text": LABEL_TEXT,
    }
    request = {
        "path": str(path.absolute()), "layer": layer, "folder": str(folder), "limits": bounds,
    }  # fmt: skip
    code = _answer(json.dumps(request).encode() + b"\n", limits.most_seconds)
    if code is None or code in OVERTIME:
        raise BadUpload(
            "Reading this file took longer than the limit, so it is damaged or too large; please "
            "save it again or upload a smaller part of it."
        )
    if code != 0:
        raise damaged("it can't be read to its end")


def _answer(request: bytes, wall: float) -> int | None:
    """A reader's answer, from a second one if the first went away."""
    with _reader() as reader:
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                return reader.ask(request, wall)
    raise BadUpload("The reader of uploads does not answer; please try again in a minute.")


class _Reader:
    """A process that forks once for each file; started when first asked, and again when it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: bytes, wall: float) -> int | None:
        """How the fork for one file ended, as an exit code; None if it had to be ended.

        Raises:
            ConnectionError: the process itself went away.
        """
        process = self.started()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(wall, self._end, [process, late])
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            answer = process.stdout.readline(4096)
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        if answer.endswith(b"\n"):
            return int(json.loads(answer)["code"])
        self.close()
        if late.is_set():
            return None
        raise ConnectionError("the reader of uploads went away")

    def close(self) -> None:
        """End the process and whatever it forked."""
        process, self._process = self._process, None
        if process is None:
            return
        self._end(process)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        process.wait()

    def started(self) -> subprocess.Popen[bytes]:
        """The process, running; it may still be loading what it needs.

        Raises:
            ConnectionError: it can't be started.
        """
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            sweep()
            try:
                self._process = self._start()
            except OSError:
                raise ConnectionError("the reader of uploads can't be started") from None
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", START, ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            cwd=tempfile.gettempdir(),
            start_new_session=True,
        )

    @staticmethod
    def _end(process: subprocess.Popen[bytes], late: threading.Event | None = None) -> None:
        if late is not None:
            late.set()
        if process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


def _environment() -> dict[str, str]:
    """All that a reader knows of its surroundings: no secrets, one thread, no plugins."""
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return kept | {
        "HDF5_PLUGIN_PRELOAD": "::",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "8388608",  # blocks come from one heap that stays,
        "MALLOC_TRIM_THRESHOLD_": "268435456",  # not as fresh pages each time
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


_FREE: "queue.LifoQueue[_Reader]" = queue.LifoQueue()
_ALL = [_Reader() for _ in range(READERS)]
for _one in _ALL:
    _FREE.put(_one)


def prepare() -> None:
    """Start the reading processes that are idle, so that the first upload need not wait for them.

    Returns at once; each takes some tenths of a second to load what it needs, and 31 MB.
    """
    idle: list[_Reader] = []
    with contextlib.suppress(queue.Empty):
        while True:
            idle.append(_FREE.get_nowait())
    for reader in idle:
        with contextlib.suppress(ConnectionError):
            reader.started()
        _FREE.put(reader)


@atexit.register
def close() -> None:
    """End the reading processes; the next upload starts them again."""
    for reader in _ALL:
        reader.close()


@contextlib.contextmanager
def _reader() -> Iterator[_Reader]:
    """A reader to oneself."""
    try:
        one = _FREE.get(timeout=PATIENCE)
    except queue.Empty:
        raise BadUpload(
            "Too many files are being read at the moment; please upload this one in a minute."
        ) from None
    try:
        yield one
    finally:
        _FREE.put(one)
