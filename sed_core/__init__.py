"""Sparse diffusion: models that generate (dimension, value) pairs and leave every other entry zero.

    from sed_core import load, seeded
    batch = load("sed-mnist").sample(16, label=3, guidance=2.0, generator=seeded(7))

Names are imported when first used, so that `sed-core --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sed_core.cell_model import CellModel
    from sed_core.chance import seeded, split
    from sed_core.countsdiff import CountsConfig, CountsDiff
    from sed_core.domains.cells import setup_anndata
    from sed_core.hub import CheckpointError, load, save, shipped
    from sed_core.limits import Limits
    from sed_core.savae import SAVAE, SAVAEConfig
    from sed_core.sed import SED, DenoiserConfig
    from sed_core.sparse import SparseBatch
    from sed_core.stream import Step, Trace, every, last, record
    from sed_core.vocabulary import GeneVocabulary

__version__ = "0.1.0"
__all__ = [
    "SAVAE",
    "SED",
    "CellModel",
    "CheckpointError",
    "CountsConfig",
    "CountsDiff",
    "DenoiserConfig",
    "GeneVocabulary",
    "Limits",
    "SAVAEConfig",
    "SparseBatch",
    "Step",
    "Trace",
    "every",
    "last",
    "load",
    "record",
    "save",
    "seeded",
    "setup_anndata",
    "shipped",
    "split",
]

_HOME = {
    "cell_model": ("CellModel",),
    "chance": ("seeded", "split"),
    "countsdiff": ("CountsConfig", "CountsDiff"),
    "domains.cells": ("setup_anndata",),
    "hub": ("CheckpointError", "load", "save", "shipped"),
    "limits": ("Limits",),
    "savae": ("SAVAE", "SAVAEConfig"),
    "sed": ("SED", "DenoiserConfig"),
    "sparse": ("SparseBatch",),
    "stream": ("Step", "Trace", "every", "last", "record"),
    "vocabulary": ("GeneVocabulary",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"sed_core.{module}"), name)
    raise AttributeError(f"module 'sed_core' has no attribute {name!r}")
