"""Rows of counts with gaps, in and out, as npz that numpy opens without pickles."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sed_core.countsdiff import check_counts
from sed_core.files import Recipe, check, replace_file
from sed_core.imputation import summary

LARGEST_FILE, ENDINGS = 1 << 30, (".npz",)


def read(path: Path) -> tuple[Int64[Tensor, "n D"], Bool[Tensor, "n D"]]:
    """`counts` and `observed` of an npz; what stands where nothing is observed is put to 0.

    Raises:
        ValueError: for a file that lacks one of them, or whose arrays are none of counts.
    """
    wanted = "needs an npz with `counts` (n, D) and `observed` (n, D), true where a count is known"
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE >> 20} MB; split it by rows")
    try:
        with np.load(path, allow_pickle=False) as found:
            counts, observed = (np.asarray(found[name]) for name in ("counts", "observed"))
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as fault:
        raise ValueError(f"imputation {wanted}; {path.name} is none") from fault
    if counts.ndim != 2 or observed.shape != counts.shape or not counts.size:
        raise ValueError(
            f"imputation {wanted}; in {path.name} they are {counts.shape} and {observed.shape}"
        )
    if observed.dtype != np.bool_ or counts.dtype.kind not in "iuf":
        raise ValueError(
            f"`observed` holds true and false and `counts` numbers, got {observed.dtype} and "
            f"{counts.dtype} in {path.name}"
        )
    known = torch.from_numpy(np.where(observed, counts, 0))
    check_counts(known)
    return known.long(), torch.from_numpy(observed)


def write(
    path: Path, draws: Sequence[Tensor], counts: Tensor, observed: Tensor, recipe: Recipe
) -> None:
    """`draws` (M, n, D), their mean and sd, what was observed, and the recipe."""
    check(path, ENDINGS)
    replace_file(path, imputed_npz(torch.cat(list(draws), 1), counts, observed, recipe))


def imputed_npz(
    draws: Int64[Tensor, "M n D"],
    counts: Int64[Tensor, "n D"],
    observed: Bool[Tensor, "n D"],
    recipe: Recipe,
) -> bytes:
    """The file as `write` writes it."""
    found = summary(draws)
    arrays: dict[str, Any] = {
        "draws": draws.numpy(),
        "mean": found.mean.numpy(),
        "sd": found.sd.numpy(),
        "counts": counts.numpy(),
        "observed": observed.numpy(),
        "recipe": np.array(json.dumps(recipe)),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
