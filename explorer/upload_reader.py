"""The process that reads a visitor's h5ad file: numpy and h5py, nothing else, and no second file.

Started by `explorer.uploads`, never imported by the app: bytes that kill or hang the HDF5 library
kill or hang a fork of this process, which held nobody else's data and lives for one file. It looks
before it reads, accounts for every byte it will read, checks before it casts, and hands back plain
arrays or one sentence. One JSON request a line on stdin, one JSON answer a line on stdout; the
verdict itself lies in the folder that the request names.
"""

import codecs
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from explorer.upload_account import Refused, Source, damaged, encoding
from explorer.upload_labels import labels
from explorer.upload_matrix import entries, matrix, save
from explorer.upload_names import names, table

RATE = 20 * 2**20  # bytes a second of its own that an honest file is read at, at the least
SHARE = 4  # and how much longer that may take where others use the machine
CACHE = 16 * 2**20  # bytes of unpacked chunks kept for each array
OUTPUTS = (
    "verdict.json", "names.json", "data.npy", "indices.npy", "indptr.npy", "labels.npy",
)  # fmt: skip


def main() -> None:
    """Serve one request a line; without fork, one request in all."""
    for name in ("ascii", "utf-8", "latin-1"):
        codecs.lookup(name)  # Python loads them from files when first used: too late for a fork
    for line in sys.stdin:
        request = json.loads(line)
        if hasattr(os, "fork"):
            answer = forked(request)
        else:
            serve(request)
            answer = {"code": 0, "peak_kb": 0}
        print(json.dumps(answer), flush=True)
        if not hasattr(os, "fork"):
            return


def forked(request: dict[str, Any]) -> dict[str, int]:
    """Serve in a fork of this process, which has read no file, and tell how the fork ended."""
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            serve(request)
            os._exit(0)
        finally:
            os._exit(1)
    _, status, used = os.wait4(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "peak_kb": used.ru_maxrss}


def serve(request: dict[str, Any]) -> None:
    """Answer one request by a verdict in its folder."""
    folder, limits = Path(request["folder"]), request["limits"]
    out: dict[str, BinaryIO] = {name: (folder / name).open("xb", buffering=0) for name in OUTPUTS}
    confine(limits)
    try:
        read(request["path"], request["layer"], limits, out)
    except Refused as reason:
        refuse(out, str(reason))
    except MemoryError:
        refuse(out, "This file needs more memory than the limit; please upload a smaller one.")
    except Exception:  # whatever the library says of such a file names its internals
        refuse(out, str(damaged("a part of it can't be read")))


def confine(limits: dict[str, Any]) -> None:
    """Bound this process's memory, time and output, and offer it first when memory runs out."""
    allow(limits["seconds"], limits["seconds"])
    try:
        import resource
    except ImportError:  # Windows: the wall limit outside is all there is
        return
    pages = Path("/proc/self/statm")
    base = int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 2**31
    wanted = {
        "RLIMIT_AS": base + limits["memory"],
        "RLIMIT_CPU": limits["cpu_seconds"],
        "RLIMIT_FSIZE": limits["output_bytes"],
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
    }
    for name, most in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (AttributeError, ValueError, OSError):  # a limit this system does not have
            continue
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("900")


def allow(clock: float, own: float) -> None:
    """Let this process live so many seconds more, by the clock and of the processor.

    The kernel ends it at its time, whatever it is stuck in. Honest work may take long by the clock
    where others use the machine; a loop without end uses up its own seconds soon.
    """
    if hasattr(signal, "setitimer"):
        for timer, more in ((signal.ITIMER_REAL, clock), (signal.ITIMER_PROF, own)):
            signal.setitimer(timer, signal.getitimer(timer)[0] + more)


def forbid_files() -> None:
    """From here on this process can open no file, link or plugin, whatever the upload asks for."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def read(path: str, layer: str | None, limits: dict[str, Any], out: dict[str, BinaryIO]) -> None:
    """Read one file and write its verdict."""
    size = os.path.getsize(path)
    with h5py.File(path, "r", rdcc_nbytes=CACHE, rdcc_nslots=10_007) as file:
        forbid_files()
        root = file["/"]
        assert isinstance(root, h5py.Group)
        source = Source(root, size, limits)
        encoding(root, "This file", {"anndata"}, "anndata")
        parts, n, g, kind = matrix(source, layer)
        genes = names(source, *table(source, "var"), g, "genes")
        obs = table(source, "obs")
        cells = names(source, *obs, n, "cells")
        kinds, codes = labels(source, *obs, n)
        source.settle()
        allow(SHARE * source.declared / RATE, source.declared / RATE)
        rows = entries(source, parts, n, g, kind)
    if rows.total == 0:
        raise Refused("Every value of the matrix is 0; please upload a file that holds counts.")
    rows.write(out)
    save(out["labels.npy"], "<i2", codes.size, codes)
    text = {"genes": genes, "cells": cells, "labels": kinds}
    out["names.json"].write(json.dumps(text).encode())
    say(out, {"ok": True, "shape": [n, g], "nnz": rows.nnz, "total": rows.total})


def say(out: dict[str, BinaryIO], verdict: dict[str, Any]) -> None:
    """Write the verdict."""
    out["verdict.json"].write(json.dumps(verdict).encode())


def refuse(out: dict[str, BinaryIO], words: str) -> None:
    """Write a refusal, as a sentence."""
    say(out, {"ok": False, "say": words[0].upper() + words[1:]})
