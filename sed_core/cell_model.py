"""A model of cells with the names of its genes and labels: AnnData in, AnnData out.

The shape is that of scvi-tools: training, sample, get_latent_representation, impute, save, load.
Cells are made and read in chunks; chance is one generator a cell, so a cell does not depend on its
chunk, and a run that was killed goes on with the same cells.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import anndata
import numpy as np
import scipy.sparse
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from sed_core import hub
from sed_core.cell_imputation import LAYERS, Known, Watch, expressed, fill, not_hidden
from sed_core.cell_training import Family, train_cells
from sed_core.chance import Chance, seeded, split
from sed_core.domains.cell_anndata import as_anndata
from sed_core.domains.cells import Cells, setup_anndata
from sed_core.domains.source import DataError
from sed_core.keep import Plan
from sed_core.sed import SED
from sed_core.sparse import SparseBatch
from sed_core.store import CheckpointError
from sed_core.training import Progress
from sed_core.vocabulary import GeneVocabulary

CHUNK = 64  # cells made or read at once

Label = str | int | Sequence[str | int | None] | None
Data = Cells | anndata.AnnData | str | Path

_sp: Any = scipy.sparse


@dataclass(frozen=True, eq=False)
class CellModel:
    """A model, the genes that are its dimensions, and the labels that it knows.

    Raises:
        ValueError: where the names are not as many as the model has dimensions and classes.
    """

    model: nn.Module
    vocabulary: GeneVocabulary
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what recipes say of it
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        dim, classes = getattr(self.model, "dim", None), getattr(self.model, "classes", None)
        if dim not in (None, len(self.genes)):
            raise ValueError(f"the model has {dim:,} dimensions, got {len(self.genes):,} genes")
        if classes not in (None, len(self.labels)):
            raise ValueError(f"the model has {classes} classes, got {len(self.labels)} labels")

    @property
    def genes(self) -> tuple[str, ...]:
        """The genes in the order of the model's dimensions."""
        return self.vocabulary.genes

    @property
    def label(self) -> str | None:
        """The column of obs that the labels come from; None for a model without."""
        return self.vocabulary.label

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels in the order of their numbers."""
        return self.vocabulary.labels

    # -- checkpoints -----------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        ref: str | Path,
        *,
        device: str | torch.device = "auto",
        revision: str | None = None,
        allow_network: bool = False,
    ) -> "CellModel":
        """A checkpoint of cells: a shipped name, a folder, or owner/name[@revision] on the Hub.

        Raises:
            CheckpointError: for one that can't be read, or that names no genes.
        """
        source = hub.resolve(ref, revision=revision, allow_network=allow_network)
        model = hub.load(source.folder, device=device)
        found = hub.vocabulary(source.folder, dim=getattr(model, "dim", None))
        if found is None:
            raise CheckpointError(
                f"{ref} names no genes, so it is no model of cells; train one with "
                "'sed-core train sed --data cells.h5ad', or see 'sed-core models'"
            )
        return cls(model, found, hub.origin(source), hub.figures(source.folder))

    def save(self, folder: str | Path, *, card: str = "", recipe: str = "") -> None:
        """Write a checkpoint, with the figures that the model was loaded with."""
        made = recipe or str(self.metrics.get("recipe", ""))
        hub.save(
            self.model,
            folder,
            metrics=self.metrics,
            card=card or f"# {Path(folder).name}\n",
            recipe=made,
            dtype="int8",
            vocabulary=self.vocabulary,
        )

    @staticmethod
    def training(
        data: Data,
        *,
        family: Family,
        label: str | None = None,
        plan: Plan | None = None,
        out: str | Path,
        seed: int = 0,
        device: str = "auto",
        layer: str | None = None,
        **options: Any,
    ) -> Iterator[Progress]:
        """Train on cells, in memory or in a file larger than it; `CellModel.load(out /
        "checkpoint")` is what comes of it. See `cell_training.train_cells` for the options.
        """
        cells = data if isinstance(data, Cells) else setup_anndata(data, layer=layer, label=label)
        asked: dict[str, Any] = {"plan": plan, "out": out, "seed": seed, "device": device}
        return train_cells(cells, family=family, label=label, **asked, **options)

    # -- new cells -------------------------------------------------------------------------------

    def rows(
        self,
        n: int,
        *,
        label: Label = None,
        guidance: float = 1.0,
        steps: int = 50,
        generator: Chance,
        watch: Watch | None = None,
        **options: Any,
    ) -> SparseBatch:
        """n new cells as (gene, count) pairs, all made at once.

        Args:
            label: name or number of the cells' label, one for all or one a cell; None for any.
            guidance: 0 ignores the label, 1 follows it, above 1 amplifies it.
            steps: network evaluations.
            generator: one for all cells, or one a cell.
            watch: called after each step of the sampler.
            options: further ones of the family; see its `stream`.
        """
        if isinstance(self.model, SED):
            options = {"detail": False, **options}
        if in_steps(self.model):
            options |= {"steps": steps, "guidance": guidance}
        elif guidance != 1:
            raise ValueError(f"a {type(self.model).__name__} has no guidance; leave it out")
        found: Any = self.model
        asked = {"label": self.numbers(label, n), "generator": split(generator, n)}
        step = None
        for step in found.stream(n, **asked, **options):
            if watch is not None:
                watch(step)
        assert step is not None
        return _pairs(step.x)

    def chunks(
        self,
        n: int,
        *,
        label: Label = None,
        seed: int = 0,
        first: int = 0,
        size: int = CHUNK,
        watch: Watch | None = None,
        **options: Any,
    ) -> Iterator[SparseBatch]:
        """Cells number `first` to n - 1 of a seed, `size` at a time; see `rows` for the options.

        Raises:
            ValueError: for a model whose values are no counts.
        """
        numbers, master = self.numbers(label, n), seeded(seed)
        split(master, first)  # those of the cells before
        for start in range(first, n, size):
            stop = min(start + size, n)
            own = None if numbers is None else [int(k) for k in numbers[start:stop]]
            chance = split(master, stop - start)
            found = self.rows(stop - start, label=own, generator=chance, watch=watch, **options)
            _refuse_fractions(found)
            yield found

    def sample(
        self,
        n: int,
        *,
        label: Label = None,
        guidance: float = 1.0,
        steps: int = 50,
        seed: int = 0,
        size: int = CHUNK,
        **options: Any,
    ) -> anndata.AnnData:
        """n new cells as an AnnData: counts, labels, genes in order, the recipe in uns.

        Cell k of a seed is the same however many are made; see `rows` for the options. More than
        fit into memory: `sed-core sample --out cells.h5ad`, or `chunks` and `CellFile`.
        """
        asked: dict[str, Any] = {"guidance": guidance, "steps": steps, "seed": seed, **options}
        parts = [found.to_csr() for found in self.chunks(n, label=label, size=size, **asked)]
        asked.pop("watch", None)
        return as_anndata(
            _sp.vstack(parts, format="csr"),
            genes=self.genes,
            recipe=self.recipe(n=n, label=_told(label), **asked),
            label=self.label,
            vocabulary=self.labels,
            labels=self.numbers(label, n),
        )

    def numbers(self, label: Label, n: int) -> Int64[Tensor, " n"] | None:
        """The number of each of n cells' labels; len(labels) where it is None.

        Raises:
            ValueError: for a label that the model does not know, or another number of them.
        """
        if label is None:
            return None
        if isinstance(label, str | int):
            return torch.full((n,), self.vocabulary.number(label))
        if len(label) != n:
            raise ValueError(f"there are {n} cells but {len(label)} labels; give one a cell")
        unknown = len(self.labels)
        known: dict[str | int | None, int] = {None: unknown, unknown: unknown}
        for one in set(label) - known.keys():
            known[one] = self.vocabulary.number(cast("str | int", one))
        return torch.tensor([known[one] for one in label])

    def recipe(self, **asked: Any) -> dict[str, Any]:
        """What it takes to make the same again."""
        return {**self.origin, "family": type(self.model).__name__, **asked}

    # -- given cells -----------------------------------------------------------------------------

    def cells(self, data: Data, *, layer: str | None = None, label: bool = False) -> Cells:
        """The cells of an AnnData or h5ad file with the genes of the model, found by name.

        Args:
            label: read the column of the model's labels, too; names it does not know are unknown.

        Raises:
            DataError: for data that we can't take, or that lack genes of the model.
        """
        return self.whole(data, layer=layer, label=label).with_genes(self.genes)

    def whole(self, data: Data, *, layer: str | None = None, label: bool = False) -> Cells:
        """The same with all genes of the data."""
        if isinstance(data, Cells):
            return data
        column = self.label if label else None
        if label and column is None:
            raise DataError("this model knows no labels; leave them out")
        known = {column: self.labels} if column else None
        return setup_anndata(data, layer=layer, label=column, vocabularies=known)

    def get_latent_representation(
        self, data: Data, *, layer: str | None = None, size: int = CHUNK
    ) -> NDArray[np.float32]:
        """Mean latent of each cell, standardised over the training cells, of a SED.

        Returns:
            float32 (n, Z), in the order of the data.
        """
        found = self.model
        if not isinstance(found, SED):
            raise ValueError(f"a {type(found).__name__} has no latent; take a SED")
        cells = self.cells(data, layer=layer)
        parts: list[Tensor] = []
        with torch.no_grad():
            for first in range(0, len(cells), size):
                mu, _ = found.encode(cells.rows(slice(first, first + size)))
                parts.append(mu.float().cpu())
        return torch.cat(parts).numpy()

    def impute(
        self,
        data: Data,
        *,
        hidden: Any = None,
        draws: int = 10,
        method: Literal["conditional", "replace"] = "conditional",
        label: Label | Literal["own"] = None,
        guidance: float = 1.0,
        steps: int = 50,
        seed: int = 0,
        layer: str | None = None,
        **options: Any,
    ) -> anndata.AnnData:
        """Cells whose gaps are filled, as an AnnData of the model's genes.

        X holds observed counts as they are and one draw of each gap; layers mean, sd, lower and
        upper (5 % and 95 %) are over all draws, `observed` is 1 where an entry was known.

        Args:
            hidden: which entries are missing, (n, genes of the data), True where one is; left out,
                zeros count as missing.
            label: name or number of a label for all cells, one a cell, or "own" for the column of
                the data.
            options: further ones of `CountsDiff.impute_stream`.
        """
        whole = self.whole(data, layer=layer, label=label == "own")
        cells = whole.with_genes(self.genes)
        known = expressed if hidden is None else not_hidden(hidden, whole, self.genes)
        asked: dict[str, Any] = {"method": method, "guidance": guidance, "steps": steps, **options}
        parts = list(self.fill(cells, known, draws=draws, label=label, seed=seed, **asked))
        asked.pop("watch", None)
        missing = "zeros" if hidden is None else "given"
        return as_anndata(
            torch.cat([part.counts for part in parts]),
            genes=self.genes,
            recipe=self.recipe(
                draws=draws, seed=seed, label=_told(label), missing=missing, **asked
            ),
            names=cells.names.tolist(),
            obs={"sed_source": "imputed"},
            layers={name: SparseBatch.concat([p.layers[name] for p in parts]) for name in LAYERS},
            **self.columns(cells, self.filled_labels(cells, label)),
        )

    def fill(
        self, cells: Cells, known: Known, *, label: Label | Literal["own"] = None, **asked: Any
    ) -> Iterator[Any]:
        """Chunks of filled cells; see `cell_imputation.fill`, and `impute` for the label."""
        if not hasattr(self.model, "impute_stream"):
            raise ValueError(f"a {type(self.model).__name__} can't impute; take a CountsDiff")
        numbers = self.filled_labels(cells, label)
        yield from fill(self.model, cells, known, label=numbers, **asked)

    def filled_labels(
        self, cells: Cells, label: Label | Literal["own"]
    ) -> Int64[Tensor, " n"] | None:
        """Numbers of the labels by which gaps are filled."""
        if label != "own":
            return self.numbers(label, len(cells))
        found = self._own(cells)
        if found is None:
            raise DataError(f"the cells bring no labels {self.label!r}; name one for all, or none")
        return found

    def _own(self, cells: Cells) -> Int64[Tensor, " n"] | None:
        """The model's numbers of the labels that given cells bring, if they do."""
        found = cells.labels.get(self.label or "")
        if found is None:
            return None
        number, unknown = {name: k for k, name in enumerate(self.labels)}, len(self.labels)
        return torch.tensor([number.get(name, unknown) for name in (*found.names, "")])[
            found.numbers
        ]

    def columns(self, cells: Cells, numbers: Tensor | None) -> dict[str, Any]:
        """What `as_anndata` is told of the labels of given cells."""
        numbers = self._own(cells) if numbers is None else numbers
        if numbers is None:
            return {}
        return {"label": self.label, "vocabulary": self.labels, "labels": numbers}


def in_steps(model: Any) -> bool:
    """Whether a family samples in as many steps as it is asked for."""
    return "steps" in inspect.signature(model.stream).parameters


def _pairs(found: SparseBatch | Tensor) -> SparseBatch:
    """Pairs of what a family makes; real numbers of a dense one are rounded to counts."""
    if isinstance(found, SparseBatch):
        return found.to("cpu")
    dense = found.cpu()
    if dense.is_floating_point():
        dense = dense.round().clamp_min(0)
    return SparseBatch.from_dense(dense.float())


def _refuse_fractions(found: SparseBatch) -> None:
    if bool((found.value != found.value.round()).any()):
        raise ValueError(
            "this model was trained on normalised values, so its cells are no counts; take `rows` "
            "for its values, or train one on raw counts"
        )


def _told(label: Any) -> Any:
    """A label for a recipe; of one a cell, the obs of the file tell."""
    return label if label is None or isinstance(label, str | int) else "one a cell, in obs"
