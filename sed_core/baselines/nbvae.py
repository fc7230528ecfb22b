"""NegativeBinomialVAE: a latent, and counts around its means, in the manner of scVI.

    z ~ N(class),  l ~ LogNormal(class),
    x_g ~ NB(mean m = l rho_g(z, class), variance m + m^2 / theta_g)

rho is a softmax over all genes and theta one number a gene (Lopez et al. 2018, without their
zero-inflation, which counts of molecules in droplets do not need: Svensson 2020). The library l of
a training row is its own total, as is scVI's default; what a class's libraries are like is taken
from the training rows once, by moments. The prior of z starts at N(0, 1), and learns a mean and a
variance for each class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from sed_core.baselines.independent import quantile, zero_share
from sed_core.baselines.values import whole
from sed_core.chance import Chance, normal, split, uniform
from sed_core.diffusion import Label, check_sampling, hide, labels
from sed_core.nn import ConditionedLinear
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.training import Loss

LARGEST_LOG = 7.0  # theta is from 1 in 1,100 to 1,100: beyond, counts are Poisson's


@dataclass(frozen=True, kw_only=True)
class NBVAEConfig:
    """Shape of the two networks."""

    dim: int
    latent: int = 16
    width: int = 128  # of the hidden layers
    layers: int = 1  # hidden layers of the encoder, and of the decoder
    condition: int = 16  # width of the embedding of the class
    classes: int = 0  # 0 for no class condition
    label_dropout: float = 0.1  # share of training rows whose class is hidden
    dropout: float = 0.0  # share of the genes that training hides from the encoder
    beta: float = 1.0  # weight of the KL; 1 for the bound itself

    def __post_init__(self) -> None:
        if min(self.dim, self.latent, self.width, self.layers, self.condition) < 1:
            raise ValueError("dim, latent, width, layers and condition are at least 1")
        if self.classes < 0 or not self.beta >= 0:
            raise ValueError("classes and beta are not negative")
        if not 0 <= self.label_dropout <= 1 or not 0 <= self.dropout < 1:
            raise ValueError("label_dropout is from 0 to 1, dropout below 1")


class _Drawn(NamedTuple):
    """Counts, and what they were drawn around."""

    counts: Int64[Tensor, "n D"]
    mean: Float[Tensor, "n D"]
    library: Float[Tensor, " n"]


class NegativeBinomialVAE(nn.Module):
    """q(z | x, class), p(x | z, library, class), with the bound and a sampler of one step."""

    CONFIGS: ClassVar[dict[str, type[Any]]] = {"config": NBVAEConfig}

    def __init__(self, config: NBVAEConfig):
        super().__init__()
        c = self.config = config
        self.configs = {"config": config}
        self.dim, self.classes = c.dim, c.classes
        self.label = nn.Embedding(c.classes + 1, c.condition)  # the last: unknown
        self.encoder = _layers(c.dim, c)
        self.posterior = nn.Linear(c.width, 2 * c.latent)
        self.prior = nn.Embedding(c.classes + 1, 2 * c.latent)  # mean and log-variance
        nn.init.zeros_(self.prior.weight)
        self.decoder = _layers(c.latent, c)
        self.share = nn.Linear(c.width, c.dim)
        self.log_theta = nn.Parameter(torch.zeros(c.dim))
        self.register_buffer("library_mean", torch.full((c.classes + 1,), log(c.dim)))
        self.register_buffer("library_sd", torch.full((c.classes + 1,), 0.5))

    @property
    def device(self) -> torch.device:
        """Where the networks are; draws are on the CPU."""
        return self.label.weight.device

    @torch.no_grad()
    def start_from(self, counts: Shaped[Tensor, "n D"], label: Label = None) -> None:
        """Take libraries of each class, and the shares of genes to start from, of training rows.

        A class without a row has the libraries of all; so has "unknown".
        """
        x = whole(counts, self.dim)
        known = labels(label, len(x), self.classes, torch.device("cpu"))
        logs = x.sum(1).clamp_min(1).double().log()
        for k in range(self.classes + 1):
            own = logs[known == k] if k < self.classes and bool((known == k).any()) else logs
            self.get_buffer("library_mean")[k] = own.mean()
            self.get_buffer("library_sd")[k] = own.std(correction=0)
        share = (x.sum(0) + 0.5) / (x.sum() + 0.5 * self.dim)
        self.share.bias.copy_(share.log())

    # -- the two networks ------------------------------------------------------------------------

    def encode(
        self, batch: SparseBatch | Shaped[Tensor, "B D"], *, label: Label = None
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of q(z | x, class)."""
        x = whole(batch, self.dim).to(self.device)
        return self._encode(x, self._labels(label, len(x)))

    def _encode(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        h, c = x.to(self.log_theta).log1p(), self.label(label)
        for layer in self.encoder:
            h = layer(h, c)
        mu, logvar = self.posterior(h).float().chunk(2, 1)
        return mu, logvar.clamp(-15, 10)

    def log_mean(
        self,
        z: Float[Tensor, "B Z"],
        library: Float[Tensor, " B"],
        label: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B D"]:
        """Logarithm of the mean of each count."""
        h, c = z, self.label(label)
        for layer in self.decoder:
            h = layer(h, c)
        return library.log()[:, None] + self.share(h).float().log_softmax(1)

    @property
    def theta(self) -> Float[Tensor, " D"]:
        """Inverse dispersion of each gene."""
        return self.log_theta.clamp(-LARGEST_LOG, LARGEST_LOG).exp()

    # -- loss ------------------------------------------------------------------------------------

    def loss(
        self,
        batch: SparseBatch | Shaped[Tensor, "B D"],
        *,
        label: Label = None,
        generator: torch.Generator,
    ) -> Loss:
        """E_q -log p(x | z, library, class) + beta KL(q || prior), in nats a row and dimension.

        Its parts are in nats a row. The library is the row's own total and costs nothing.
        """
        x = whole(batch, self.dim).to(self.device)
        known = self._labels(label, len(x))
        known = hide(known, self.classes, self.config.label_dropout, generator)
        mu, logvar = self._encode(self._seen(x, generator), known)
        z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=generator).to(mu)
        library = x.sum(1).clamp_min(1).to(mu)
        log_mean = self.log_mean(z, library, known)
        surprise = -log_likelihood(x.to(mu), log_mean, self.theta).mean()
        centre, width = self._prior(known)
        ratio = ((mu - centre).square() + logvar.exp()) / width.exp()
        kl = 0.5 * (ratio - 1 + width - logvar).sum(1).mean()
        total = (surprise + self.config.beta * kl) / self.dim
        return Loss(total, {"reconstruction": surprise, "kl": kl})

    def _seen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """What the encoder is shown: in training not all genes."""
        if not self.training or not self.config.dropout:
            return x
        kept = torch.rand(x.shape, generator=generator) >= self.config.dropout
        return x * kept.to(x.device)

    # -- sampling --------------------------------------------------------------------------------

    def stream(
        self, n: int, *, label: Label = None, generator: Chance
    ) -> Iterator[Step[Shaped[Tensor, "n _"]]]:
        """A latent (one "latent" step), then counts (one "counts" step, with mean and library).

        Args:
            label: one class for all rows, one a row, or None for unconditional.
            generator: one for all rows, or one a row.
        """
        check_sampling(n, 1, "ddpm", 0.0, 1.0)
        return self._stream(self._labels(label, n), split(generator, n))

    def _stream(
        self, label: Tensor, chance: list[torch.Generator]
    ) -> Iterator[Step[Shaped[Tensor, "n _"]]]:
        z = self._draw_latent(label, chance)
        yield Step("latent", 1, 1, 0.0, z)
        drawn = self._draw(z, label, chance)
        aux = {"mean": drawn.mean, "library": drawn.library}
        yield Step("counts", 1, 1, 0.0, drawn.counts, aux=aux)

    def sample(self, n: int, *, label: Label = None, generator: Chance) -> Int64[Tensor, "n D"]:
        """n rows of counts, on the CPU; see `stream` for the options."""
        return last(self.stream(n, label=label, generator=generator))

    @torch.no_grad()
    def _draw_latent(self, label: Tensor, chance: list[torch.Generator]) -> Float[Tensor, "n Z"]:
        centre, width = self._prior(label)
        return centre + (width / 2).exp() * normal(chance, self.config.latent).to(centre)

    def _prior(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z | class)."""
        mu, logvar = self.prior(label).float().chunk(2, 1)
        return mu, logvar.clamp(-15, 10)

    @torch.no_grad()
    def _draw(self, z: Tensor, label: Tensor, chance: list[torch.Generator]) -> _Drawn:
        """A library, then every count the quantile of its law at a uniform number."""
        centre, sd = (self.get_buffer(f"library_{part}")[label].cpu() for part in ("mean", "sd"))
        library = (centre + sd * normal(chance, 1)[:, 0]).exp()
        mean = self.log_mean(z, library.to(z), label).exp().cpu().double()
        dispersion = (1 / self.theta).cpu().double().expand(mean.shape)
        u = uniform(chance, self.dim, dtype=torch.float64)
        counts = torch.zeros(mean.shape, dtype=torch.int64)
        some = u > zero_share(mean, dispersion)
        counts[some] = quantile(u[some], mean[some], dispersion[some]).long()
        return _Drawn(counts, mean.float(), library)

    def _labels(self, label: Label, n: int) -> Int64[Tensor, " n"]:
        return labels(label, n, self.classes, self.device)


def log_likelihood(
    x: Float[Tensor, "B D"], log_mean: Float[Tensor, "B D"], theta: Float[Tensor, " D"]
) -> Float[Tensor, " B"]:
    """log p of each row of counts, each of that mean and of variance mean + mean^2 / theta.

    log p = log Gamma(x + theta) - log Gamma(theta) - log x! - theta log(1 + o) + x log(o / (1 + o))
    with o = mean / theta; all but the fourth term is 0 for a zero, and is left out there.
    """
    log_odds = log_mean - theta.log()
    common = F.softplus(log_odds)  # log(1 + o)
    row, gene = x.nonzero(as_tuple=True)
    count, own = x[row, gene], theta[gene]
    ways = torch.lgamma(count + own) - torch.lgamma(own) - torch.lgamma(count + 1)
    more = ways + count * (log_odds - common)[row, gene]
    return -(common @ theta).index_add(0, row, -more)


def _layers(inputs: int, config: NBVAEConfig) -> nn.ModuleList:
    """Hidden layers that are told the class."""
    sizes = [inputs] + [config.width] * config.layers
    return nn.ModuleList(ConditionedLinear(a, b, config.condition) for a, b in pairwise(sizes))
