"""Train a small model in two stages, killed by SIGKILL again and again, beside an unharmed run.

Run by test_training.py. Prints JSON: every loss seen, by run, stage and step, and a digest of the
final weights. A doomed child dies inside a chosen call of the operating system: between two files
of a state, before a rename, after a step that was never stored.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from small import pairs, savae

from sed_core.chance import seeded
from sed_core.store import Store
from sed_core.training import LengthBuckets, fit

CALLS = ("write", "rename", "mkdir", "fsync")
DEATHS = (1, 4, 16, 19, 23, 26, 30, 33, 37, 41, 44, 48)  # calls that a child lives to make


def die_after(calls: int) -> None:
    """Let this process make that many calls, and not one more."""
    left = [calls]

    def mortal(call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, mortal(getattr(os, name)))


def train(folder: Path, log: Any) -> None:
    """Draft, then SAVAE, each stored after every step; one line a step."""
    model = savae(12, encoder_layers=1, decoder_layers=1).train()
    batch = pairs(0, rows=40, dim=12)
    stages = {"draft": (model.draft_loss, 4), "savae": (model.loss, 6)}
    for stage, (loss, steps) in stages.items():
        rows = LengthBuckets(batch.nnz, pairs=60, steps=steps, seed=1)

        def logged(given: Any, chance: Any, stage: str = stage, loss: Any = loss) -> Any:
            found = loss(batch[given[1]], generator=chance)
            log([stage, given[0], found.total.item().hex()])  # before anything is stored
            return found

        for _ in fit(
            model,
            [(k, rows[k]) for k in range(steps)],
            lr=1e-2,
            warmup=2,
            precision="float32",
            generator=seeded(0),
            loss=logged,
            stage=stage,
            store=Store(folder / stage),
            save_seconds=0.0,
        ):
            pass
    parts = [p.detach().numpy().tobytes() for p in model.state_dict().values()]
    log(["end", 0, hashlib.sha256(b"".join(parts)).hexdigest()])


def run(folder: Path, deaths: tuple[int, ...]) -> list[Any]:
    """All lines of a run that dies as often as told and is started again each time."""
    file = folder.with_suffix(".log")
    for calls in (*deaths, None):
        child = os.fork()
        if child == 0:
            with file.open("a", buffering=1) as lines:
                if calls is not None:
                    die_after(calls)
                train(folder, lambda line: lines.write(json.dumps(line) + "\n"))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert status == signal.SIGKILL, f"the child ended with {status}"
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # its slow imports, once for all children
    place = Path(sys.argv[1])
    print(json.dumps({"whole": run(place / "whole", ()), "killed": run(place / "killed", DEATHS)}))
