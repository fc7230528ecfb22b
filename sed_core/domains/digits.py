"""Handwritten digits and fashion items: 28 x 28 grey pictures, many of their pixels exactly zero.

They are read from the folder in SED_DATA, else from the local Hugging Face cache, else, only if
asked, from the official source. Every way is checked against a sha256 known here, on every read,
and this module keeps no copies of its own.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from sed_core.domains.source import DataError, check, in_folder, looked, read_known
from sed_core.sparse import Rows, SparseBatch

Levels = NDArray[np.uint8]

CLASS_NAMES: Mapping[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}

TITLES: Mapping[str, str] = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
CREDITS: Mapping[str, str] = {
    "mnist": "Yann LeCun and Corinna Cortes, CC BY-SA 3.0",
    "fashion_mnist": "Zalando SE, MIT",
}


@dataclass(frozen=True, eq=False)
class Digits:
    """Pictures as rows of 784 grey levels, and the class of each."""

    images: UInt8[Tensor, "n 784"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Rows | None = None) -> SparseBatch:
        """The (pixel, level / 255) pairs of all rows, or of those asked for."""
        rows = slice(None) if rows is None else rows
        chosen = self.images[rows if isinstance(rows, slice | Tensor) else list(rows)]
        parts = torch.split(chosen, 8192)  # bounds the dense floats that exist at any one time
        return SparseBatch.concat([SparseBatch.from_dense(part.float() / 255) for part in parts])


@dataclass(frozen=True)
class _Source:
    """Where one set lies and the sha256 of its file here and of its decoded pictures and labels."""

    file: str
    sha256: str
    repo: str
    parquet: str
    content: Mapping[str, str]
    keep: Mapping[str, int]  # pictures of the official split that belong to ours, from the first


_SOURCES = {
    "mnist": _Source(
        file="mnist.npz",
        sha256="57b5755ba2ff4153981ec8b95e5878ebb98cae5bbe00dcbf742cb1b7960699db",
        repo="ylecun/mnist",
        parquet="mnist/{split}-00000-of-00001.parquet",
        content={
            "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
            "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
        },
        keep={"train": 60_000, "test": 10_000},
    ),
    "fashion_mnist": _Source(
        file="fashion_mnist_20k.npz",
        sha256="be92fc19205545bf537c09fed5a8a20d1ddfdd389a3cf7bc47e6b381fdb9a193",
        repo="zalando-datasets/fashion_mnist",
        parquet="fashion_mnist/{split}-00000-of-00001.parquet",
        content={
            "train": "71bb7a4420f9a4dc329740bf41730a82bee233a37c812d5491970eefac21f596",
            "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        },
        keep={"train": 20_000, "test": 10_000},
    ),
}


def load(name: str = "mnist", split: str = "train", *, allow_network: bool = False) -> Digits:
    """The pictures of one split, in their original order.

    Of Fashion-MNIST, training means the first 20,000 of its 60,000 pictures.

    Raises:
        DataError: where the data is nowhere to be found, or is not the data that was asked for.
    """
    if name not in _SOURCES:
        raise DataError(f"name must be one of {', '.join(_SOURCES)}, got {name!r}")
    if split not in ("train", "test"):
        raise DataError(f"split must be train or test, got {split!r}")
    source = _SOURCES[name]
    if file := in_folder(source.file):
        return _from_npz(file, source.sha256, split)
    if parquet := _in_cache(source, split):
        return _from_parquet(parquet, source, split)
    if allow_network:
        return _from_parquet(_download(source, split), source, split)
    raise DataError(_missing(name, source))


def _missing(name: str, source: _Source) -> str:
    return (
        f"the {name} pictures are not on this machine: {looked(source.file)}, and the Hugging Face "
        f"cache holds no {source.repo}; set SED_DATA to the folder with {source.file}, or allow "
        "the network"
    )


# the npz in SED_DATA ----------------------------------------------------------------------------


def _from_npz(file: Path, sha256: str, split: str) -> Digits:
    """Hash the bytes, then decode the very same bytes."""
    data = read_known(file, sha256)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _digits(arrays[f"x_{split}"], arrays[f"y_{split}"])
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} holds no readable x_{split} and y_{split}; copy it again"
        ) from error


def _digits(images: Levels, labels: Levels) -> Digits:
    flat = np.ascontiguousarray(images, dtype=np.uint8).reshape(len(images), -1)
    return Digits(torch.from_numpy(flat), torch.from_numpy(labels.astype(np.int64)))


# the official source ----------------------------------------------------------------------------


def _in_cache(source: _Source, split: str) -> Path | None:
    """The official file, if the Hugging Face cache of this machine has it."""
    from huggingface_hub import try_to_load_from_cache

    filename = source.parquet.format(split=split)
    found = try_to_load_from_cache(source.repo, filename, repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def _download(source: _Source, split: str) -> Path:
    """Fetch the official file; whatever the network does becomes one sentence."""
    from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]

    filename = source.parquet.format(split=split)
    try:
        return Path(hf_hub_download(source.repo, filename, repo_type="dataset", etag_timeout=5))
    except Exception as error:  # httpx, hub and operating system errors share no base class
        raise DataError(
            f"{source.repo} could not be fetched ({type(error).__name__}); check the network, or "
            f"set SED_DATA to a folder that holds {source.file}"
        ) from error


def _from_parquet(file: Path, source: _Source, split: str) -> Digits:
    """Decode the official file and compare its pictures and labels with the ones we know."""
    try:
        images, labels = _decode_parquet(file.read_bytes(), source.keep[split])
    except ImportError as error:
        raise DataError(
            f"reading {source.repo} needs {error.name}: install pyarrow and pillow, or set "
            f"SED_DATA to a folder that holds {source.file}"
        ) from error
    except Exception as error:  # pyarrow and pillow raise many kinds for a damaged file
        raise DataError(
            f"{file} is no readable copy of {source.repo} ({type(error).__name__}); "
            "delete it and fetch it again"
        ) from error
    got = content_hash(images, labels)
    check(
        got,
        source.content[split],
        f"{source.repo} ({split})",
        f"use {source.file} with SED_DATA instead",
    )
    return _digits(images, labels)


def _decode_parquet(data: bytes, keep: int) -> tuple[Levels, Levels]:
    """Pictures and labels of the first `keep` rows."""
    from PIL import Image

    table = _read_table(data).slice(0, keep)
    files = [
        Image.open(io.BytesIO(cell["bytes"])).convert("L") for cell in table["image"].to_pylist()
    ]
    return np.stack([np.asarray(file) for file in files]), table["label"].to_numpy().astype(
        np.uint8
    )


def _read_table(data: bytes) -> Any:
    import pyarrow.parquet as parquet  # pyright: ignore

    return parquet.read_table(io.BytesIO(data))  # pyright: ignore


def content_hash(images: Levels, labels: Levels) -> str:
    """The sha256 of all grey levels and then all labels, a byte each, whatever the file format."""
    pixels = np.ascontiguousarray(images, dtype=np.uint8).tobytes()
    return hashlib.sha256(
        pixels + np.ascontiguousarray(labels, dtype=np.uint8).tobytes()
    ).hexdigest()
