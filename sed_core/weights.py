"""Weight files: every name, shape, type, byte and number checked before a model sees it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from sed_core.store import MANIFEST, CheckpointError, Entry, read_verified
from sed_core.strict import refuse_strangers

WEIGHTS = "model.safetensors"
LARGEST_HEADER = 1 << 20
LARGEST_TENSOR_COUNT = 2_000
LARGEST_INT8 = 127
SMALL = 2**13  # fewer numbers save nothing; the last layer, which says what is 0, has fewer
STEP = "/step"  # beside a matrix in int8: how much one unit is, for each of its rows
DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Header = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def read_header(folder: Path, entry: Entry) -> Header:
    """Names, dtypes and shapes that a safetensors file declares; the weights stay unread."""
    path = folder / WEIGHTS
    refuse_strangers(path)
    where = f"{folder.name}/{WEIGHTS}"
    size = path.stat().st_size
    if size != entry.size:
        raise CheckpointError(
            f"{where} has {size} bytes where its manifest says {entry.size}; fetch it again"
        )
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise CheckpointError(f"{where} is no safetensors file of ours; fetch it again")
        raw = file.read(length)
    try:
        table = json.loads(raw)
        table.pop("__metadata__", None)
        header = {n: (DTYPES[t["dtype"]], tuple(map(int, t["shape"]))) for n, t in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{where} has a header that can't be read; fetch it again") from None
    if len(header) > LARGEST_TENSOR_COUNT:
        raise CheckpointError(
            f"{where} declares {len(header)} tensors, at most {LARGEST_TENSOR_COUNT} are read"
        )
    return header


def compare(
    header: Header,
    wanted: Mapping[str, Tensor],
    folder: Path,
) -> None:
    """Refuse weights that are not those of the configuration."""
    where = f"{folder.name}/{WEIGHTS}"
    end = f"config and weights are not of one model; fetch {folder.name} again"
    if missing := sorted(wanted.keys() - header.keys()):
        raise CheckpointError(f"{where} lacks {missing[0]} ({len(missing)} missing): {end}")
    if unknown := sorted(header.keys() - wanted.keys()):
        raise CheckpointError(f"{where} has {unknown[0]!r:.80}, which the model has not: {end}")
    for name, (dtype, shape) in header.items():
        model = wanted[name]
        if shape != tuple(model.shape):
            raise CheckpointError(
                f"{where} has {name} of shape {shape}, the model {tuple(model.shape)}: {end}"
            )
        if dtype != model.dtype and not (dtype.is_floating_point and model.is_floating_point()):
            raise CheckpointError(f"{where} has {name} as {dtype}, the model {model.dtype}: {end}")


def read_tensors(folder: Path, name: str, manifest: Mapping[str, Entry]) -> dict[str, Tensor]:
    """The tensors of a file whose every byte is as the manifest says."""
    entry = listed(manifest, name, folder)
    refuse_strangers(folder / name)
    content = read_verified(folder, name, entry)
    try:
        return tensors_from_bytes(content)
    except (SafetensorError, ValueError, TypeError, KeyError) as fault:
        raise CheckpointError(
            f"{folder.name}/{name} is no sound safetensors file ({fault}); fetch it again"
        ) from None


def refuse_infinite(tensors: Mapping[str, Tensor], folder: Path) -> None:
    for name, part in tensors.items():
        if part.is_floating_point() and not np.isfinite(part.float().numpy().sum(dtype=np.float64)):
            raise CheckpointError(
                f"{folder.name} holds NaN or infinity in {name}; train or fetch it again"
            )


def listed(manifest: Mapping[str, Entry], name: str, folder: Path) -> Entry:
    if name not in manifest:
        raise CheckpointError(f"{folder.name}/{MANIFEST} does not list {name}; fetch it again")
    return manifest[name]


# -- eight bits a weight ---------------------------------------------------------------------------


def rounded(named: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Those of `names` that are large matrices as int8, with one step a row; all else as it is."""
    out = dict(named)
    for name in names:
        weight = named[name]
        if weight.dim() < 2 or weight.numel() < SMALL:
            continue
        rows = weight.float().flatten(1)
        step = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_INT8
        out[name] = (rows / step[:, None]).round().to(torch.int8).view_as(weight)
        out[name + STEP] = step
    return out


def unrounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `rounded` made, back as float32."""
    out = {name: part for name, part in tensors.items() if not name.endswith(STEP)}
    for name in tensors.keys() - out.keys():
        units = out[name.removesuffix(STEP)]
        rows = units.float().flatten(1) * tensors[name][:, None]
        out[name.removesuffix(STEP)] = rows.view_as(units)
    return out


def as_loaded(header: Header, folder: Path) -> Header:
    """The header as the model sees it: a matrix in int8 and its steps are one float32 tensor."""
    where = f"{folder.name}/{WEIGHTS}"
    seen = {name: kind for name, kind in header.items() if not name.endswith(STEP)}
    rounded = {name for name, (dtype, _) in seen.items() if dtype == torch.int8}
    for name in {n.removesuffix(STEP) for n in header.keys() - seen.keys()} | rounded:
        shape = seen[name][1] if name in rounded else ()
        if len(shape) < 2 or header.get(name + STEP) != (torch.float32, shape[:1]):
            raise CheckpointError(
                f"{where} has {name!r:.80} in eight bits without one step a row; "
                f"fetch {folder.name} again"
            )
        seen[name] = (torch.float32, shape)
    return seen
