"""The checkpoints of a comparison and their samples, which an interrupted run finds again."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from sed_core import hub
from sed_core.baselines import Rule
from sed_core.chance import seeded, split
from sed_core.comparison.aims import Aim
from sed_core.sparse import SparseBatch
from sed_core.store import pack, read_manifest

RULES: tuple[Rule, ...] = ("match", "half_min")
CUT = ("DDPM", "LDM")  # families whose samples have no exact zeros of their own
NAMES = {"SparsityBits": "Sparsity Bits"}  # of families, where the table writes them otherwise


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn and measured."""

    samples: int = 2000
    validation: int = 500  # other samples, to fit thresholds on
    seed: int = 0
    guidance: float = 2.0
    steps: int = 50
    batch: int = 250  # rows drawn at once; changes the memory and the time, not the samples
    costs: bool = True
    repeats: int = 5  # timed runs a batch size

    def __post_init__(self) -> None:
        for name in ("samples", "validation"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if self.batch < 1 or self.repeats < 1:
            raise ValueError(
                f"batch and repeats must be at least 1, got {self.batch} and {self.repeats}"
            )


@dataclass(frozen=True, eq=False)
class Peer:
    """A checkpoint that takes part."""

    ref: str
    model: nn.Module
    key: str  # sha256 of its weights

    @property
    def family(self) -> str:
        """Name of its class."""
        return type(self.model).__name__

    @property
    def rules(self) -> tuple[Rule | None, ...]:
        """As it is, and thresholded where zeros are not exact by themselves."""
        return (None, *RULES) if self.family in CUT else (None,)

    @property
    def classes(self) -> int:
        """Classes that can be asked for; 0 for none."""
        return cast(Any, self.model).classes

    @property
    def dim(self) -> int:
        """Dimensions of its samples."""
        return cast(Any, self.model).dim

    def name(self, rule: Rule | None) -> str:
        """What the table calls it."""
        plain = NAMES.get(self.family, self.family)
        return plain if rule is None else f"{plain} + threshold ({rule})"

    def options(self, plan: Plan, label: int | Tensor | None) -> dict[str, Any]:
        """Options of its `sample`."""
        asked: dict[str, Any] = {"steps": plan.steps}
        return {**asked, "label": label, "guidance": plan.guidance} if self.classes else asked


def load_peer(ref: str, aim: Aim, *, device: str = "auto", network: bool = False) -> Peer:
    """A checkpoint that makes samples of this data.

    Raises:
        ValueError: where it makes none, or such of another number of dimensions.
    """
    source = hub.resolve(ref, allow_network=network)
    model = hub.load(ref, device=device, allow_network=network)
    if not hasattr(model, "sample"):
        raise ValueError(
            f"{ref} is a {type(model).__name__}, which makes no samples; see 'sed-core models'"
        )
    peer = Peer(ref, model, read_manifest(source.folder)[hub.WEIGHTS].sha256)
    if peer.dim != aim.test.dim:
        raise ValueError(f"{aim.title} has {aim.test.dim} dimensions, {ref} makes {peer.dim}")
    return peer


def samples(
    peer: Peer,
    n: int,
    labels: Int[Tensor, " n"] | None,
    plan: Plan,
    *,
    seed: int,
    keep: Path | None = None,
    tick: Callable[[int], None] = lambda rows: None,
) -> Float[Tensor, "n D"]:
    """n samples in data units; sample k depends on the seed, on k and on its class only.

    Batches that `keep` holds already are read from there instead.
    """
    chance, parts = split(seeded(seed), n), list[Tensor]()
    for first in range(0, n, plan.batch):
        rows = slice(first, min(n, first + plan.batch))
        label = None if labels is None else labels[rows]
        path = None if keep is None else keep / _name(peer, plan, seed, rows, label)
        part = None if path is None else _kept(path, rows.stop - rows.start, peer.dim)
        if part is None:
            part = _draw(peer, plan, label, chance[rows])
            if path is not None:
                write(path, pack({"x": part}))
        parts.append(part)
        tick(len(part))
    return torch.cat(parts)


def _draw(
    peer: Peer, plan: Plan, label: Tensor | None, chance: list[torch.Generator]
) -> Float[Tensor, "b D"]:
    options = peer.options(plan, label)
    made = cast(Any, peer.model).sample(len(chance), generator=chance, **options)
    return made.to("cpu").to_dense() if isinstance(made, SparseBatch) else made.cpu()


def _name(peer: Peer, plan: Plan, seed: int, rows: slice, label: Tensor | None) -> str:
    """A file name that changes with everything these samples depend on."""
    asked = [] if label is None else cast("list[int]", label.tolist())
    told = [peer.key, seed, plan.steps, plan.guidance if asked else None, asked, torch.__version__]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return f"{Path(peer.ref).name}-{digest}-{rows.start}-{rows.stop}.safetensors"


def _kept(path: Path, rows: int, dim: int) -> Tensor | None:
    """Samples that were drawn before; None where the file is missing or damaged."""
    try:
        x = load_tensors(path.read_bytes())["x"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = x.shape == (rows, dim) and bool(x.isfinite().all())
    return x if whole else None


def write(path: Path, content: bytes) -> None:
    """All of the file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_bytes(content)
    half.replace(path)
