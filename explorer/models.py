"""Checkpoints for the pages: loaded once a process, shared by all, keyed by their bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
import torch
from torch import nn

from explorer.kinds import MNIST, Kind, kind
from sed_core import hub
from sed_core.baselines import DDPM, LDM, LogGaussian, MaskedDiffusion, SparsityBits
from sed_core.countsdiff import CountsDiff
from sed_core.hub import Card, CheckpointError
from sed_core.metrics.judge import DigitJudge
from sed_core.sed import SED
from sed_core.store import MANIFEST, read_manifest, verify
from sed_core.strict import read_json
from sed_core.weights import STEP

torch.set_num_threads(1)  # one job, one thread: faster here than two, and safe beside others


PEERS: Mapping[str, type[nn.Module]] = {"sed": SED, "ddpm": DDPM, "ldm": LDM, "bits": SparsityBits}
COUNTS: tuple[type[nn.Module], ...] = (CountsDiff, LogGaussian, MaskedDiffusion)
COUNTED = {"digit": "mnist", "ten": "toy"}  # what the page Counts calls its data

CELLS = "cells"  # domain of the checkpoints that the page Cells uses
CELL_SNIPPET = """from sed_core.cell_model import CellModel

model = CellModel.load("{name}")
adata = model.sample(100, label="B", seed=7)  # AnnData: raw counts, CSR, genes by name"""


@dataclass(frozen=True)
class Loaded:
    """A SED, the sha256 of what makes its samples, and the map of its training latents."""

    model: SED
    sha: str
    cloud: dict[str, Any] | None
    kind: Kind = MNIST


@dataclass(frozen=True)
class Peer:
    """A model of any family that makes samples, and the sha256 of what makes them."""

    model: Any
    sha: str


def cards() -> list[Card]:
    """All shipped checkpoints."""
    return hub.shipped()


def generators() -> list[Card]:
    """The shipped checkpoints that make pictures pair by pair; cells have a page of their own."""
    return [c for c in cards() if c.family == SED.__name__ and c.domain != CELLS]


def kinds() -> dict[str, Kind]:
    """What each of them was trained on, as the pages draw it."""
    return {card.name: kind(card.data) for card in generators()}


def peers(data: str) -> dict[str, Card]:
    """The shipped checkpoints trained on a set of data that can be compared, one a family."""
    found = {card.family: card for card in reversed(cards()) if card.data == data}
    there = {key: found[family.__name__] for key, family in PEERS.items()
             if family.__name__ in found}  # fmt: skip
    return {key: card for key, card in there.items() if (card.folder / MANIFEST).is_file()}


def sha(folder: Path) -> str:
    """sha256 of what makes the samples: configuration and weights, as the manifest names them.

    New figures or a new card leave it as it is.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(_missing(folder.name))
    manifest = read_manifest(folder)
    parts = [manifest[name].sha256 for name in (hub.CONFIG, hub.WEIGHTS) if name in manifest]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load(name: str) -> Loaded:
    """A shipped checkpoint by name, loaded at most once while its manifest stays the same."""
    for card in generators():
        if card.name == name:
            return _load(name, card.data, sha(card.folder), _device())
    raise CheckpointError(_missing(name))


def peer(name: str) -> Peer:
    """A shipped checkpoint of any family that makes samples, loaded at most once."""
    for card in cards():
        if card.name == name and card.family in {family.__name__ for family in PEERS.values()}:
            if card.family == SED.__name__:
                return Peer(load(name).model, sha(card.folder))
            return _peer(name, sha(card.folder), _device())
    raise CheckpointError(_missing(name))


def counts_models() -> dict[str, list[str]]:
    """The shipped CountsDiff of each data that the page Counts knows."""
    return {
        data: [card.name for card in cards() if _counts(card) and card.data == name]
        for data, name in COUNTED.items()
    }


def _counts(card: Card) -> bool:
    return card.family == CountsDiff.__name__ and (card.folder / MANIFEST).is_file()


def own_schedule(name: str) -> str:
    """The survival schedule that a CountsDiff comes with; read without loading its weights."""
    for card in cards():
        if card.name == name and _counts(card):
            try:
                config = read_json(card.folder / hub.CONFIG, hub.LARGEST_CONFIG)
                return str(config["configs"]["config"]["schedule"])
            except (CheckpointError, KeyError):
                break  # whoever loads the model is told what is wrong with it
    return "cosine"


def counts_sha(name: str) -> str:
    """What `sha` says of a checkpoint of counts; empty where it is not here."""
    found = [card for card in cards() if card.name == name and (card.folder / MANIFEST).is_file()]
    return sha(found[0].folder) if found else ""


def counts(name: str) -> Peer:
    """A shipped checkpoint of counts of any family, loaded at most once."""
    for card in cards():
        if card.name == name and card.family in {family.__name__ for family in COUNTS}:
            return _peer(name, sha(card.folder), _device())
    raise CheckpointError(_missing(name))


def judge(data: str) -> DigitJudge | None:
    """The judge that belongs to a set of data, where there is one."""
    for card in cards():
        if card.family == DigitJudge.__name__ and card.data == data:
            found = hub.load(card.name, device="cpu")
            assert isinstance(found, DigitJudge)
            return found
    return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _load(name: str, data: str, sha: str, device: str) -> Loaded:
    model = hub.load(name, device=device)
    assert isinstance(model, SED)
    try:
        cloud = hub.latents(name)
    except CheckpointError:  # a model is complete without its map
        return Loaded(model, sha, None, kind(data))
    return Loaded(model, sha, {**cloud, "classes": kind(data).classes}, kind(data))


@st.cache_resource(max_entries=12, show_spinner=False)
def _peer(name: str, sha: str, device: str) -> Peer:
    return Peer(hub.load(name, device=device), sha)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def fault(card: Card) -> str:
    """What is wrong with a checkpoint's files, in one sentence; empty if nothing is."""
    try:
        return _fault(str(card.folder), sha(card.folder), _stamps(card.folder))
    except CheckpointError as error:
        return str(error)


@st.cache_data(max_entries=32, show_spinner=False)
def _fault(folder: str, sha: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    try:
        verify(Path(folder))
    except CheckpointError as error:
        return str(error)
    return ""


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Size and time of each file: when one changes, its bytes are hashed again."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)


@st.cache_data(max_entries=32, show_spinner=False)
def parameters(folder: str, sha: str) -> int:
    """Number of weights, read from the header of the weight file."""
    from safetensors import safe_open

    with safe_open(Path(folder) / hub.WEIGHTS, "pt") as file:
        names = [name for name in file.keys() if not name.endswith(STEP)]  # noqa: SIM118
        return sum(_size(file.get_slice(name).get_shape()) for name in names)


def _size(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def _missing(name: str) -> str:
    return (
        f"The checkpoint {name!r:.60} is not here or has no {MANIFEST}; "
        "fetch the repository's checkpoints folder again, or train it with 'sed-core train'."
    )


# -- what the Models page says -------------------------------------------------------------------


def line(card: Card) -> dict[str, Any]:
    """A checkpoint in one line of the table."""
    broken = fault(card)
    digest = "" if broken else sha(card.folder)
    return {
        "name": card.name,
        "task": card.title,
        "data": card.data,
        "size": card.size,
        "parameters": None if broken else parameters(str(card.folder), digest),
        "zeros of data": _percent(card.zeros if makes_samples(card) else None),
        "zeros of samples": _percent(_zeros_of_samples(card)),
        "licence": card.licence,
        "data licence": card.data_licence,
        "sha256": digest[:8],
        "verified": "no" if broken else "yes",
    }


def snippet(card: Card) -> str:
    """Python that loads a checkpoint and uses it."""
    load = f'from sed_core import hub\n\nmodel = hub.load("{card.name}")'
    if not makes_samples(card):
        return load
    asked = "16, " if card.data == COUNTED["ten"] else "16, label=3, guidance=2.0, "
    if card.domain == CELLS:
        return CELL_SNIPPET.format(name=card.name)
    form = (
        "samples.to_csr()  # scipy CSR: only the pairs, no zeros"
        if card.family == SED.__name__
        else "samples.shape  # every dimension of every sample, in the data's units"
    )
    return (
        "from sed_core.chance import seeded\n"
        f"{load}\n"
        f"samples = model.sample({asked}generator=seeded(7))\n"
        f"{form}"
    )


def makes_samples(card: Card) -> bool:
    """Whether it generates; a judge does not."""
    return card.family != DigitJudge.__name__


def card_text(card: Card) -> str:
    """The checkpoint's README, without its front matter."""
    text = (card.folder / hub.README).read_text(encoding="utf-8")
    if text.startswith("---\n") and "\n---\n" in text[4:]:
        text = text[4:].split("\n---\n", 1)[1]
    return text


def measured(card: Card) -> list[dict[str, Any]]:
    """What was wanted of a model and what was measured, from its metrics.json."""
    targets = card.metrics().get("targets", [])
    return [{**target, "met": "yes" if target["met"] else "no"} for target in targets]


def _zeros_of_samples(card: Card) -> float | None:
    """As the model makes them, without a cut."""
    metrics = card.metrics()
    alone = metrics.get("figures", {})
    compared = metrics.get("comparison", {}).get("methods", [])
    figures = alone or (compared[0]["figures"] if compared else {})
    return figures.get("zero_share", {}).get("value")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
