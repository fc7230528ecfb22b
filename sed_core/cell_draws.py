"""Cells to be measured: those that a checkpoint makes, those of a file, and the floor's.

Every model is asked for types as frequent as they are among the held-out cells. What it makes are
counts, as a CSR matrix with the names of its genes; of an LDM they are dense numbers first, which
are rounded, or cut at the value that gives the share of zeros of training cells.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from sed_core import hub
from sed_core.baselines import fit_threshold
from sed_core.baselines.independent import Independent
from sed_core.chance import seeded, split
from sed_core.comparison.peers import write
from sed_core.domains import pbmc
from sed_core.domains.cells import PBMC3K_CREDIT, PBMC3K_TITLE, Cells, setup_anndata
from sed_core.domains.source import DataError
from sed_core.metrics import cell_space
from sed_core.sparse import SparseBatch
from sed_core.store import pack, read_manifest

_sparse: Any = scipy.sparse  # whose own annotations say little
Rule = Literal["round", "match"]

UNKNOWN = "unknown"  # the type of cells that have none
MOST = 10_000  # cells of a file in each half
USUAL: Mapping[str, Mapping[str, Any]] = {  # of others 50 steps and nothing else
    "CountsDiff": {"steps": 50, "births": "poisson"},
    "GatedLogGaussian": {"steps": 100},
    "LogGaussian": {"steps": 100},
    "LDM": {"steps": 100, "sampler": "ddpm"},
}
AT_ONCE = ("NegativeBinomialVAE",)  # families that take no steps and no guidance
DENSE = ("LDM",)  # families whose samples are no counts yet
NAMES = {
    "LogGaussian": "DDPM on log1p",
    "GatedLogGaussian": "DDPM on log1p",
    "LDM": "LDM on log1p",
    "NegativeBinomialVAE": "NB-VAE",
}
BATCH = 90  # cells drawn at once; changes the memory and the time, not the cells
OTHER, VALIDATION = 1_000_003, 270  # seed and number of the cells a threshold is fitted on
NOTES: Mapping[str, str] = {
    "round": "dense numbers, rounded",
    "match": "cut where the share of zeros is that of training cells; what is left is 1 at least",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn and measured; what is left out is up to the family or the data."""

    samples: int | None = None
    seed: int = 0
    guidance: float = 1.0
    steps: int | None = None
    sets: int = 9  # of made cells, each as many as there are held-out ones
    trees: int = 1000


@dataclass(frozen=True, eq=False)
class Real:
    """Real cells in two parts: those that set the floor, and those that all are compared with."""

    title: str
    credit: str
    train: Cells
    test: Cells
    label: str | None
    panel: tuple[str, ...]  # genes of the first table; all of them where there is no other
    learned: bool  # whether `train` are cells that models were trained on

    def types(self, part: Cells) -> list[str] | None:
        """The type of each cell of a part."""
        if self.label is None:
            return None
        return [word or UNKNOWN for word in part.labels[self.label].text()]

    def on(self, part: Cells, genes: Sequence[str]) -> cell_space.Cells:
        """A part on these genes, as metrics take it."""
        return cell_space.cells(part.with_genes(genes).csr(), self.types(part))


@dataclass(frozen=True, eq=False)
class Made:
    """Cells that a method made, on all genes that it has."""

    name: str
    checkpoint: str
    family: str
    counts: Any  # CSR, cells x genes
    genes: tuple[str, ...]
    types: tuple[str, ...] | None = None
    rule: Rule | None = None
    setting: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def on(self, genes: Sequence[str]) -> cell_space.Cells:
        """Its cells on some of its genes, in their order."""
        if tuple(genes) == self.genes:
            return cell_space.cells(self.counts, self.types)
        place = {gene: k for k, gene in enumerate(self.genes)}
        at = np.array([place[gene] for gene in genes], np.int64)
        return cell_space.cells(self.counts[:, at].tocsr(), self.types)


# real cells ---------------------------------------------------------------------------------------


def pbmc_real() -> Real:
    """PBMC3k: 2,430 training and 270 held-out cells, the panel of 2,000 genes beside all.

    Raises:
        DataError: where the file is nowhere to be found.
    """
    parts = pbmc.parts()
    panel = pbmc.panel_parts()["train"].genes
    return Real(
        PBMC3K_TITLE, PBMC3K_CREDIT, parts["train"], parts["test"], pbmc.LABEL, panel, learned=True
    )


def file_real(path: Path, *, label: str | None = None, seed: int = 0) -> Real:
    """An h5ad file in two halves, each of at most 10,000 of its cells.

    Args:
        label: column of obs with the type of each cell; none where it is left out.

    Raises:
        DataError: for a file that can't be read, or values that are no counts.
        ValueError: for fewer than four cells.
    """
    whole = _counts_of(path, label)
    if len(whole) < 4:
        raise ValueError(f"{path.name} has {len(whole)} cells; a comparison needs four at least")
    order = torch.randperm(len(whole), generator=seeded(seed))
    half = min(len(whole) // 2, MOST)
    train, test = (whole.part(rows.sort().values) for rows in (order[half : 2 * half],
                                                               order[:half]))  # fmt: skip
    return Real(path.name, "your own file", train, test, label, whole.genes, learned=False)


def has_label(path: Path, label: str) -> bool:
    """Whether the cells of a file have types in this column of obs."""
    try:
        setup_anndata(path, label=label, memory=False)
    except DataError:
        return False
    return True


def _counts_of(path: Path, label: str | None) -> Cells:
    found = setup_anndata(path, label=label)
    if found.kind != "counts":
        raise DataError(f"{path.name} is compared by its raw counts; {found.said}")
    return found


# made cells ---------------------------------------------------------------------------------------


def file_made(path: Path, *, label: str | None = None, most: int | None = None) -> Made:
    """The cells of an h5ad file, the first `most` of them.

    Raises:
        DataError: for a file that can't be read, or values that are no counts.
    """
    whole = _counts_of(path, label)
    rows = torch.arange(min(len(whole), most or 2 * MOST))
    types = None
    if label is not None:
        types = tuple(word or UNKNOWN for word in whole.part(rows).labels[label].text())
    return Made(path.name, path.name, "file", whole.csr(rows), whole.genes, types)


@torch.no_grad()
def model_made(
    ref: str,
    real: Real,
    plan: Plan,
    *,
    device: str = "auto",
    network: bool = False,
    keep: Path | None = None,
    tick: Callable[[float], None] = lambda share: None,
) -> list[Made]:
    """Cells of a checkpoint; of an LDM twice, rounded and cut.

    Args:
        keep: folder in which cells are kept, a batch at a time; an interrupted run goes on there.
        tick: called with the share that is drawn.

    Raises:
        ValueError: for a checkpoint that makes no samples or does not name its genes.
    """
    model = hub.load(ref, device=device, allow_network=network)
    vocabulary = hub.vocabulary(ref, allow_network=network)
    if vocabulary is None or not hasattr(model, "sample"):
        raise ValueError(f"{ref} is a {type(model).__name__} that makes no cells of named genes")
    family, classes = type(model).__name__, int(cast(Any, model).classes)
    key = read_manifest(hub.resolve(ref, allow_network=network).folder)[hub.WEIGHTS].sha256
    names = vocabulary.labels if classes else ()
    n = plan.samples or plan.sets * len(real.test)
    asked = asked_types(real, names, n, plan.seed)
    options = _options(family, plan, asked is not None)
    started = time.perf_counter()
    draw = _Draw(model, key, options, keep)
    values = draw(n, None if asked is None else asked.numbers, plan.seed, tick)
    made = Made(
        name=NAMES.get(family, family),
        checkpoint=ref,
        family=family,
        counts=values,
        genes=vocabulary.genes,
        types=None if asked is None else asked.words,
        setting={**options, "n": n, "seconds": round(time.perf_counter() - started, 1)},
        notes=() if asked is not None else ("unconditional, no type is asked for",),
    )
    if family not in DENSE:
        return [made]
    other = asked_types(real, names, VALIDATION, plan.seed + OTHER)
    seen = draw(VALIDATION, None if other is None else other.numbers, plan.seed + OTHER)
    train = real.train.with_genes(vocabulary.genes).rows()
    return [_as_counts(made, "round", 0.5), _as_counts(made, "match", _tau(seen, train))]


@dataclass(frozen=True, eq=False)
class Asked:
    """The types that a model is asked for: its numbers, and their names."""

    numbers: Int64[Tensor, " n"]
    words: tuple[str, ...]


def asked_types(real: Real, names: Sequence[str], n: int, seed: int) -> Asked | None:
    """Types of n cells, as frequent as among the held-out ones; None where a model has none.

    What a model does not know by name is asked for as unknown, its last number.
    """
    found = real.types(real.test)
    if found is None or not names:
        return None
    order = torch.randperm(len(found), generator=seeded(seed))
    rows = order.repeat(-(-n // len(order)))[:n]
    number = {name: k for k, name in enumerate(names)}
    words = tuple(found[int(row)] for row in rows)
    return Asked(torch.tensor([number.get(word, len(names)) for word in words]), words)


def _options(family: str, plan: Plan, typed: bool) -> dict[str, Any]:
    """Options of `sample`, but for the types."""
    if family in AT_ONCE:
        return {}
    asked = {"steps": plan.steps} if plan.steps else {}
    guided = {"guidance": plan.guidance} if typed else {}
    return {"steps": 50, **USUAL.get(family, {}), **asked, **guided}


@dataclass(frozen=True, eq=False)
class _Draw:
    """Draws batches of cells, or finds those that were drawn before."""

    model: nn.Module
    key: str  # sha256 of the weights
    options: Mapping[str, Any]
    keep: Path | None

    def __call__(
        self,
        n: int,
        label: Tensor | None,
        seed: int,
        tick: Callable[[float], None] = lambda share: None,
    ) -> Any:
        """n rows as CSR; row k of a seed is the same however many are drawn."""
        chance, parts = split(seeded(seed), n), list[Any]()
        for first in range(0, n, BATCH):
            rows = slice(first, min(n, first + BATCH))
            asked = None if label is None else label[rows]
            path = self._path(seed, rows, asked)
            part = None if path is None else _kept(path)
            if part is None:
                part = self._fresh(chance[rows], asked)
                if path is not None:
                    write(path, _packed(part))
            parts.append(part)
            tick(rows.stop / n)
        return _sparse.vstack(parts, format="csr")

    def _fresh(self, chance: list[torch.Generator], asked: Tensor | None) -> Any:
        label = {} if asked is None else {"label": asked}
        model = cast(Any, self.model)
        made = model.sample(len(chance), generator=chance, **self.options, **label)
        if isinstance(made, SparseBatch):
            return _sparse.csr_matrix(made.to("cpu").to_csr())
        return _sparse.csr_matrix(made.cpu().float().numpy())

    def _path(self, seed: int, rows: slice, asked: Tensor | None) -> Path | None:
        """A file name that changes with everything these cells depend on."""
        if self.keep is None:
            return None
        label = [] if asked is None else cast("list[int]", asked.tolist())
        told = [self.key, seed, dict(self.options), label, torch.__version__]
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        return self.keep / f"cells-{digest}-{rows.start}-{rows.stop}.safetensors"


def _packed(x: Any) -> bytes:
    parts = {"data": x.data, "index": x.indices.astype(np.int64), "start": x.indptr}
    tensors = {name: torch.from_numpy(np.array(part)) for name, part in parts.items()}
    return pack({**tensors, "shape": torch.tensor(x.shape)})


def _kept(path: Path) -> Any | None:
    """Rows that were drawn before; None where the file is missing or damaged."""
    try:
        found = load_tensors(path.read_bytes())
        rows, dim = (int(size) for size in found["shape"])
        parts = tuple(found[name].numpy() for name in ("data", "index", "start"))
        return _sparse.csr_matrix(parts, shape=(rows, dim))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


# counts of dense samples --------------------------------------------------------------------------


def _tau(seen: Any, train: SparseBatch) -> float:
    """Where to cut dense samples for as many zeros as training cells have."""
    return fit_threshold("match", torch.from_numpy(seen.toarray()), train)


def _as_counts(made: Made, rule: Rule, tau: float) -> Made:
    """Dense numbers as counts: zero up to tau, else the nearest whole number that is not zero."""
    x = made.counts.copy()
    x.data = np.where(x.data > tau, np.maximum(np.rint(x.data), 1), 0).astype(np.float32)
    x.eliminate_zeros()
    said = f"{NOTES[rule]} (at {tau:.3g})" if rule == "match" else NOTES[rule]
    name = f"{made.name}, {'rounded' if rule == 'round' else 'thresholded'}"
    return replace(made, name=name, counts=x, rule=rule, notes=(*made.notes, said))


# the floor ----------------------------------------------------------------------------------------


def floor_made(real: Real, genes: Sequence[str], n: int, seed: int) -> Made:
    """Genes drawn one by one from a law for each type, fitted on the training cells."""
    train = real.on(real.train, genes)
    label = train.label or (UNKNOWN,) * len(train)
    model = Independent.fit(train.counts, label)
    asked = asked_types(real, model.types, n, seed)
    # a type that no training cell is of stands after the last: the first is drawn in its place
    known = None if asked is None else asked.numbers % len(model.types)
    numbers = model.labels(n, label=known, generator=seeded(seed))
    drawn = model.sample(n, label=numbers, generator=seeded(seed))
    words = tuple(model.types[int(k)] for k in numbers) if real.label else None
    return Made("independent genes", "", "Independent", drawn.to_csr(), tuple(genes), words)
