"""What the page Cells asks of a model: cells of every type or of one, and where they lie."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from explorer import cell_places
from explorer.cell_params import MODELS, Params
from explorer.cell_places import Nearness
from explorer.cell_reference import Array, Reference
from explorer.count_runs import device, now
from explorer.jobs import Tick
from sed_core.cell_model import CHUNK, CellModel
from sed_core.limits import LAPTOP

LATENT = 0.1  # share of a SED's chunk that is done when its latents are
_sparse: Any = scipy.sparse


@dataclass(frozen=True, eq=False)
class Made:
    """Cells of one model. `panel` are their counts in the genes of the reference.

    `layout` is where UMAP has the cells of the reference and these, None where only the principal
    axes are known.
    """

    family: str
    model: str
    sha: str
    params: Params
    genes: tuple[str, ...]
    label: str | None
    labels: tuple[str, ...]
    kind: Array  # (n,) number of each cell's label; len(labels) is unknown
    counts: Any  # CSR int32 (n, genes)
    panel: Any
    pcs: Array
    near: Nearness | None
    seconds: float
    made: str
    device: str
    layout: tuple[Array, Array] | None = None
    trained: str = ""  # the lines that train the model, where that was done here

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def stamp(self) -> str:
        """The name of this result."""
        return self.params.stamp(self.family, self.sha)

    @cached_property
    def types(self) -> tuple[str, ...]:
        """What each cell was asked to be."""
        names = (*self.labels, "any" if self.labels else "generated")
        return tuple(names[k] for k in self.kind)

    @cached_property
    def zeros(self) -> float:
        """Share of exact zeros among all genes of the model."""
        return 1 - self.counts.nnz / max(1, len(self) * len(self.genes))


def draw(
    model: CellModel, params: Params, found: Reference, tick: Tick, *, family: str, sha: str
) -> Made:
    """New cells, a chunk at a time, placed on the principal axes of the reference."""
    LAPTOP.check(rows=params.n, steps=params.steps, guidance=params.guidance, seed=params.seed)
    names, begun, parts = labels_of(params, found, model.labels), time.perf_counter(), []
    whole = -(-params.n // CHUNK)

    def watch(step: Any) -> None:
        done = min(1.0, max(0.0, 1 - step.t))
        if step.stage == "latent":
            done *= LATENT
        elif step.stage == "pairs":
            done = LATENT + (1 - LATENT) * done
        tick((len(parts) + done) / whole)

    guidance = params.guidance if model.labels else 1.0
    for some in model.chunks(
        params.n, label=names, guidance=guidance, steps=params.steps, seed=params.seed, watch=watch
    ):
        parts.append(some.to_csr())  # noqa: PERF401 (watch counts them)
    seconds = time.perf_counter() - begun
    counts = _sparse.vstack(parts, format="csr").astype(np.int32)
    kind = model.numbers(names, params.n)
    number = np.full(params.n, len(model.labels)) if kind is None else kind.numpy()
    about = (family, MODELS[family], sha, params)
    return made_of(found, counts, model, about, number, seconds)


def made_of(
    found: Reference,
    counts: Any,
    model: CellModel,
    about: tuple[str, str, str, Params],
    kind: Array,
    seconds: float,
) -> Made:
    """Counts as the page keeps them: on the panel, on the axes, compared with training cells."""
    panel = found.on_panel(counts, model.genes)
    pcs = found.project(panel)
    return Made(
        *about, model.genes, model.label, model.labels, kind, counts, panel, pcs,
        cell_places.nearness(found, pcs), seconds, now(), device(model.model),
    )  # fmt: skip


def labels_of(params: Params, found: Reference, labels: Sequence[str]) -> list[str] | None:
    """The type that each cell is asked to be: one, or all that the model knows as in the reference.

    None for a model without labels.
    """
    if not labels:
        return None
    if params.label is not None:
        return [params.label] * params.n
    sizes = {name: int(size) for name, size in zip(found.types, found.sizes, strict=True)
             if name in labels}  # fmt: skip
    if not sum(sizes.values()):
        return None
    return [name for name, n in quotas(sizes, params.n).items() for _ in range(n)]


def quotas(sizes: dict[str, int], n: int) -> dict[str, int]:
    """n shared out in proportion to the sizes, by the largest remainders."""
    total = sum(sizes.values())
    exact = {name: n * size / total for name, size in sizes.items()}
    whole = {name: int(share) for name, share in exact.items()}
    rest = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in rest[: n - sum(whole.values())]:
        whole[name] += 1
    return whole


def placed(made: Made, found: Reference, tick: Tick) -> Made:
    """The same cells with their places on the UMAP of the reference."""
    return replace(made, layout=cell_places.by_umap(found, made.pcs, tick))
