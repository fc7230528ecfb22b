"""Small models of cells on a shelf, real cells that never were, and recordings of both."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse

from explorer import cell_reference, cell_state, record_cells
from explorer.cell_params import Params
from sed_core import hub
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.vocabulary import GeneVocabulary
from tests.small import randomise

TYPES = ("B", "NK", "Mono")
PANEL = (*(f"G{k}" for k in range(40)), "LYZ")
GENES = (*(f"EXTRA{k}" for k in range(9)), *reversed(PANEL))  # SED knows more, in another order
CARD = """
[{name}]
family = "{family}"
domain = "cells"
data = "pbmc3k"
title = "Cells"
story = "Small; for tests."
licence = "Apache-2.0"
data_licence = "none"
zeros = 0.8
judge = ""
"""


def cells(n: int = 150, seed: int = 0):
    """Counts of three types that differ in their genes, CSR (n, 41), and the type of each."""
    chance = np.random.default_rng(seed)
    kind = np.arange(n) % (len(TYPES) + 1)  # the last is unknown
    rate = chance.gamma(0.4, 1.0, (len(TYPES) + 1, len(PANEL)))
    counts = chance.poisson(rate[kind] * chance.gamma(4.0, 0.25, (n, 1)))
    counts[:, 0] += 1  # no cell is empty
    return scipy.sparse.csr_matrix(counts.astype(np.int32)), kind


def reference():
    """Statistics of them, with a layout."""
    counts, kind = cells()
    held, _ = cells(30, 1)
    found = cell_reference.reference(counts, PANEL, name="150 cells that never were", types=TYPES,
                                     kind=kind.tolist(), held=held)  # fmt: skip
    return replace(found, layout=found.pcs[:, 1:3] * 2)


def models(more=GENES, panel=PANEL, types=TYPES):
    """A SED on more genes, a CountsDiff on the panel; random weights."""
    savae = SAVAEConfig(
        dim=len(more), latent=6, width=16, heads=2, encoder_layers=1, decoder_layers=1,
        pool_width=24, draft_width=16, index_head="nested", value_law="counts", value_mean=0.4,
        value_sd=0.5, value_smallest=1.0,
    )  # fmt: skip
    sed = SED(savae, DenoiserConfig(latent=6, widths=(16, 8), condition=8, classes=len(types)))
    shape = CountsConfig(dim=len(panel), width=16, layers=1, condition=8, classes=len(types))
    return {"sed-pbmc3k": (sed, more), "counts-pbmc3k": (CountsDiff(shape), panel)}


def fill(folder: Path, *, real: bool = False) -> Path:
    """Put them and their cards into a folder; real: of the genes and types of the shipped cells."""
    folder.mkdir(exist_ok=True)
    cards, types, sizes = "", TYPES, (GENES, PANEL)
    if real:
        shipped = cell_reference.read(cell_state.RECORDED / cell_state.REFERENCE)
        types, sizes = shipped.types[:-1], (shipped.genes, shipped.genes)
    for name, (model, genes) in models(*sizes, types).items():
        randomise(model, gain=0.3)
        hub.save(model, folder / name, metrics={}, card=f"# {name}\n", recipe="tests",
                 vocabulary=GeneVocabulary(genes, "cell_type", types))  # fmt: skip
        cards += CARD.format(name=name, family=type(model).__name__)
    with (folder / "cards.toml").open("a", encoding="utf-8") as file:
        file.write(cards)
    return folder


def record(folder: Path, checkpoints: Path, monkeypatch) -> Path:
    """The reference, and a few cells of each model; none is placed by UMAP."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(checkpoints))
    monkeypatch.setattr(record_cells.cell_runs, "placed", lambda made, found, tick: made)
    folder.mkdir(exist_ok=True)
    found = reference()
    (folder / cell_state.REFERENCE).write_bytes(cell_reference.pack(found))
    for family in ("sed", "counts"):
        made = record_cells.made(family, Params(family=family, n=100, steps=10), found)
        (folder / f"{family}.safetensors.gz").write_bytes(made)
    return folder
