"""Training stages of each family, one after the other, each resumable by itself.

SED    draft -> SAVAE -> latent        (`sed_core.savae`, `sed_core.sed`)
LDM    dense autoencoder -> latent     (`sed_core.baselines.ldm`)
DDPM   one stage                       (`sed_core.baselines.ddpm`, `.bits`, `.sarm`)
counts one stage                       (`sed_core.countsdiff`, `sed_core.baselines.masked`, ...)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from sed_core.baselines import LDM
from sed_core.chance import seeded
from sed_core.diffusion import Diffusion
from sed_core.savae import SAVAE
from sed_core.sed import SED
from sed_core.sparse import SparseBatch
from sed_core.store import Store
from sed_core.training import Batches, LengthBuckets, Loss, Progress, fit, shuffled

CURVE, CURVE_POINTS = "curve.csv", 100  # the loss, for people to look at
MAP_POINTS = 3_000  # training latents shown behind a sample's path


@dataclass(frozen=True)
class Stage:
    """Size of one training stage."""

    steps: int
    rows: int  # a batch holds as many pairs as this number of average rows
    lr: float
    ema: float = 0.999


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Rows, the class of each, and the side of the pictures they are (0 for vectors)."""

    batch: SparseBatch
    labels: Int[Tensor, " n"]
    classes: int
    side: int


@dataclass(frozen=True, eq=False)
class CountsSet:
    """Rows of counts, the class of each, and the side of the pictures they are (0 for vectors)."""

    counts: Integer[Tensor, "n D"]
    labels: Int[Tensor, " n"] | None
    classes: int = 0
    side: int = 0


@dataclass(frozen=True)
class Run:
    """Where a run keeps its states, where its chance starts, and what it runs on."""

    out: Path
    seed: int
    device: torch.device

    def fit(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        size: Stage,
        stage: str,
        loss: Callable[[Any, torch.Generator], Loss],
    ) -> Iterator[Progress]:
        """Train one stage, or go on with it, or pass at once where it is done."""
        moves = fit(
            model,
            batches,
            lr=size.lr,
            ema=size.ema,
            generator=seeded(self.seed),
            loss=loss,
            stage=stage,
            store=Store(self.out / stage),
        )
        return self._noting(moves, self.out / stage / CURVE)

    def _noting(self, moves: Iterator[Progress], file: Path) -> Iterator[Progress]:
        """Pass the moves on, and write down the mean loss of every hundredth part of them."""
        losses = list[float]()
        file.parent.mkdir(parents=True, exist_ok=True)
        for move in moves:
            losses.append(move.total.item())
            if move.step % max(1, move.steps // CURVE_POINTS) == 0:
                with file.open("a") as out:
                    out.write(f"{move.step},{sum(losses) / len(losses):.6g}\n")
                losses.clear()
            yield move

    def curve(self, stage: str) -> list[list[float]]:
        """Step and mean loss, as far as they were written down; a step done twice counts once."""
        file = self.out / stage / CURVE
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        whole = (line.split(",") for line in lines if line.endswith("\n"))  # a kill cuts a line
        found = {int(step): float(loss) for step, loss in whole}
        return [[step, found[step]] for step in sorted(found)]


# -- SED -------------------------------------------------------------------------------------------


def train_savae(
    savae: SAVAE, batch: SparseBatch, sizes: dict[str, Stage], run: Run
) -> Iterator[Progress]:
    """The draft head with a shallow encoder, then everything."""
    losses: dict[str, Callable[[SparseBatch, torch.Generator], Loss]] = {
        "draft": lambda chosen, chance: savae.draft_loss(chosen, generator=chance),
        "savae": lambda chosen, chance: savae.loss(chosen, generator=chance),
    }
    savae.start_from(_counts(batch).to(run.device), len(batch))
    for stage, loss in losses.items():
        size = sizes[stage]
        pairs = int(size.rows * batch.nnz.float().mean() * 1.05)
        rows = LengthBuckets(batch.nnz, pairs=pairs, steps=size.steps, seed=run.seed)
        batches = Batches(rows, lambda chosen: batch[chosen].to(run.device))
        yield from run.fit(savae, batches, size, stage, loss)


def _counts(batch: SparseBatch) -> Tensor:
    return torch.bincount(batch.index[batch.mask], minlength=batch.dim)


@torch.no_grad()
def latents(
    model: SED, batch: SparseBatch, size: int = 500
) -> tuple[Float[Tensor, "n Z"], Float[Tensor, "n Z"]]:
    """Posterior mean and log-variance of all rows as SAVAE gives them, not standardised."""
    order = batch.nnz.argsort()  # rows of like length together
    chunks = [order[first : first + size] for first in range(0, len(order), size)]
    parts = [model.savae.encode(batch[rows].to(model.device)) for rows in chunks]
    back = order.argsort().to(model.device)
    return torch.cat([mu for mu, _ in parts])[back], torch.cat([v for _, v in parts])[back]


def train_latent(
    denoiser: Diffusion, mu: Tensor, logvar: Tensor, labels: Tensor, size: Stage, run: Run
) -> Iterator[Progress]:
    """A latent denoiser on posterior samples of all training rows, standardised."""
    sd, labels = (logvar / 2).exp(), labels.to(mu.device)

    def loss(rows: Tensor, chance: torch.Generator) -> Loss:
        eps = torch.randn(len(rows), mu.shape[1], generator=chance).to(mu)
        rows = rows.to(mu.device)
        known = labels[rows] if denoiser.config.classes else None
        return denoiser.loss(mu[rows] + sd[rows] * eps, label=known, generator=chance)

    batches = shuffled(len(mu), size=size.rows, steps=size.steps, seed=run.seed)
    yield from run.fit(denoiser, batches, size, "latent", loss)


# -- dense peers -----------------------------------------------------------------------------------


def train_dense(model: nn.Module, data: TrainingSet, size: Stage, run: Run) -> Iterator[Progress]:
    """A model that reads dense rows, in one stage."""
    yield from run.fit(model, _dense_rows(data, size, run), size, "dense", _labelled(model))


def train_autoencoder(model: LDM, data: TrainingSet, size: Stage, run: Run) -> Iterator[Progress]:
    """The dense autoencoder of an LDM."""

    def loss(rows: tuple[SparseBatch, Tensor], chance: torch.Generator) -> Loss:
        return model.autoencoder_loss(rows[0], generator=chance)

    yield from run.fit(model.autoencoder, _dense_rows(data, size, run), size, "autoencoder", loss)


@torch.no_grad()
def dense_latents(
    model: LDM, batch: SparseBatch, size: int = 500
) -> tuple[Float[Tensor, "n Z"], Float[Tensor, "n Z"]]:
    """Posterior mean and log-variance of all rows as the autoencoder gives them."""
    chunks = [slice(first, first + size) for first in range(0, len(batch), size)]
    parts = [model.posterior(model.to_network(batch[rows])) for rows in chunks]
    return torch.cat([mu for mu, _ in parts]), torch.cat([v for _, v in parts])


def _dense_rows(data: TrainingSet, size: Stage, run: Run) -> Sequence[tuple[SparseBatch, Tensor]]:
    plan = shuffled(len(data.batch), size=size.rows, steps=size.steps, seed=run.seed)
    return Batches(plan, lambda rows: (data.batch[rows], data.labels[rows].to(run.device)))


def _labelled(model: Any) -> Callable[[tuple[SparseBatch, Tensor], torch.Generator], Loss]:
    """The loss of a model whose classes are asked for."""
    return lambda rows, chance: model.loss(rows[0], label=rows[1], generator=chance)


# -- counts ----------------------------------------------------------------------------------------


def train_on_counts(model: Any, data: CountsSet, size: Stage, run: Run) -> Iterator[Progress]:
    """A model whose loss takes rows of counts, in one stage."""

    def rows(chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        label = None if data.labels is None else data.labels[chosen].to(run.device)
        return data.counts[chosen].long(), label

    def loss(batch: tuple[Tensor, Tensor | None], chance: torch.Generator) -> Loss:
        return model.loss(batch[0], label=batch[1], generator=chance)

    plan = shuffled(len(data.counts), size=size.rows, steps=size.steps, seed=run.seed)
    yield from run.fit(model, Batches(plan, rows), size, "counts", loss)


# -- the map of latents ----------------------------------------------------------------------------


@torch.no_grad()
def latent_map(z: Float[Tensor, "n Z"], labels: Int[Tensor, " n"]) -> dict[str, Tensor]:
    """The plane that tells the classes apart best (linear discriminants), and some latents in it.

    Returns:
        xy (n, 2), label (n,), project (Z, 2), origin (2,): z @ project + origin lies in the plane.
    """
    z = z.double()
    project = discriminants(z, labels)
    origin = -(z.mean(0) @ project)
    some = torch.randperm(len(z), generator=seeded(0))[:MAP_POINTS]
    points = (z[some] @ project + origin).half()
    return {
        "xy": points,
        "label": labels[some].to(torch.uint8),
        "project": project.float(),
        "origin": origin.float(),
    }


def discriminants(z: Float[Tensor, "n Z"], labels: Int[Tensor, " n"]) -> Float[Tensor, "Z 2"]:
    """The two directions of largest spread between classes relative to that inside them (LDA).

    Where there is one class only, those of largest spread (PCA).
    """
    member = torch.nn.functional.one_hot(labels).to(z)
    member = member[:, member.sum(0) > 0]
    if member.shape[1] < 2:
        return _eigen(torch.cov(z.T))[1][:, -2:].flip(1)
    centres = (member.T @ z) / member.sum(0)[:, None]
    within = torch.cov((z - member @ centres).T) + 1e-3 * torch.eye(z.shape[1], dtype=z.dtype)
    spread, axes = _eigen(within)
    whiten = axes / spread.sqrt()
    _, directions = _eigen(torch.cov((centres @ whiten).T))
    return whiten @ directions[:, -2:].flip(1)


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors in columns."""
    return cast("tuple[Tensor, Tensor]", torch.linalg.eigh(symmetric))
