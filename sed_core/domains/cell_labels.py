"""Labels of cells as numbers of one vocabulary; what is not known has the last number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from sed_core.domains.source import DataError

MOST_LABELS = 1000


@dataclass(frozen=True, eq=False)
class Labels:
    """One label of each cell: its number in `names`; len(names) where it is not known."""

    names: tuple[str, ...]
    numbers: Int64[Tensor, " n"]

    def text(self) -> list[str | None]:
        """The label of each cell, None where it is not known."""
        words = (*self.names, None)
        return [words[int(number)] for number in self.numbers]


def read_labels(
    values: Any, name: str, unknown: Sequence[str] = (), names: Sequence[str] | None = None
) -> Labels:
    """Labels of a column: in the order of its categories, else sorted; gaps are unknown.

    Args:
        names: the vocabulary, where there is one already.

    Raises:
        DataError: for a column in which nothing is known, or with more than 1,000 names.
    """
    column = pd.Series(values)
    gap = column.isna().to_numpy()
    words = np.where(gap, "", column.astype(object).astype(str)).astype(object)
    gap = gap | np.isin(words.astype(str), np.array(["", *unknown]))
    if names is None:
        there = set(words[~gap])
        kinds: Any = column.dtype
        ordered = isinstance(kinds, pd.CategoricalDtype)
        categories: Any = kinds.categories if ordered else sorted(there)
        names = [str(category) for category in categories]
        names = [word for word in dict.fromkeys(names) if word in there]
    if not 1 <= len(names) <= MOST_LABELS:
        raise DataError(
            f"the label {name!r} has {len(names):,} different values; 1 to {MOST_LABELS:,} make a "
            "label, name another column"
        )
    number = {word: k for k, word in enumerate(names)}
    numbers = [
        len(names) if g else number.get(w, len(names)) for w, g in zip(words, gap, strict=True)
    ]
    return Labels(tuple(names), torch.tensor(numbers, dtype=torch.int64))
