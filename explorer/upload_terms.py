"""What a visitor's file may hold, what comes of it, and how it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    import anndata

MB = 2**20
LONGEST = 256  # characters of a name
LABEL_COLUMNS = 32  # columns of obs taken as labels
LABEL_NAMES = 1000  # categories of one
LABEL_TEXT = 2**18  # characters of all their names together


class BadUpload(ValueError):
    """A file that is not taken; the message is one sentence for its visitor."""


def damaged(what: str) -> BadUpload:
    return BadUpload(f"This h5ad file is damaged: {what}; please save it again and upload that.")


@dataclass(frozen=True)
class UploadLimits:
    """What a file may hold: bytes on disk, cells, genes, non-zeros, and bytes of one array.

    `memory` is what its reader may take beyond its start, `seconds` how long it may look before it
    reads, `most_seconds` how long it may take in all, however much the file declares.
    """

    file_bytes: int
    cells: int
    genes: int
    nonzeros: int
    array_bytes: int
    memory: int
    seconds: float = 1.0
    most_seconds: float = 15.0


# For visitors of a server, of a class's server, and for one's own machine. Of the three, only the
# last two take the 33,000 to 37,000 genes of a raw 10x matrix.
PUBLIC = UploadLimits(50 * MB, 50_000, 20_000, 20_000_000, 320 * MB, 700 * MB)
WORKSHOP = UploadLimits(
    200 * MB, 100_000, 40_000, 50_000_000, 640 * MB, 1500 * MB, most_seconds=30.0
)
LOCAL = UploadLimits(
    4096 * MB, 1_000_000, 100_000, 500_000_000, 4096 * MB, 16_384 * MB, most_seconds=300.0
)
PRESETS: Mapping[str, UploadLimits] = {"public": PUBLIC, "workshop": WORKSHOP, "laptop": LOCAL}


@dataclass(frozen=True, eq=False)
class Label:
    """A categorical column of obs: its categories, and the place of each cell's among them.

    `codes` is int16 (cells,); -1 where the category of a cell is not known.
    """

    names: tuple[str, ...]
    codes: np.ndarray


@dataclass(frozen=True, eq=False)
class Counts:
    """A matrix of counts: CSR int64 (cells, genes) without stored zeros, and both lists of names.

    `total` is the sum of all counts, `labels` what obs says of the cells: columns of text only,
    at most 32. The matrix lies in memory of this process only when touched.
    """

    matrix: sparse.csr_matrix
    genes: tuple[str, ...]
    cells: tuple[str, ...]
    total: int
    labels: Mapping[str, Label] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""
        return len(self.cells), len(self.genes)

    def anndata(self) -> "anndata.AnnData":
        """The same as an AnnData, its matrix shared, labels as categorical columns."""
        import anndata
        import pandas as pd

        columns = {
            name: pd.Categorical.from_codes(
                label.codes.tolist(), categories=pd.Index(label.names, dtype=object)
            )
            for name, label in self.labels.items()
        }
        return anndata.AnnData(
            self.matrix,
            obs=pd.DataFrame(columns, index=pd.Index(self.cells, dtype=object)),
            var=pd.DataFrame(index=pd.Index(self.genes, dtype=object)),
        )
