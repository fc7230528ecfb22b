"""The networks of SAVAE and the laws of its data: set encoder, draft head, pair decoder.

    encode   pairs -> token = W v + DE(dimension) -> Transformer -> masked mean -> q(z | x)
    decode   BOS and the pairs so far -> causal Transformer -> law of the next index and its value

`savae.py` puts them together: loss, and decoding one pair at a time.
"""

from dataclasses import dataclass
from math import log, pi
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sed_core.count_law import CountDraft
from sed_core.heads import BlockedHead, FlatHead, IndexHead
from sed_core.nested_head import NestedHead
from sed_core.nn import Block, CachedBlock, DimensionEncoding, masked_mean

POOL_GAIN = 20.0
HEADS = {"flat": FlatHead, "blocked": BlockedHead, "nested": NestedHead}


@dataclass(frozen=True)
class SAVAEConfig:
    """Shape of the autoencoder and the laws of its data."""

    dim: int  # dimensions of the data
    latent: int = 64
    width: int = 128
    heads: int = 4
    encoder_layers: int = 1
    decoder_layers: int = 3
    encoding_base: float = 20_000.0  # k of the Dimension Encoding
    pool_width: int = 512  # features a token is widened to before the mean
    pool_count: bool = False  # tell the posterior log(1 + number of pairs)
    beta: float = 1e-6  # weight of the KL
    index_head: Literal["flat", "blocked", "nested"] = "flat"
    mask: Literal["none", "used", "past"] = "past"  # dimensions that can't be chosen any more
    z_cond: Literal["bias", "prefix", "cross"] = "bias"  # how z reaches the decoder
    draft: Literal["none", "beside", "base"] = (
        "base"  # draft head: absent, trained beside, built on
    )
    draft_width: int = 384
    value_law: Literal["fixed", "learned", "lognormal", "counts"] = "learned"
    value_mean: float = 0.0  # of the training non-zeros (of their log where log-normal, or counts)
    value_sd: float = 1.0
    value_step: float = 0.0  # quantisation step of the data; 0 for continuous data
    value_smallest: float = 0.0  # smallest absolute training non-zero
    value_largest: float = 0.0  # largest possible absolute value; 0 for none
    signed: bool = False
    max_pairs: int = 0  # cap where the mask does not end decoding by itself; 0 for `dim`

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width must be even and divide by heads, got {self.width}")
        if self.index_head != "flat" and self.mask == "used":
            raise ValueError("a blocked head masks 'past' or 'none'; 'used' needs the flat head")
        if self.logarithmic and self.signed:
            raise ValueError(f"the value law {self.value_law!r} needs positive data, not signed")
        if self.counts and (self.draft != "base" or self.latent < 2):
            raise ValueError(
                "counts are told from the draft's rates: they need draft='base' and a latent of "
                f"at least 2, got {self.draft!r} and {self.latent}"
            )

    @property
    def counts(self) -> bool:
        """Whether values are counts, and the last entry of a latent their standardised total."""
        return self.value_law == "counts"

    @property
    def logarithmic(self) -> bool:
        """Whether tokens carry the logarithm of a value."""
        return self.value_law in ("lognormal", "counts")


@dataclass(frozen=True)
class ValueTransform:
    """Data values <-> standardised values of the Gaussian head, fitted on training non-zeros."""

    config: SAVAEConfig

    def forward(self, value: Tensor) -> Tensor:
        """Standardised value; padding stays finite."""
        c = self.config
        value = value.clamp_min(1e-30).log() if c.logarithmic else value
        return (value - c.value_mean) / c.value_sd

    def inverse(self, standard: Tensor) -> Tensor:
        """Data value, not yet repaired."""
        value = standard * self.config.value_sd + self.config.value_mean
        return value.exp() if self.config.logarithmic else value

    def repair(self, value: Tensor) -> Tensor:
        """The nearest value that the data could hold: never zero, of the right sign and step."""
        c = self.config
        if c.value_step:
            value = (value / c.value_step).round() * c.value_step
        tiny, most = max(c.value_smallest, 1e-12), c.value_largest or None
        if not c.signed:
            return value.clamp(tiny, most)
        return value.abs().clamp(tiny, most).copysign(value)

    def moments(self, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in data units of a Gaussian in standardised units."""
        mean, sd = mean * self.config.value_sd + self.config.value_mean, sd * self.config.value_sd
        if self.config.value_law != "lognormal":
            return mean, sd
        expected = (mean + sd**2 / 2).exp()
        return expected, expected * (sd**2).expm1().sqrt()


class NamedEncoding(nn.Module):
    """Dimension Encoding, and beside it what the draft has learned of a dimension.

    Genes have no order, so that the angle of a number says nothing of its neighbours. The draft's
    rows are looked up where they are: no table is added, and tokens cost the same.
    """

    def __init__(self, encoding: DimensionEncoding, draft: CountDraft, width: int):
        super().__init__()
        self.encoding, self.draft = encoding, (draft,)  # not a part: the draft has its own place
        self.project = nn.Linear(draft.share.in_features, width, bias=False)

    def forward(self, index: Int[Tensor, "..."]) -> Float[Tensor, "... W"]:
        return self.encoding(index) + self.project(self.draft[0].name(index))


Encoding = DimensionEncoding | NamedEncoding


class SetEncoder(nn.Module):
    """q(z | pairs): no parameter depends on the number of dimensions, no output on their order."""

    def __init__(self, config: SAVAEConfig, encoding: Encoding):
        super().__init__()
        self.config, self.encoding = config, encoding
        self.value = nn.Linear(1, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.widen = nn.Linear(config.width, config.pool_width)
        self.empty = nn.Parameter(torch.zeros(config.pool_width))
        hidden = nn.Linear(config.pool_width + config.pool_count, config.pool_width)
        with torch.no_grad():  # means over many tokens differ little between samples
            hidden.weight.mul_(POOL_GAIN)
        self.posterior = nn.Sequential(
            hidden, nn.SiLU(), nn.Linear(config.pool_width, 2 * (config.latent - config.counts))
        )

    def forward(
        self,
        index: Int[Tensor, "B N"],
        value: Float[Tensor, "B N"],
        mask: Bool[Tensor, "B N"],
        *,
        shallow: bool = False,
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Mean and log-variance of z; `value` is standardised.

        `shallow` leaves the Transformer blocks out. They start as the identity, so a shallow
        encoder is the same function until they are trained, at a fraction of the cost.
        """
        if index.shape[1] == 0:
            index, value, mask = (F.pad(part, (0, 1)) for part in (index, value, mask))
        x = self.value(value[..., None]) + self.encoding(index)
        attended = mask.clone()
        attended[:, 0] = True  # an empty row attends to its padding, which the mean leaves out
        valid = None if bool(attended.all()) else attended
        for block in () if shallow else self.blocks:
            x = block(x, valid=valid)
        pooled = masked_mean(F.gelu(self.widen(self.norm(x))), mask, self.empty)
        if self.config.pool_count:
            pooled = torch.cat([pooled, mask.sum(1, keepdim=True).to(pooled.dtype).log1p()], 1)
        mu, logvar = self.posterior(pooled).chunk(2, -1)
        return mu, logvar.clamp(-30, 20)


class DraftHead(nn.Module):
    """z -> one Bernoulli and one value law a dimension, all at once.

    Trained beside the decoder it keeps the latent informative; as its base it is the law from
    which the decoder starts; its samples are drafts for speculative decoding.
    """

    def __init__(self, latent: int, width: int, dim: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.logit = nn.Linear(width, dim)
        self.mean = nn.Linear(width, dim)
        self.log_sd = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Float[Tensor, "B Z"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Bernoulli logits and standardised value means."""
        hidden = self.body(z)
        return 12 * torch.tanh(self.logit(hidden) / 12), self.mean(hidden)


class PairDecoder(nn.Module):
    """Causal Transformer over BOS and the pairs so far; its state predicts the next pair."""

    def __init__(self, config: SAVAEConfig, encoding: Encoding):
        super().__init__()
        self.config, self.encoding = config, encoding
        self.value = nn.Linear(1, config.width)
        self.begin = (
            None if config.z_cond == "prefix" else nn.Parameter(torch.randn(config.width) * 0.02)
        )
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads) for _ in range(config.decoder_layers)
        )
        self.condition = _conditions(config)
        self.norm = nn.LayerNorm(config.width)
        head = HEADS[config.index_head]
        self.index_head: IndexHead = head(config.width, config.dim)
        self.value_head = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, 2)
        )

    def forward(
        self, index: Int[Tensor, "B N"], value: Float[Tensor, "B N"], z: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B N+1 W"]:
        """States at BOS and after every pair, in one parallel pass (teacher forcing)."""
        x = torch.cat([self.first(z), self.embed(index, value)], 1)
        for block, shift in zip(self.blocks, self.shifts(z), strict=True):
            x = block(x, shift=shift, causal=True)
        return self.norm(x)

    def cached(self, z: Float[Tensor, "B Z"], size: int = 256) -> list[CachedBlock]:
        """The blocks for decoding one pair at a time, with room for `size` of them at first."""
        both = zip(self.blocks, self.shifts(z), strict=True)
        return [CachedBlock(cast(Block, b), shift, len(z), size) for b, shift in both]

    def advance(
        self, token: Float[Tensor, "B W"], layers: list[CachedBlock]
    ) -> Float[Tensor, "B W"]:
        """The state after one more token a row, which the layers remember."""
        for layer in layers:
            token = layer.advance(token)
        return self.norm(token)

    def first(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B 1 W"]:
        """The token that stands before the pairs: BOS, or z itself where it is the prefix."""
        if self.begin is None:
            return self.condition[0](z)[:, None]
        return self.begin.expand(len(z), 1, -1)

    def embed(self, index: Tensor, value: Tensor) -> Float[Tensor, "B N W"]:
        """Tokens of pairs with standardised values."""
        return self.value(value[..., None]) + self.encoding(index)

    def shifts(self, z: Float[Tensor, "B Z"]) -> list[Tensor | None]:
        """What z adds to the residual stream of each layer: the same for every token."""
        if self.config.z_cond == "prefix":
            return [None] * len(self.blocks)
        return [condition(z)[:, None] for condition in self.condition]

    def value_law(
        self, h: Float[Tensor, "*T W"], index: Int[Tensor, "*T"], base: Tensor | None
    ) -> tuple[Float[Tensor, "*T"], Float[Tensor, "*T"]]:
        """Mean and sd, standardised, of the value at the chosen index; of counts, log mu and a
        change of log theta."""
        mean, log_sd = self.value_head(h + self.encoding(index)).unbind(-1)
        mean = mean if base is None else mean + base
        if self.config.counts:
            return mean, log_sd
        if self.config.value_law == "fixed":
            return mean, torch.ones_like(mean)
        return mean, log_sd.clamp(log(smallest_sd(self.config)), 2.0).exp()


def gaussian_nll(x: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """-log N(x; mean, sd^2), elementwise."""
    return 0.5 * ((x - mean) / sd) ** 2 + sd.log() + 0.5 * log(2 * pi)


def smallest_sd(config: SAVAEConfig) -> float:
    """Floor of a learned sd: half the quantisation step, without which likelihoods diverge."""
    if config.value_step and config.value_law != "lognormal":
        return 0.5 * config.value_step / config.value_sd
    return 0.01


def _conditions(config: SAVAEConfig) -> nn.ModuleList:
    """One map of z a layer; attention over the single key z has weight 1, so `cross` is linear."""
    if config.z_cond == "prefix":
        return nn.ModuleList([nn.Linear(config.latent, config.width)])
    if config.z_cond == "bias":
        maps = [nn.Linear(config.latent, config.width) for _ in range(config.decoder_layers)]
        return nn.ModuleList(maps)
    return nn.ModuleList(
        nn.Sequential(nn.Linear(config.latent, config.width), nn.Linear(config.width, config.width))
        for _ in range(config.decoder_layers)
    )
