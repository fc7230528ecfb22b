"""Results of the page Cells as files, each with its recipe, and recordings back. Pure functions."""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from safetensors.numpy import load, save

from explorer import cell_places, exports
from explorer.cell_params import Params
from explorer.cell_places import Nearness
from explorer.cell_reference import Array, Reference
from explorer.cell_runs import Made
from sed_core.domains.cell_anndata import as_anndata

_sparse: Any = scipy.sparse
RISKY = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would take the cell for a formula


def recipe(made: Made) -> dict[str, Any]:
    """Everything needed to make the same cells again, and how it went here."""
    near = {} if made.near is None else {"nearness": asdict(made.near)}
    return {
        "recipe": made.stamp, "model": made.model, "model_sha256": made.sha,
        "parameters": made.params.said(made.family), "labels": _runs(made.types),
        "command": command(made), "zeros": made.zeros, **near,
        "seconds": made.seconds, "device": made.device, "made": made.made,
        "versions": dict(exports.versions()),
    }  # fmt: skip


def _runs(names: Sequence[str]) -> list[list[Any]]:
    """Equal names in a row as (name, how many)."""
    return [[name, len(list(group))] for name, group in groupby(names)]


def command(made: Made) -> str:
    """The same cells from Python."""
    p = made.params
    if made.trained:
        return f"{made.trained}\nmodel.sample({len(made)}, steps={p.steps}, seed={p.seed})"
    said = f"guidance={p.guidance:g}, steps={p.steps}, seed={p.seed}"
    runs = [(name, n) for name, n in _runs(made.types) if name in made.labels]
    if len(runs) == 1:
        said = f"label={runs[0][0]!r}, {said}"
    labels = ""
    if len(runs) > 1:
        labels = "labels = " + " + ".join(f"[{name!r}] * {n}" for name, n in runs) + "\n"
        said = f"label=labels, {said}"
    return (
        "from sed_core.cell_model import CellModel\n\n"
        f'{labels}model = CellModel.load("{made.model}")\n'
        f'model.sample({len(made)}, {said}).write_h5ad("{name(made, "h5ad")}")'
    )


def name(made: Made, ending: str) -> str:
    """A file name that says which recipe is inside."""
    return f"sed_cells_{made.family}_{made.stamp}.{ending}"


# -- AnnData ---------------------------------------------------------------------------------------


def h5ad(made: Made) -> bytes:
    """The cells as an AnnData: counts in X and a layer, labels, genes in order, recipe in uns."""
    found = as_anndata(
        made.counts, genes=made.genes, recipe=recipe(made), label=made.label,
        vocabulary=made.labels, labels=made.kind.tolist(),
    )  # fmt: skip
    found.obsm["X_pca"] = made.pcs.astype(np.float32)
    if made.layout is not None:
        found.obsm["X_umap"] = made.layout[1].astype(np.float32)
    return written(found)


def written(found: Any) -> bytes:
    """The bytes of an h5ad file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        found.write_h5ad(path, compression="gzip")
        return path.read_bytes()


# -- lists -----------------------------------------------------------------------------------------


def selection(made: Sequence[Made], chosen: Sequence[Sequence[int]], genes: Sequence[str]) -> str:
    """Chosen cells as CSV: one a line with its type, library, place on the axes and every gene."""
    file = io.StringIO()
    told = [recipe(one) for one in made]
    file.write(f"# {json.dumps(told)}\n")
    lines = csv.writer(file, lineterminator="\n")
    head = ["model", "cell", "type", "library_on_panel", "pc1", "pc2"]
    lines.writerow([*head, *map(plain, genes)])
    for one, rows in zip(made, chosen, strict=True):
        dense = one.panel[list(rows)].toarray()
        for row, counts in zip(rows, dense, strict=True):
            place = (f"{x:.4f}" for x in one.pcs[row, :2])
            lines.writerow([one.model, row + 1, plain(one.types[row]), int(counts.sum()), *place,
                            *counts.tolist()])  # fmt: skip
    return file.getvalue()


def plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(RISKY) else text


# -- recordings ------------------------------------------------------------------------------------


def tape(made: Made) -> bytes:
    """Cells as they are recorded: their counts on the panel, in gzip."""
    told = {
        **recipe(made), "params": asdict(made.params), "family": made.family, "label": made.label,
        "vocabulary": made.labels, "cells": len(made), "dim": len(made.genes),
    }  # fmt: skip
    panel = made.panel.sorted_indices()
    parts: dict[str, Array] = {
        "recipe": np.frombuffer(json.dumps(told).encode(), np.uint8),
        "indptr": panel.indptr.astype(np.int32), "indices": panel.indices.astype(np.uint16),
        "data": panel.data.astype(np.uint16), "kind": made.kind.astype(np.uint8),
    }  # fmt: skip
    if made.layout is not None:
        parts["placed"] = made.layout[1].astype(np.float16)
    return gzip.compress(save(parts), 9, mtime=0)


def untape(data: bytes, found: Reference) -> Made:
    """What `tape` recorded; of the genes, those of the panel."""
    parts = load(gzip.decompress(data))
    told = json.loads(bytes(parts["recipe"]))
    shape = (told["cells"], len(found.genes))
    whole = {key: parts[key].astype(np.int32) for key in ("data", "indices", "indptr")}
    panel = _sparse.csr_matrix((whole["data"], whole["indices"], whole["indptr"]), shape=shape)
    pcs = found.project(panel)
    layout = None
    if "placed" in parts and found.layout is not None:
        layout = (found.layout, parts["placed"].astype(np.float32))
    near = Nearness(**told["nearness"]) if "nearness" in told else cell_places.nearness(found, pcs)
    return Made(
        told["family"], told["model"], told["model_sha256"], Params(**told["params"]), found.genes,
        told["label"], tuple(told["vocabulary"]), parts["kind"].astype(np.int64), panel, panel,
        pcs, near, told["seconds"], told["made"], told["device"], layout,
    )  # fmt: skip
