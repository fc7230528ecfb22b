"""Checkpoints: load, save and list models; safetensors only, every byte checked before it counts.

    manifest -> sizes -> header against the configuration -> sha256 -> copy into memory -> finite

Nothing is ever unpickled, and no weight file stays mapped: a file that changes later changes no
model. The network is used only where the caller allows it.
"""

import json
import os
import re
import threading
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sed_core import __version__, remote, weights
from sed_core.baselines import (
    DDPM,
    LDM,
    SARM,
    GatedLogGaussian,
    LogGaussian,
    MaskedDiffusion,
    NegativeBinomialVAE,
    SparsityBits,
)
from sed_core.countsdiff import CountsDiff
from sed_core.metrics.judge import DigitJudge
from sed_core.sed import SED
from sed_core.store import (
    MANIFEST,
    CheckpointError,
    Entry,
    pack,
    read_manifest,
    read_verified,
    sweep,
    write_folder,
)
from sed_core.strict import exactly, read_json, refuse_strangers
from sed_core.vocabulary import LARGEST_FILE, GeneVocabulary

__all__ = [
    "FAMILIES",
    "Card",
    "CheckpointError",
    "Source",
    "figures",
    "latents",
    "load",
    "origin",
    "resolve",
    "revise",
    "save",
    "shipped",
    "vocabulary",
]

FAMILIES: Mapping[str, type[nn.Module]] = {
    family.__name__: family
    for family in (
        *(SED, CountsDiff),
        *(DDPM, SparsityBits, LDM, SARM),
        *(LogGaussian, GatedLogGaussian, MaskedDiffusion, NegativeBinomialVAE),
        DigitJudge,
    )
}
FORMAT_VERSION = 1
CONFIG, WEIGHTS, LATENTS = "config.json", weights.WEIGHTS, "latents.safetensors"
METRICS, README, VOCABULARY = "metrics.json", "README.md", "vocabulary.json"

LARGEST_CONFIG = 1 << 16
LARGEST_HEADER = 1 << 20
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_building = threading.Lock()


@dataclass(frozen=True)
class Card:
    """What is known of a shipped checkpoint without loading it."""

    name: str
    family: str
    domain: str
    data: str
    title: str
    story: str
    licence: str
    data_licence: str
    zeros: float  # share of exact zeros in the training data
    judge: str  # checkpoint that judges its samples; "" for none
    folder: Path

    @property
    def size(self) -> int:
        """Bytes of the weight file; 0 where it is missing."""
        path = self.folder / WEIGHTS
        return path.stat().st_size if path.is_file() else 0

    def metrics(self) -> dict[str, Any]:
        """The measured figures that came with the checkpoint; empty where there are none."""
        return figures(self.folder)


class Source(NamedTuple):
    """Where a checkpoint was found: its folder, and the commit if it came from the Hub."""

    ref: str
    folder: Path
    commit: str | None


# -- load and save ---------------------------------------------------------------------------------


def load(
    ref: str | Path,
    *,
    device: str | torch.device = "auto",
    revision: str | None = None,
    allow_network: bool = False,
) -> nn.Module:
    """A model ready to use: in eval mode, without gradients.

    Args:
        ref: name of a shipped checkpoint, a folder, or owner/name[@revision] on the Hub.
        device: "auto" takes CUDA where there is one.
        revision: commit, branch or tag of a Hub reference.
        allow_network: whether a Hub checkpoint that is not in the local cache may be fetched.

    Raises:
        CheckpointError: one sentence that names what was wanted, what came and what to do.
    """
    target = place(device)
    source = resolve(ref, revision=revision, allow_network=allow_network)
    family, configs = _read_config(source.folder)
    manifest = _read_manifest(source.folder)
    header = weights.read_header(source.folder, weights.listed(manifest, WEIGHTS, source.folder))
    header = weights.as_loaded(header, source.folder)
    weights.compare(header, _blueprint(family, configs, len(header)), source.folder)
    tensors = weights.unrounded(weights.read_tensors(source.folder, WEIGHTS, manifest))
    weights.refuse_infinite(tensors, source.folder)
    model = _build(family, configs)
    model.load_state_dict(tensors, strict=True)
    return model.to(target).eval().requires_grad_(False)


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    metrics: Mapping[str, Any],
    card: str,
    recipe: str,
    dtype: Literal["float32", "float16", "int8"] = "float16",
    latents: Mapping[str, Tensor] | None = None,
    vocabulary: GeneVocabulary | None = None,
) -> None:
    """Write a checkpoint folder in one move; `recipe` is the command that made the model.

    Parameters are stored in `dtype` (int8: large matrices with one step a row, the rest float16),
    buffers as they are; loading gives float32 again. A model of cells brings its `vocabulary`.
    """
    target = Path(folder)
    if vocabulary is not None:
        _refuse_other_genes(vocabulary, getattr(model, "dim", None), target)
    named = {name: part.detach().cpu() for name, part in model.state_dict().items()}
    parameters = {name for name, _ in model.named_parameters()}
    if dtype == "int8":
        named = weights.rounded(named, parameters)
    if dtype != "float32":
        named = {n: _half(t) if n in parameters else t for n, t in named.items()}
    weights.refuse_infinite(named, target)
    files = {
        CONFIG: _json_bytes(_config(model)),
        WEIGHTS: pack(named),
        METRICS: _json_bytes({**metrics, "recipe": recipe}),
        README: card.encode(),
    }
    if latents is not None:
        files[LATENTS] = pack(latents)
    if vocabulary is not None:
        files[VOCABULARY] = vocabulary.to_json()
    sweep(target.absolute().parent)
    write_folder(target, files)


def revise(folder: str | Path, *, metrics: Mapping[str, Any], card: str) -> None:
    """Put other figures and another card into a checkpoint, in one move; its weights stay."""
    target = Path(folder)
    manifest = read_manifest(target)
    kept = {name: read_verified(target, name, entry) for name, entry in manifest.items()}
    write_folder(target, {**kept, METRICS: _json_bytes(metrics), README: card.encode()})


def figures(folder: str | Path) -> dict[str, Any]:
    """What the metrics.json of a checkpoint holds; empty where there is none."""
    path = Path(folder) / METRICS
    return read_json(path, LARGEST_HEADER) if path.is_file() else {}


def latents(ref: str | Path, *, revision: str | None = None) -> dict[str, Tensor]:
    """The training latents' 2-D map that comes with a SED checkpoint.

    Returns:
        xy (n, 2), label (n,), project (Z, 2), origin (2,): z @ project + origin lies in the map.
    """
    folder = resolve(ref, revision=revision).folder
    tensors = weights.read_tensors(folder, LATENTS, _read_manifest(folder))
    weights.refuse_infinite(tensors, folder)
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def origin(source: Source) -> dict[str, Any]:
    """What a recipe says of the checkpoint that made something, and of the programs."""
    return {
        "checkpoint": source.ref,
        "commit": source.commit,
        "weights_sha256": weights.listed(read_manifest(source.folder), WEIGHTS, source.folder)[0],
        "versions": {"sed-core": __version__, "torch": version("torch")},
    }


def vocabulary(
    ref: str | Path,
    *,
    revision: str | None = None,
    allow_network: bool = False,
    dim: int | None = None,
) -> GeneVocabulary | None:
    """The genes and labels that come with a checkpoint of cells; None for one of other data.

    Args:
        dim: how many genes the model has, to be compared with those that are named.

    Raises:
        CheckpointError: for a file that was altered, is larger than 16 MB, or is of another model.
    """
    folder = resolve(ref, revision=revision, allow_network=allow_network).folder
    manifest = _read_manifest(folder)
    if VOCABULARY not in manifest:
        return None
    where = f"{folder.name}/{VOCABULARY}"
    if manifest[VOCABULARY].size > LARGEST_FILE:
        raise CheckpointError(f"{where} is larger than {LARGEST_FILE} bytes; fetch it again")
    refuse_strangers(folder / VOCABULARY)
    raw = read_verified(folder, VOCABULARY, manifest[VOCABULARY])
    found = GeneVocabulary.from_json(raw, where)
    _refuse_other_genes(found, dim, folder)
    return found


def _refuse_other_genes(found: GeneVocabulary, dim: int | None, folder: Path) -> None:
    if dim is not None and len(found.genes) != dim:
        raise CheckpointError(
            f"{folder.name}/{VOCABULARY} names {len(found.genes):,} genes, the model has {dim:,} "
            "dimensions; they are not of one model"
        )


# -- what is there ---------------------------------------------------------------------------------


def checkpoints_folder() -> Path:
    """Where shipped checkpoints lie: SED_CHECKPOINTS, else beside the package."""
    if named := os.environ.get("SED_CHECKPOINTS"):
        return Path(named)
    return Path(__file__).resolve().parents[1] / "checkpoints"


def shipped() -> list[Card]:
    """The cards of all shipped checkpoints, in the order of cards.toml."""
    folder = checkpoints_folder()
    path = folder / "cards.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return []
    except ValueError as fault:
        raise CheckpointError(
            f"{path.name} can't be read ({fault}); mend it or clone again"
        ) from None
    return [_card(name, entry, folder / name) for name, entry in table.items()]


def resolve(ref: str | Path, *, revision: str | None = None, allow_network: bool = False) -> Source:
    """Find a checkpoint: shipped, a folder, in the local Hub cache, or on the network if let."""
    text = str(ref)
    _refuse_files(text)
    if _NAME.fullmatch(text) and (checkpoints_folder() / text).is_dir():
        return Source(text, checkpoints_folder() / text, None)
    if os.path.isdir(text):  # False, where pathlib raises, for what can be no path at all
        return Source(text, Path(text), None)
    repo, at, named = text.partition("@")
    if not remote.is_repo(repo):
        raise CheckpointError(_unknown(text))
    if at and revision not in (None, named):
        raise CheckpointError(f"{text} and revision {revision!r} are two revisions; give one")
    folder = remote.find(repo, named if at else revision, allow_network=allow_network)
    return Source(repo, folder, folder.name)


def _unknown(text: str) -> str:
    names = [card.name for card in shipped()]
    if text in names:
        return (
            f"{text} ships with this project and its folder is missing; clone again, or train it "
            f"with 'sed-core train {text}'"
        )
    return (
        f"no checkpoint {text[:80]!r}: it is no shipped name ({_few(names)}), "
        "no folder here and no owner/name of the Hub; 'sed-core models' lists what there is"
    )


def _few(names: list[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none here") + more


def _refuse_files(text: str) -> None:
    """A reference names a folder; say so to who points at a weight file."""
    if Path(text).suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{Path(text).name!r:.80} is a pickle, which can run code; only safetensors are read: "
            "give the folder of a checkpoint that sed-core saved"
        )
    if text.endswith(".safetensors"):
        raise CheckpointError(f"{Path(text).name!r:.80} is one file; give the folder it lies in")


def _card(name: str, entry: Any, folder: Path) -> Card:
    hints = {k: v for k, v in get_type_hints(Card).items() if k not in ("name", "folder")}
    values = exactly(entry, hints, f"cards.toml [{name}]")
    return Card(name=name, folder=folder, **values)


# -- configuration ---------------------------------------------------------------------------------


def _config(model: nn.Module) -> dict[str, Any]:
    """What config.json says of a model."""
    family = type(model).__name__
    if FAMILIES.get(family) is not type(model):
        raise ValueError(f"can save one of {', '.join(FAMILIES)}, got a {family}")
    configs = cast("Mapping[str, Any]", model.configs)
    parts = {name: asdict(config) for name, config in configs.items()}
    return {"format_version": FORMAT_VERSION, "family": family, "configs": parts}


def _read_config(folder: Path) -> tuple[type[nn.Module], dict[str, Any]]:
    """The family and the configurations of a checkpoint, each key and type checked."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(_no_config(folder))
    raw = read_json(folder / CONFIG, LARGEST_CONFIG)
    where = f"{folder.name}/{CONFIG}"
    version = raw.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format {version}, this sed-core reads up to {FORMAT_VERSION}; "
            "update sed-core"
        )
    top = {"format_version": Literal[1], "family": str, "configs": dict}
    values = exactly(raw, top, where)
    family = FAMILIES.get(values["family"])
    if family is None:
        raise CheckpointError(
            f"{where} asks for family {values['family']!r:.60}, this sed-core knows "
            f"{', '.join(FAMILIES)}; update sed-core"
        )
    known = cast("Mapping[str, type[Any]]", family.CONFIGS)  # type: ignore[attr-defined]
    parts = exactly(values["configs"], dict.fromkeys(known, dict), where)
    return family, {name: _read_part(known[name], parts[name], where) for name in known}


def _read_part(kind: type[Any], raw: Any, where: str) -> Any:
    """One flat configuration dataclass from its JSON object."""
    hints = get_type_hints(kind)
    values = exactly(raw, {f.name: hints[f.name] for f in fields(kind)}, f"{where} {kind.__name__}")
    try:
        return kind(**values)
    except (ValueError, ArithmeticError) as fault:
        raise CheckpointError(f"{where} describes no possible model: {fault}") from None


def _read_manifest(folder: Path) -> dict[str, Entry]:
    """The manifest, after config.json was found to be the one it names."""
    if (folder / MANIFEST).is_file():
        refuse_strangers(folder / MANIFEST)
    manifest = read_manifest(folder)
    read_verified(folder, CONFIG, weights.listed(manifest, CONFIG, folder))
    return manifest


# -- building --------------------------------------------------------------------------------------


def _blueprint(family: type[nn.Module], configs: dict[str, Any], most: int) -> dict[str, Tensor]:
    """The state dict the configuration asks for, on the meta device: shapes and no memory."""
    try:
        with _at_most(most), torch.device("meta"):
            return family(**configs).state_dict()
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as fault:
        raise CheckpointError(f"{CONFIG} describes no possible model: {fault}") from None


@contextmanager
def _at_most(most: int) -> Generator[None]:
    """Stop building once a model has more parameters than its weight file has tensors."""
    here, count = threading.get_ident(), 0

    def counted(_module: nn.Module, _name: str, _parameter: Any) -> None:
        nonlocal count
        count += threading.get_ident() == here
        if count > 2 * most + 64:
            raise ValueError(f"it has more parameters than the {most} tensors of {WEIGHTS}")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def _build(family: type[nn.Module], configs: dict[str, Any]) -> nn.Module:
    """The model with whatever weights, the global generator as it was."""
    with _building, torch.random.fork_rng(devices=[]):
        return family(**configs)


def place(device: str | torch.device) -> torch.device:
    """The device that a word means; "auto" takes CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for and this machine has none; use cpu or auto")
    return found


# -- files -----------------------------------------------------------------------------------------


def _half(part: Tensor) -> Tensor:
    return part.half() if part.is_floating_point() else part


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _no_config(folder: Path) -> str:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
    if pickles:
        return f"{folder.name} holds {pickles[0]}, a pickle; only safetensors are read"
    return f"{folder.name} has no {CONFIG}, so it is no checkpoint; see 'sed-core models'"
