"""PBMC3k as the shipped models see it: the cells held out, and the genes of the small panel."""

from collections.abc import Mapping
from functools import lru_cache

from sed_core.domains.cells import Cells, load_pbmc3k

LABEL = "cell_type"
PANEL = 2_000  # most variable genes, for models that compute on every gene
SHARES: Mapping[str, float] = {"train": 0.9, "test": 0.1}
SPLIT_SEED = 0  # the same for every model, so that no held-out cell was seen by any


@lru_cache(maxsize=1)
def parts() -> Mapping[str, Cells]:
    """2,430 training and 270 held-out cells, all 13,714 genes.

    Raises:
        DataError: where the file is nowhere to be found.
    """
    return load_pbmc3k().split(SPLIT_SEED, SHARES)


@lru_cache(maxsize=1)
def panel_parts() -> Mapping[str, Cells]:
    """The same cells with the 2,000 genes that vary most among the training cells.

    Raises:
        DataError: where the file is nowhere to be found.
    """
    whole = parts()
    chosen = whole["train"].most_variable(PANEL)
    return {"train": chosen, "test": whole["test"].with_genes(chosen.genes)}
