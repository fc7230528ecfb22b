"""SAVAE, the sparse autoencoder: a set of (dimension, value) pairs to a latent z and back.

    encode   pairs -> token = W v + DE(dimension) -> Transformer -> masked mean -> q(z | x)
    decode   z -> pairs in ascending dimension, one at a time, until stop; all else is exactly zero

    p(d, v | z) = prod_i p1(d_i | d_<i, v_<i, z) p2(v_i | d_<=i, v_<i, z)  p1(stop | d, v, z)

Source: Ostheimer et al., "Skipping the Zeros in Diffusion Models for Sparse Data Generation", ICML
2026. What the paper leaves open is decided in docs/decisions.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from sed_core import count_law
from sed_core.chance import Chance, normal, split, uniform
from sed_core.count_law import CountDraft
from sed_core.heads import Ready, hazard_law, hazards
from sed_core.nested_head import NestedHead
from sed_core.nn import DimensionEncoding
from sed_core.savae_networks import (
    DraftHead,
    Encoding,
    NamedEncoding,
    PairDecoder,
    SAVAEConfig,
    SetEncoder,
    ValueTransform,
    gaussian_nll,
    smallest_sd,
)
from sed_core.sparse import SparseBatch, trusted
from sed_core.stream import Step
from sed_core.training import Loss

TOP = 5  # alternatives that a decode step reports
AT_ONCE = 1 << 20  # dimensions of all rows together that a draft is worked out for at once
ROOM = 256  # pairs a row that decoding starts with room for
LOG_VARIANCE_OF_TOTAL = -9.0  # of the standardised logarithm of a row's total in its latent


class SAVAE(nn.Module):
    """The autoencoder; latents here are as the encoder gives them, not standardised."""

    def __init__(self, config: SAVAEConfig):
        super().__init__()
        self.config = config
        self.transform = ValueTransform(config)
        sizes = (config.latent, config.draft_width, config.dim)
        counted = CountDraft(*sizes) if config.counts else None
        encoding = DimensionEncoding(config.dim, config.width, config.encoding_base)
        self.encoder = SetEncoder(config, _named(encoding, counted, config.width))
        self.decoder = PairDecoder(config, _named(encoding, counted, config.width))
        if config.draft == "none":
            self.draft_head = None
        else:
            self.draft_head = counted or DraftHead(*sizes)
        if config.draft == "base" and isinstance(self.decoder.index_head, NestedHead):
            self.decoder.index_head.start_from_base()
        if config.counts:
            self.register_buffer("log_total", torch.tensor([0.0, 1.0]))  # mean and sd

    @torch.no_grad()
    def start_from(self, counts: Num[Tensor, " D"], rows: int) -> None:
        """Begin the draft at how often each dimension is non-zero in `rows` training rows.

        Of a model of counts: at each dimension's sum over the rows.
        """
        if isinstance(self.draft_head, CountDraft):
            self.draft_head.share.bias.copy_((counts.double() + 0.1).log())
        elif self.draft_head is not None:
            rate = (counts + 0.1) / (rows + 0.2)
            self.draft_head.logit.bias.copy_(rate.logit())

    @torch.no_grad()
    def expose(self, totals: Num[Tensor, " n"]) -> None:
        """Take mean and sd of the logarithm of the training rows' totals as the standard."""
        logs = totals.double().clamp_min(1).log()
        self._log_total().copy_(torch.stack([logs.mean(), logs.std().clamp_min(1e-3)]))

    def _log_total(self) -> Tensor:
        return self.get_buffer("log_total")

    # -- loss ------------------------------------------------------------------------------------

    def loss(self, batch: SparseBatch, *, generator: torch.Generator) -> Loss:
        """-log p(d, v | z) + beta KL + the draft's own NLL; sums in a sample, means over them."""
        mu, logvar = self.encode(batch)
        eps = torch.randn(mu.shape, generator=generator).to(mu)
        z = mu + (logvar / 2).exp() * eps
        draft, base = self._draft_loss(batch, z)
        index_nll, value_nll = self.nll(batch, z, base=base)
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
        parts = {"index": index_nll, "value": value_nll, "kl": kl, "draft": draft}
        means = {name: part.mean() for name, part in parts.items()}
        total = means["index"] + means["value"] + self.config.beta * means["kl"] + means["draft"]
        return Loss(total, means)

    def draft_loss(self, batch: SparseBatch, *, generator: torch.Generator) -> Loss:
        """Shallow encoder and draft head alone: a cheap start that fills the latent."""
        mu, logvar = self.encode(batch, shallow=True)
        z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=generator).to(mu)
        draft, _ = self._draft_loss(batch, z)
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
        total = draft.mean() + self.config.beta * kl.mean()
        return Loss(total, {"draft": draft.mean(), "kl": kl.mean()})

    def nll(
        self, batch: SparseBatch, z: Float[Tensor, "B Z"], *, base: "Draft | None" = None
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """-log p of the indices (with stop) and of the values of each sample."""
        base = base or self.base(z)
        value = self.transform.forward(batch.value)
        h = self.decoder(batch.index, value, z)
        target, last, real = self._targets(batch)
        used = self._used(batch) if self.config.mask == "used" else None
        log_prob = self.decoder.index_head.log_prob(h, target, last, base.index, used)
        mean, sd = self.value_law(h[:, :-1], batch.index, base.value_at(batch.index))
        if self.config.counts:
            value_nll = count_law.truncated_nll(batch.value.clamp_min(1), mean, sd)
        else:
            value_nll = gaussian_nll(value, mean, sd)
        return -(log_prob * real).sum(1), (value_nll * batch.mask).sum(1)

    def value_law(
        self, h: Float[Tensor, "*T W"], index: Int[Tensor, "*T"], base: Tensor | None
    ) -> tuple[Float[Tensor, "*T"], Float[Tensor, "*T"]]:
        """Mean and sd of the value at the chosen index, standardised; of counts, log mu and theta.

        `base` is what the draft says at that index.
        """
        mean, spread = self.decoder.value_law(h, index, base)
        if not isinstance(self.draft_head, CountDraft):
            return mean, spread
        log_theta = count_law.bounded_theta(self.draft_head.log_theta[index]) + spread
        lowest, highest = count_law.SMALLEST_LOG_MEAN, count_law.LARGEST_LOG_MEAN
        return mean.clamp(lowest, highest), count_law.bounded_theta(log_theta)

    def drawn(
        self, mean: Tensor, sd: Tensor, eps: Float[Tensor, " B"], temperature: float
    ) -> Float[Tensor, " B"]:
        """A value of `value_law` in data units, from a standard normal number."""
        if not self.config.counts:
            drawn = torch.addcmul(mean, sd, eps, value=temperature)
            return self.transform.repair(self.transform.inverse(drawn))
        u = 0.5 * torch.erfc(-temperature * eps.double() / 2**0.5)  # the normal law's function
        return count_law.truncated_quantile(u, mean, sd).to(mean)

    def moments(self, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, in data units, of `value_law`."""
        if self.config.counts:
            return count_law.truncated_moments(mean, sd)
        return self.transform.moments(mean, sd)

    def _targets(self, batch: SparseBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Next index, index before, and whether the position counts; all (B, N + 1)."""
        n = batch.nnz[:, None]
        position = torch.arange(batch.index.shape[1] + 1, device=n.device)
        target = F.pad(batch.index, (0, 1)).masked_fill(position >= n, self.config.dim)
        last = F.pad(batch.index, (1, 0), value=-1).masked_fill(position > n, -1)
        last = last if self.config.mask == "past" else torch.full_like(last, -1)
        return target, last, position <= n

    def _used(self, batch: SparseBatch) -> Bool[Tensor, "B positions D"]:
        hot = F.one_hot(batch.index, self.config.dim).bool() & batch.mask[..., None]
        return F.pad(hot.cumsum(1).bool(), (0, 0, 1, 0))

    def _draft_loss(self, batch: SparseBatch, z: Tensor) -> tuple[Tensor, "Draft"]:
        if self.draft_head is None:
            return z.new_zeros(len(batch)), Draft(None, None)
        if isinstance(self.draft_head, CountDraft):
            return self._count_draft_loss(batch, z, self.draft_head)
        logit, mean = self.draft_head(z)
        on = torch.zeros_like(logit).index_put(_at(batch), logit.new_ones(()))
        bernoulli = F.binary_cross_entropy_with_logits(logit, on, reduction="none").sum(1)
        log_sd = self.draft_head.log_sd.clamp(log(smallest_sd(self.config)), 2.0)[batch.index]
        value = self.transform.forward(batch.value)
        law = gaussian_nll(value, mean.gather(1, batch.index), log_sd.exp())
        return bernoulli + (law * batch.mask).sum(1), self._as_base(logit, mean)

    def _count_draft_loss(
        self, batch: SparseBatch, z: Tensor, head: CountDraft
    ) -> tuple[Tensor, "Draft"]:
        """-log of the negative binomial of every dimension; its gamma functions on pairs only."""
        log_mean, log_theta = head(z, self.total_of(z))
        surprise = count_law.surprise_of_zero(log_mean, log_theta)
        x, at = batch.value.clamp_min(1), batch.index
        pairs = count_law.log_prob(x, log_mean.gather(1, at), log_theta[at])
        change = (pairs + surprise.gather(1, at)) * batch.mask
        return surprise.sum(1) - change.sum(1), self._count_base(log_mean, surprise)

    def total_of(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, " B"]:
        """Logarithm of the row's total, which a latent of counts has as its last entry."""
        mean, sd = self._log_total()
        return z[:, -1] * sd + mean

    # -- draft -----------------------------------------------------------------------------------

    def draft(self, z: Float[Tensor, "B Z"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Probability of being non-zero and mean value (data units) of every dimension."""
        if self.draft_head is None:
            raise ValueError("this model was built with draft='none', so it has no draft head")
        if isinstance(self.draft_head, CountDraft):
            log_mean, log_theta = self.draft_head(z, self.total_of(z))
            there = -torch.expm1(-count_law.surprise_of_zero(log_mean, log_theta))
            return there, count_law.truncated_moments(log_mean, log_theta)[0]
        logit, mean = self.draft_head(z)
        return logit.sigmoid(), self.transform.repair(self.transform.inverse(mean))

    def base(self, z: Float[Tensor, "B Z"]) -> "Draft":
        """The law that the decoder starts from at z, worked out in pieces that fit a cache."""
        if self.draft_head is None:
            return Draft(None, None)
        size = max(1, AT_ONCE // self.config.dim)
        firsts = range(0, max(1, len(z)), size)
        return Draft.joined([self._base(z[first : first + size]) for first in firsts])

    def _base(self, z: Float[Tensor, "B Z"]) -> "Draft":
        if isinstance(self.draft_head, CountDraft):
            log_mean, log_theta = self.draft_head(z, self.total_of(z))
            return self._count_base(log_mean, count_law.surprise_of_zero(log_mean, log_theta))
        assert self.draft_head is not None
        return self._as_base(*self.draft_head(z))

    def _as_base(self, logit: Tensor, mean: Tensor) -> "Draft":
        """The draft as the decoder's starting law; no gradient flows into the draft from there."""
        if self.config.draft != "base":
            return Draft(None, None)
        index = self.decoder.index_head.prepared(hazard_law(logit.detach()))
        return Draft(index, mean.detach())

    def _count_base(self, log_mean: Tensor, surprise: Tensor) -> "Draft":
        surprise = surprise.detach()
        law = hazards(count_law.presence(surprise), -surprise)
        return Draft(self.decoder.index_head.prepared(law), log_mean.detach())

    # -- encode and decode -----------------------------------------------------------------------

    def encode(
        self, batch: SparseBatch, *, shallow: bool = False
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of q(z | x)."""
        value = self.transform.forward(batch.value)
        mu, logvar = self.encoder(batch.index, value, batch.mask, shallow=shallow)
        return self._with_total(batch, mu, logvar) if self.config.counts else (mu, logvar)

    def _with_total(
        self, batch: SparseBatch, mu: Tensor, logvar: Tensor
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """The row's own total as the last entry, known but for a little noise."""
        mean, sd = self._log_total()
        total = ((batch.value * batch.mask).sum(1, keepdim=True).clamp_min(1).log() - mean) / sd
        known = torch.full_like(total, LOG_VARIANCE_OF_TOTAL)
        return torch.cat([mu, total], 1), torch.cat([logvar, known], 1)

    def decode(
        self,
        z: Float[Tensor, "B Z"],
        *,
        temperature: float = 1.0,
        value_temperature: float = 1.0,
        prefix: SparseBatch | None = None,
        choose: Int[Tensor, " B"] | None = None,
        generator: Chance,
        detail: bool = True,
    ) -> Iterator[Step[SparseBatch]]:
        """Emit pairs one at a time until every row has chosen stop.

        Args:
            temperature: of the index law; 0 takes the most probable.
            value_temperature: of the value law; 0 takes its centre. A fixed law has no width of
                its own, so its centre is always taken.
            prefix: pairs already chosen; decoding goes on after them.
            choose: the next index of each row, `dim` for stop, instead of a draw; its value is
                still drawn.
            generator: one for all rows, or one a row. Noise belongs to the position in the
                sequence: the same prefix has the same continuation.
            detail: fill `aux` with what a picture needs; False is faster.

        Raises:
            ValueError: if an argument does not fit the model or the other arguments.
        """
        _check_temperature(temperature, value_temperature)
        _check_forced(self.config, z, prefix, choose)
        chance = split(generator, len(z))
        return self._steps(z, temperature, value_temperature, prefix, choose, chance, detail)

    def _steps(
        self,
        z: Tensor,
        temperature: float,
        value_temperature: float,
        prefix: SparseBatch | None,
        choose: Tensor | None,
        chance: list[torch.Generator],
        detail: bool,
    ) -> Iterator[Step[SparseBatch]]:
        run = _Decoding(self, z, temperature, value_temperature, chance)
        start = 0 if prefix is None or len(z) == 0 else int(prefix.nnz.min())
        forced = _Forced(prefix, choose)
        while not run.finished:
            step = run.advance(forced, detail=detail and run.position >= start)
            if step.i > start:
                yield step


@dataclass(frozen=True)
class Draft:
    """What the draft head gives the decoder to start from."""

    index: Ready  # log-weights of the next-index law, as the head prepared them
    value: Float[Tensor, "B D"] | None  # standardised means

    def value_at(self, index: Int[Tensor, "B N"]) -> Float[Tensor, "B N"] | None:
        """Value means at the given dimensions."""
        return None if self.value is None else self.value.gather(1, index)

    def value_of(self, index: Int[Tensor, " B"]) -> Float[Tensor, " B"] | None:
        """Value mean at one dimension of each row."""
        return None if self.value is None else self.value.gather(1, index[:, None])[:, 0]

    @staticmethod
    def joined(parts: "list[Draft]") -> "Draft":
        """Pieces of a batch as one."""
        if len(parts) == 1 or parts[0].index is None:
            return parts[0]
        index = [part.index for part in parts if part.index is not None]
        value = [part.value for part in parts if part.value is not None]
        return Draft(torch.cat(index), torch.cat(value))

    def keep(self, rows: Tensor) -> "Draft":
        """The same for some rows."""
        return Draft(*(None if part is None else part[rows] for part in (self.index, self.value)))


@dataclass(frozen=True)
class _Forced:
    """Pairs that a decoding must choose: a prefix, and maybe the index right after it."""

    prefix: SparseBatch | None
    choose: Tensor | None

    def index(self, position: int, drawn: Tensor, rows: Tensor) -> Tensor:
        if self.choose is not None:
            after = 0 if self.prefix is None else self.prefix.nnz.to(rows.device)[rows]
            drawn = torch.where(
                torch.as_tensor(after == position, device=rows.device),
                self.choose.to(drawn)[rows],
                drawn,
            )
        return self._known(position, drawn, rows, "index")

    def value(self, position: int, drawn: Tensor, rows: Tensor) -> Tensor:
        return self._known(position, drawn, rows, "value")

    def _known(self, position: int, drawn: Tensor, rows: Tensor, part: str) -> Tensor:
        if self.prefix is None or position >= self.prefix.mask.shape[1]:
            return drawn
        prefix = self.prefix.to(drawn.device)
        known = getattr(prefix, part)[rows, position].to(drawn)
        return torch.where(prefix.mask[rows, position], known, drawn)


class _Noise:
    """Uniform and normal draws by position, taken from each row's generator a chunk at a time."""

    CHUNK = 64

    def __init__(self, generators: list[torch.Generator], device: torch.device):
        self.generators, self.device, self.start = generators, device, -self.CHUNK

    def at(self, position: int) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        if position >= self.start + self.CHUNK:
            self.start += self.CHUNK
            self.u = uniform(self.generators, self.CHUNK).to(self.device)
            self.eps = normal(self.generators, self.CHUNK).to(self.device)
        return self.u[:, position - self.start], self.eps[:, position - self.start]

    def keep(self, rows: Tensor) -> None:
        self.generators = [self.generators[int(row)] for row in rows]
        self.u, self.eps = self.u[rows], self.eps[rows]


class _Decoding:
    """The frame of one `decode` call. Rows that have stopped are dropped from the computation."""

    def __init__(
        self,
        model: SAVAE,
        z: Tensor,
        temperature: float,
        value_temperature: float,
        generators: list[torch.Generator],
    ):
        c = model.config
        self.model, self.decoder, self.dim = model, model.decoder, c.dim
        self.temperature = temperature
        self.value_temperature = 0.0 if c.value_law == "fixed" else value_temperature
        self.cap, self.ordered = min(c.max_pairs or c.dim, c.dim), c.mask == "past"
        self.noise = _Noise(generators, z.device)
        self._prepare(z)
        rows = len(z)
        self.rows = torch.arange(rows, device=z.device)  # rows still computed
        self.alive = torch.ones(rows, dtype=torch.bool, device=z.device)
        room = min(self.cap, ROOM)
        self.index = torch.zeros(rows, room, dtype=torch.int64, device=z.device)
        self.value = torch.zeros(rows, room, device=z.device)
        self.mask = torch.zeros(rows, room, dtype=torch.bool, device=z.device)
        self.passed = torch.zeros(rows, dtype=torch.int64, device=z.device)  # dimensions behind us
        self.used = (
            torch.zeros(rows, c.dim, dtype=torch.bool, device=z.device)
            if c.mask == "used"
            else None
        )
        self.position = 0
        self.finished = rows == 0

    @torch.no_grad()
    def _prepare(self, z: Tensor) -> None:
        self.base = self.model.base(z)
        self.token = self.decoder.first(z)[:, 0]
        self.layers = self.decoder.cached(z)

    @torch.no_grad()
    def advance(self, forced: _Forced, *, detail: bool) -> Step[SparseBatch]:
        """One more pair, or stop, for every row that goes on."""
        h = self.decoder.advance(self.token, self.layers)
        u, eps = self.noise.at(self.position)
        law, index = self._choose(h, u, detail)
        index = forced.index(self.position, index, self.rows)
        index = index if self.position < self.cap else torch.full_like(index, self.dim)
        going = self.alive & (index < self.dim)
        pair_index = index.clamp_max(self.dim - 1)
        mean, sd = self.model.value_law(h, pair_index, self.base.value_of(pair_index))
        drawn = self.model.drawn(mean, sd, eps, self.value_temperature)
        value = forced.value(self.position, drawn, self.rows)
        aux = self._aux(law, index, value, mean, sd, going) if law is not None else {}
        self._write(pair_index, value, going)
        return self._step(aux)

    def _choose(self, h: Tensor, u: Tensor, detail: bool) -> tuple[Tensor | None, Tensor]:
        head, base = self.decoder.index_head, self.base.index
        last = self.passed - 1 if self.ordered else torch.full_like(self.passed, -1)
        used = None if self.used is None else self.used[:, None]
        index = head.pick(h, last, base, u, self.temperature, used)
        return (head.law(h, last, base, self.temperature, used) if detail else None), index

    def _write(self, index: Tensor, value: Tensor, going: Tensor) -> None:
        """Store the pairs of rows that go on, and drop rows once a quarter of them has stopped."""
        self.token = self.decoder.embed(
            index[:, None], self.model.transform.forward(value)[:, None]
        )[:, 0]
        passed, living = index + 1, int(going.sum())
        if living < len(going):
            passed = passed.masked_fill(~going, self.dim)
            index, value = index.masked_fill(~going, 0), value.masked_fill(~going, 0.0)
        if self.position < self.cap:
            self._make_room()
            self.index[self.rows, self.position] = index
            self.value[self.rows, self.position] = value
            self.mask[self.rows, self.position] = going
        self.passed = passed if self.ordered else torch.maximum(self.passed, passed)
        if self.used is not None:
            self.used[torch.arange(len(index), device=index.device), index] |= going
        self.alive, self.finished = going, living == 0
        self.position += 1
        if 0 < living <= 0.75 * len(going):
            self._keep(going.nonzero()[:, 0])

    def _make_room(self) -> None:
        """Twice as many places for pairs, where they are full; steps told before keep theirs."""
        room = self.index.shape[1]
        if self.position == room:
            more = (0, min(room, self.cap - room))
            self.index, self.value, self.mask = (
                F.pad(part, more) for part in (self.index, self.value, self.mask)
            )

    def _keep(self, rows: Tensor) -> None:
        self.rows, self.alive, self.passed = self.rows[rows], self.alive[rows], self.passed[rows]
        self.token, self.base = self.token[rows], self.base.keep(rows)
        self.used = None if self.used is None else self.used[rows]
        for layer in self.layers:
            layer.keep(rows)
        self.noise.keep(rows)

    def _step(self, aux: Mapping[str, Tensor]) -> Step[SparseBatch]:
        """The pairs so far, as views that later steps leave alone."""
        width = self.position - self.finished  # the last step adds no pair to any row
        x = trusted(self.index[:, :width], self.value[:, :width], self.mask[:, :width], self.dim)
        passed = self.dim if self.finished else int(self.passed.min())
        room = self.cap - self.position
        if self.ordered:
            room = min(room, self.dim - passed)
        left = 0 if self.finished else room + 1  # steps that may still come, stop included
        return Step(
            "pairs", self.position, self.position + left, 1 - passed / self.dim, x, None, aux
        )

    def _aux(
        self, law: Tensor, index: Tensor, value: Tensor, mean: Tensor, sd: Tensor, going: Tensor
    ) -> dict[str, Tensor]:
        """What a picture needs, for all rows; rows that had stopped before hold index -1."""
        mean, sd = self.model.moments(mean, sd)
        top = law[:, :-1].topk(min(TOP, self.dim))
        parts = {
            "index": index,
            "value": value.masked_fill(~going, 0.0),
            "prob": law.gather(1, index[:, None])[:, 0],
            "stop": law[:, -1],
            "top_index": top.indices,
            "top_prob": top.values,
            "mean": mean.masked_fill(~going, 0.0),
            "sd": sd.masked_fill(~going, 0.0),
            "next": law,
        }
        if bool(self.alive.all()) and len(self.rows) == len(self.index):
            return parts
        return {name: self._spread(part, name) for name, part in parts.items()}

    def _spread(self, part: Tensor, name: str) -> Tensor:
        """From the rows still computed to all rows of the call."""
        spread = part.new_full((len(self.index), *part.shape[1:]), -1 if "index" in name else 0)
        spread[self.rows[self.alive]] = part[self.alive]
        return spread


def _named(encoding: DimensionEncoding, draft: CountDraft | None, width: int) -> Encoding:
    return encoding if draft is None else NamedEncoding(encoding, draft, width)


def _at(batch: SparseBatch) -> tuple[Tensor, Tensor]:
    """Row and dimension of every real pair."""
    row, place = batch.mask.nonzero(as_tuple=True)
    return row, batch.index[row, place]


def _check_temperature(*temperatures: float) -> None:
    for temperature in temperatures:
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a positive number, got {temperature}")


def _check_forced(
    config: SAVAEConfig, z: Tensor, prefix: SparseBatch | None, choose: Tensor | None
) -> None:
    """Refuse a latent, a prefix or a chosen index that the model could not have produced."""
    if z.shape[1] != config.latent:
        raise ValueError(f"this model's latent has {config.latent} entries, got {z.shape[1]}")
    if prefix is not None:
        _check_prefix(config, len(z), prefix)
    if choose is None:
        return
    choose = choose.cpu()
    if len(choose) != len(z) or not bool(((choose >= 0) & (choose <= config.dim)).all()):
        raise ValueError(
            f"choose needs one index from 0 to {config.dim} (stop) a row for {len(z)} rows, "
            f"got {choose.tolist()}"
        )
    taken = torch.zeros_like(choose).bool() if prefix is None else _taken(config, prefix, choose)
    if bool(taken.any()):
        row = int(taken.nonzero()[0])
        raise ValueError(
            f"row {row} can't choose {int(choose[row])} after its prefix; "
            "choose a dimension that is still open"
        )


def _check_prefix(config: SAVAEConfig, rows: int, prefix: SparseBatch) -> None:
    if (len(prefix), prefix.dim) != (rows, config.dim):
        raise ValueError(
            f"the prefix must have {rows} rows of {config.dim} dimensions, "
            f"got {len(prefix)} of {prefix.dim}"
        )
    cap = config.max_pairs or config.dim
    if prefix.index.shape[1] > cap:
        raise ValueError(
            f"the prefix has up to {prefix.index.shape[1]} pairs, this model stops at {cap}"
        )


def _taken(config: SAVAEConfig, prefix: SparseBatch, choose: Tensor) -> Bool[Tensor, " B"]:
    """Rows whose chosen dimension is not open any more after the prefix."""
    index, mask = prefix.index.cpu(), prefix.mask.cpu()
    if config.mask == "past":
        return ((index >= choose[:, None]) & mask).any(1)
    return ((index == choose[:, None]) & mask).any(1) & (config.mask == "used")
