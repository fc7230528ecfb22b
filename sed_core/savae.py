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
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sed_core.chance import Chance, normal, split, uniform
from sed_core.heads import hazard_law
from sed_core.nn import DimensionEncoding
from sed_core.savae_networks import (
    DraftHead,
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
ROOM = 256  # pairs a row that decoding starts with room for


class SAVAE(nn.Module):
    """The autoencoder; latents here are as the encoder gives them, not standardised."""

    def __init__(self, config: SAVAEConfig):
        super().__init__()
        self.config = config
        self.transform = ValueTransform(config)
        encoding = DimensionEncoding(config.dim, config.width, config.encoding_base)
        self.encoder = SetEncoder(config, encoding)
        self.decoder = PairDecoder(config, encoding)
        self.draft_head = (
            None
            if config.draft == "none"
            else DraftHead(config.latent, config.draft_width, config.dim)
        )

    @torch.no_grad()
    def start_from(self, counts: Int[Tensor, " D"], rows: int) -> None:
        """Begin the draft at how often each dimension is non-zero in `rows` training rows."""
        if self.draft_head is not None:
            rate = (counts + 0.1) / (rows + 0.2)
            self.draft_head.logit.bias.copy_(rate.logit())

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
        mean, sd = self.decoder.value_law(h[:, :-1], batch.index, base.value_at(batch.index))
        value_nll = gaussian_nll(value, mean, sd)
        return -(log_prob * real).sum(1), (value_nll * batch.mask).sum(1)

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
        logit, mean = self.draft_head(z)
        on = torch.zeros_like(logit).index_put(_at(batch), logit.new_ones(()))
        bernoulli = F.binary_cross_entropy_with_logits(logit, on, reduction="none").sum(1)
        log_sd = self.draft_head.log_sd.clamp(log(smallest_sd(self.config)), 2.0)[batch.index]
        value = self.transform.forward(batch.value)
        law = gaussian_nll(value, mean.gather(1, batch.index), log_sd.exp())
        return bernoulli + (law * batch.mask).sum(1), self._as_base(logit, mean)

    # -- draft -----------------------------------------------------------------------------------

    def draft(self, z: Float[Tensor, "B Z"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Probability of being non-zero and mean value (data units) of every dimension."""
        if self.draft_head is None:
            raise ValueError("this model was built with draft='none', so it has no draft head")
        logit, mean = self.draft_head(z)
        return logit.sigmoid(), self.transform.repair(self.transform.inverse(mean))

    def base(self, z: Float[Tensor, "B Z"]) -> "Draft":
        """The law that the decoder starts from at z."""
        if self.draft_head is None:
            return Draft(None, None)
        return self._as_base(*self.draft_head(z))

    def _as_base(self, logit: Tensor, mean: Tensor) -> "Draft":
        """The draft as the decoder's starting law; no gradient flows into the draft from there."""
        if self.config.draft != "base":
            return Draft(None, None)
        return Draft(hazard_law(logit.detach()), mean.detach())

    # -- encode and decode -----------------------------------------------------------------------

    def encode(
        self, batch: SparseBatch, *, shallow: bool = False
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of q(z | x)."""
        value = self.transform.forward(batch.value)
        return self.encoder(batch.index, value, batch.mask, shallow=shallow)

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

    index: Float[Tensor, "B classes"] | None  # log-weights of the next-index law
    value: Float[Tensor, "B D"] | None  # standardised means

    def value_at(self, index: Int[Tensor, "B N"]) -> Float[Tensor, "B N"] | None:
        """Value means at the given dimensions."""
        return None if self.value is None else self.value.gather(1, index)

    def value_of(self, index: Int[Tensor, " B"]) -> Float[Tensor, " B"] | None:
        """Value mean at one dimension of each row."""
        return None if self.value is None else self.value.gather(1, index[:, None])[:, 0]

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
        mean, sd = self.decoder.value_law(h, pair_index, self.base.value_of(pair_index))
        drawn = torch.addcmul(mean, sd, eps, value=self.value_temperature)
        drawn = self.model.transform.inverse(drawn)
        value = forced.value(self.position, self.model.transform.repair(drawn), self.rows)
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
        mean, sd = self.model.transform.moments(mean, sd)
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
