"""What a cell costs by the genes it expresses, not by the panel: the same genes in two panels.

    python -m benchmarks.scaling --cells [--quick]

64 cells of about 850 expressed genes each, of 13,714 genes that any cell may express, in panels of
27,000 and of 200,000: every other gene is always silent. Once the silent genes lie among the others
(spread), once behind them (behind). SED has the shape and laws of `sed-pbmc3k`, random weights, and
a draft that starts at the genes' sums as training does; its decoder emits the genes of the cells:
all choosing is done, then overruled.

Both panels are measured in one process with one thread, by turns, in processor time, which other
work on the machine hardly changes; only their ratio is a result. `--quick` decodes a sixteenth and
an eighth of each cell's pairs and reckons the rest.
"""

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import anndata
import numpy as np
import scipy.sparse
import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks import atlas
from sed_core.cell_sed import cell_denoiser, cell_savae
from sed_core.chance import seeded
from sed_core.costs import apart, peak_memory, warm_up
from sed_core.domains.cells import Cells, setup_anndata
from sed_core.evaluation import machine
from sed_core.sed import SED
from sed_core.sparse import SparseBatch
from sed_core.stream import last

PANELS = (27_000, 200_000)
ALIVE, EXPRESSED = 13_714, 850
PLACES = {"spread": "silent genes among the others", "behind": "silent genes behind the others"}
BATCH, STEPS, CLASSES = 64, 50, 9
MOST = 1.2  # times the small panel's cost that the large one's may be
WHOLE, QUICK = (1.0,), (1 / 16, 1 / 8)  # of each cell's pairs that are decoded
PARTS = ("latent", "start", "pairs", "whole")


def cells(
    dim: int, place: str, n: int = BATCH, *, alive: int = ALIVE, expressed: int = EXPRESSED
) -> Cells:
    """The same cells in a panel of `dim` genes, of which `alive` are expressed by some."""
    counts, _ = atlas.block(atlas.law(alive, expressed / alive, seed=0), 0, n)
    index = counts.indices.astype(np.int64)
    index = index * dim // alive if place == "spread" else index
    padded = scipy.sparse.csr_matrix((counts.data, index, counts.indptr), (n, dim))
    return setup_anndata(anndata.AnnData(padded))


def build(found: Cells) -> SED:
    """An untrained SED for cells like these; its draft starts where training would start it."""
    torch.manual_seed(0)
    model = SED(cell_savae(found), cell_denoiser(CLASSES))
    sums: Any = found.csr().sum(axis=0)
    model.savae.start_from(torch.from_numpy(sums.A1), len(found))
    model.savae.expose(found.library)
    return model.eval().requires_grad_(False)


# -- measuring -------------------------------------------------------------------------------------


def turns(
    place: str, repeats: int, shares: Sequence[float] = WHOLE, panels: Sequence[int] = PANELS
) -> dict[str, Any]:
    """Milliseconds a cell of every panel, measured by turns in this process."""
    torch.set_num_threads(1)
    warm_up()
    found = {dim: cells(dim, place) for dim in panels}
    models = {dim: build(found[dim]) for dim in panels}
    real = {dim: found[dim].rows() for dim in panels}
    spent: dict[int, list[dict[str, float]]] = {dim: [] for dim in panels}
    for turn in range(repeats + 1):  # the first one warms up
        for dim in panels if turn % 2 else reversed(panels):
            times = once(models[dim], real[dim], shares)
            if turn:
                spent[dim].append(times)
    few, many = panels[0], panels[-1]
    ratios = [b["whole"] / a["whole"] for a, b in zip(spent[few], spent[many], strict=True)]
    return {
        "place": place,
        "n": len(found[few]),
        "expressed": round(found[few].nnz.double().mean().item(), 1),
        "longest": int(found[few].nnz.max()),
        "ms": {str(dim): _parts(spent[dim]) for dim in panels},
        "ratio": _middle(ratios),
        "peak_bytes": peak_memory(),
    }


def once(model: SED, real: SparseBatch, shares: Sequence[float] = WHOLE) -> dict[str, float]:
    """Milliseconds a cell of processor time: noise to latent, its pairs, both; and of the pairs
    what it takes to lay out the law that they start from."""
    marks = [time.process_time()]
    z = last(model.diffuse(len(real), steps=STEPS, generator=seeded(0)))
    marks.append(time.process_time())
    for share in shares:
        _decode(model, z, shortened(real, share))
        marks.append(time.process_time())
    with torch.no_grad():
        model.savae.base(z)
    marks.append(time.process_time())
    latent, *spent, start = (1000 * (b - a) / len(real) for a, b in pairwise(marks))
    pairs = spent[-1]
    if len(spent) > 1:  # the rest is like what lies between the two
        pairs += (spent[1] - spent[0]) * (1 - shares[1]) / (shares[1] - shares[0])
    return {"latent": latent, "start": start, "pairs": pairs, "whole": latent + pairs}


def _decode(model: SED, z: Tensor, real: SparseBatch) -> None:
    stop = torch.full((len(real),), real.dim)
    made = last(model.decode(z, prefix=real, choose=stop, generator=seeded(1), detail=False))
    assert bool((made.nnz == real.nnz).all())


def shortened(real: SparseBatch, share: float) -> SparseBatch:
    """The first pairs of every row, this share of them."""
    length = (real.nnz * share).ceil().long()
    mask = torch.arange(int(length.max())) < length[:, None]
    index, value = real.index[:, : mask.shape[1]], real.value[:, : mask.shape[1]]
    return SparseBatch(index.where(mask, 0), value.where(mask, 0.0), mask, real.dim)


def _parts(spent: list[dict[str, float]]) -> dict[str, Any]:
    return {part: _middle([one[part] for one in spent]) for part in PARTS}


def _middle(values: list[float]) -> dict[str, Any]:
    both = values * 2 if len(values) == 1 else values
    low, value, high = statistics.quantiles(both, n=4, method="inclusive")
    ends = {"low": round(low, 4), "high": round(high, 4)}
    return {"value": round(value, 4), **ends, "n": len(values)}


# -- report ----------------------------------------------------------------------------------------


def report(*, repeats: int, quick: bool = False) -> dict[str, Any]:
    """Everything that `scaling-cells.json` holds."""
    lines = [apart(turns, place, repeats, QUICK if quick else WHOLE) for place in PLACES]
    targets = [
        {
            "name": f"a cell at {PANELS[-1]:,} over {PANELS[0]:,} genes, {PLACES[line['place']]}",
            "wanted": f"at most {MOST}",
            "got": line["ratio"]["value"],
            "met": line["ratio"]["value"] <= MOST,
        }
        for line in lines
    ]
    setting = {
        **machine(nn.Linear(1, 1)),
        "seed": 0,
        "batch": BATCH,
        "steps": STEPS,
        "alive": ALIVE,
        "decoded": QUICK if quick else WHOLE,
    }
    told = {"format": "sed-scaling-cells", "version": 1, "setting": setting}
    return {**told, "runs": lines, "targets": targets}


def tables(found: dict[str, Any]) -> list[Table]:
    """The report for a reader."""
    s = found["setting"]
    times = Table(
        title=f"ms of one core a cell, batch {s['batch']}, {s['steps']} DDIM steps, {s['device']}"
    )
    for name in ("silent genes", "genes a cell", "panel", *PARTS):
        times.add_column(name, justify="right")
    for line in found["runs"]:
        for dim, parts in line["ms"].items():
            told = [line["place"], f"{line['expressed']:g}", f"{int(dim):,}"]
            times.add_row(*told, *(f"{parts[part]['value']:.3g}" for part in PARTS))
    met = Table(title="targets")
    for name in ("name", "wanted", "got", "met"):
        met.add_column(name)
    for t in found["targets"]:
        met.add_row(t["name"], t["wanted"], f"{t['got']:.3f}", "yes" if t["met"] else "no")
    return [times, met]
