"""Record what the page Counts shows before anything is made there.

python -m explorer.record_counts --out assets/counts
"""

from pathlib import Path
from typing import Annotated

import typer

from explorer import count_bench, count_exports, count_fill, count_runs, counting, models
from explorer.count_exports import Result
from explorer.count_params import DEFAULTS, Params, read

SLOTS = {
    "digit": {}, "ten": {"data": "ten"}, "bench": {"view": "bench"}, "fill": {"view": "fill"},
}  # fmt: skip


def record(
    out: Annotated[Path, typer.Option(help="folder")] = counting.RECORDED,
    n: Annotated[int, typer.Option(help="samples of the bench")] = DEFAULTS.n,
    steps: Annotated[int, typer.Option(help="of every sampler")] = DEFAULTS.steps,
) -> None:
    """Make the default result of every view and record it."""
    out.mkdir(parents=True, exist_ok=True)
    for slot, asked in SLOTS.items():
        found = made(settings(n=str(n), steps=str(steps), **asked))
        path = out / f"{slot}.safetensors"
        path.write_bytes(count_exports.tape(found))
        typer.echo(f"{path.name}: recipe {found.stamp}, {path.stat().st_size:,} bytes")


def settings(**asked: str) -> Params:
    """What a view is asked for at first."""
    return read(asked, models.counts_models())[0]


def made(params: Params) -> Result:
    """The result of some settings."""
    quiet = lambda share: None  # noqa: E731
    if params.view == "bench":
        peers = {key: models.counts(name) for key, name in counting.PEERS.items()}
        return count_bench.measure(peers, params, "", quiet)
    peer = models.counts(params.model)
    if params.view == "fill":
        return count_fill.fill(peer, params, count_fill.draw_truth(peer, params, quiet), quiet)
    return count_runs.watch(peer, params, models.own_schedule(params.model), quiet)


if __name__ == "__main__":
    typer.run(record)
