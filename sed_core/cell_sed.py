"""SED on whole transcriptomes: every gene, raw counts, the total of a cell as exposure.

    draft    negative binomial of every gene from z, as in scVI, with a shallow encoder
    savae    pairs in ascending order by a nested head, which starts at the draft's law
    latent   diffusion of z and the total together, by cell type

Batches are read by rows, so that a file larger than memory trains as well.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sed_core.cell_counts import cell_vocabulary
from sed_core.domains.cells import Cells
from sed_core.keep import Plan, built, keep
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch
from sed_core.stages import Run, Stage, latent_map, train_latent
from sed_core.training import Batches, LengthBuckets, Loss, Progress

LATENT = 24
MEASURED = 20_000  # cells from which the scale of values is taken
READ = 500  # cells read at once
ENCODED = 64  # cells encoded at once: each is padded to the longest, and widened

CELL_SED_PLANS: Mapping[Literal["cpu", "gpu"], Plan] = {
    "cpu": {
        "draft": Stage(steps=4_000, rows=64, lr=2e-3, ema=0.998),
        "savae": Stage(steps=1_000, rows=12, lr=1e-3),
        "latent": Stage(steps=4_000, rows=512, lr=1e-3),
    },
    "gpu": {
        "draft": Stage(steps=10_000, rows=128, lr=2e-3, ema=0.999),
        "savae": Stage(steps=10_000, rows=64, lr=1e-3),
        "latent": Stage(steps=10_000, rows=512, lr=1e-3),
    },
}


def train_cell_sed(
    name: str,
    cells: Cells,
    plan: Plan,
    run: Run,
    command: str,
    *,
    label: str | None = None,
) -> Iterator[Progress]:
    """SED in three stages on the counts of these cells, by the types of a column of labels.

    Args:
        label: the column; the first if left out.

    Raises:
        ValueError: where the values are no counts, or for a column that the cells do not have.
    """
    if cells.kind != "counts":
        raise ValueError(f"SED of cells is trained on raw counts; {cells.said}")
    names = cell_vocabulary(cells, label=label)
    classes = len(names.labels)
    unknown = torch.zeros(len(cells), dtype=torch.int64)  # where there are no classes
    labels = cells.labels[names.label].numbers if names.label else unknown
    savae, denoiser = cell_savae(cells), cell_denoiser(classes)
    model = built(lambda: SED(savae, denoiser), run)
    yield from train_cell_savae(model.savae, cells, plan, run)
    mu, logvar = cell_latents(model, cells)
    sd = (logvar / 2).exp()
    model.standardise(torch.cat([mu + sd, mu - sd]))  # directions that carry nothing are all noise
    mu, logvar = model.standard(mu, logvar)
    yield from train_latent(model.denoiser, mu, logvar, labels, plan["latent"], run)
    there = labels < max(1, classes)  # the map is of cells whose type is known
    shown = latent_map(mu.cpu()[there], labels[there])
    keep(model, name, plan, run, command, latents=shown, vocabulary=names)


def cell_savae(cells: Cells) -> SAVAEConfig:
    """The autoencoder for counts: the scale of log counts from the training non-zeros."""
    mean, sd = _logs(cells)
    return SAVAEConfig(
        dim=cells.dim,
        latent=LATENT,
        width=64,
        heads=2,
        encoder_layers=0,
        decoder_layers=2,
        pool_width=256,
        pool_count=True,
        beta=1.0,  # the bound itself: with few cells a sharper latent knows them by heart
        index_head="nested",
        draft_width=64,
        value_law="counts",
        value_mean=round(mean, 6),
        value_sd=round(max(sd, 0.1), 6),
        value_smallest=1.0,
    )


def _logs(cells: Cells) -> tuple[float, float]:
    """Mean and sd of the logarithms of the counts that are not zero, of the first cells."""
    n, total, squares = 0, 0.0, 0.0
    for first in range(0, min(len(cells), MEASURED), READ):
        logs = torch.from_numpy(cells.csr(slice(first, first + READ)).data).double().log()
        n, total = n + len(logs), total + logs.sum().item()
        squares += logs.square().sum().item()
    mean = total / max(n, 1)
    return mean, max(squares / max(n, 1) - mean**2, 0.0) ** 0.5


def cell_denoiser(classes: int) -> DenoiserConfig:
    """A small network for a small latent."""
    return DenoiserConfig(latent=LATENT, widths=(256, 256, 128, 64), classes=classes)


def train_cell_savae(savae: SAVAE, cells: Cells, plan: Plan, run: Run) -> Iterator[Progress]:
    """The draft with a shallow encoder, then everything, on batches of cells of like size."""
    savae.start_from(_sums(cells).to(run.device), len(cells))
    savae.expose(_totals(cells).to(run.device))
    losses: dict[str, Callable[[SparseBatch, torch.Generator], Loss]] = {
        "draft": lambda chosen, chance: savae.draft_loss(chosen, generator=chance),
        "savae": lambda chosen, chance: savae.loss(chosen, generator=chance),
    }
    for stage, loss in losses.items():
        size = plan[stage]
        pairs = int(size.rows * cells.nnz.double().mean() * 1.05)
        rows = LengthBuckets(cells.nnz, pairs=pairs, steps=size.steps, seed=run.seed)
        batches = Batches(rows, lambda chosen: cells.rows(chosen).to(run.device))
        yield from run.fit(savae, batches, size, stage, loss)


@torch.no_grad()
def cell_latents(model: SED, cells: Cells) -> tuple[Float[Tensor, "n Z"], Float[Tensor, "n Z"]]:
    """Posterior mean and log-variance of all cells as SAVAE gives them, not standardised."""
    parts = [model.savae.encode(batch.to(model.device)) for batch in _read(cells, ENCODED)]
    return torch.cat([mu for mu, _ in parts]), torch.cat([logvar for _, logvar in parts])


def _read(cells: Cells, size: int = READ) -> Iterator[SparseBatch]:
    for first in range(0, len(cells), size):
        yield cells.rows(slice(first, first + size))


def _sums(cells: Cells) -> Float[Tensor, " D"]:
    """The sum of each gene over all cells."""
    total = torch.zeros(cells.dim, dtype=torch.float64)
    for first in range(0, len(cells), READ):
        found: Any = cells.csr(slice(first, first + READ)).sum(axis=0)
        total += torch.from_numpy(found).double().ravel()
    return total


def _totals(cells: Cells) -> Float[Tensor, " n"]:
    """The total of each cell over the genes that the model has."""
    return torch.cat([(batch.value * batch.mask).sum(1).double() for batch in _read(cells)])
