"""Blocks that two families or more share: encodings, attention with a cache, the MLP U-Net."""

from math import pi

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TABLE_LIMIT = 2**16  # dimensions up to which the encoding is one table
FINE = 2**10  # above, an index is coarse * FINE + fine, and there is a table for each part


def dimension_encoding(
    index: Int[Tensor, "..."], width: int, base: float = 20_000.0
) -> Float[Tensor, "... W"]:
    """Sines and cosines of the dimension index, interleaved, at `width / 2` frequencies.

    Angles are float64: in float32 the angle of dimension 27,000 is already wrong by 1.6e-3.
    """
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=index.device) / width
    angle = index[..., None].double() * base**-exponent
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2).float()


class DimensionEncoding(nn.Module):
    """`dimension_encoding` of indices below `dim`, looked up.

    Many dimensions are looked up in two small tables, of the coarse and of the fine part of the
    angle, and put together by sin(a + b) = sin a cos b + cos a sin b: a few products a number
    instead of a sine in float64, and no table that grows with `dim`.
    """

    def __init__(self, dim: int, width: int, base: float):
        super().__init__()
        fine = torch.arange(dim if dim <= TABLE_LIMIT else FINE)
        coarse = FINE * torch.arange(0 if dim <= TABLE_LIMIT else dim // FINE + 1)
        for name, rows in (("table", fine), ("coarse", coarse)):
            self.register_buffer(name, dimension_encoding(rows, width, base), persistent=False)

    def forward(self, index: Int[Tensor, "..."]) -> Float[Tensor, "... W"]:
        table, coarse = self.get_buffer("table"), self.get_buffer("coarse")
        if not len(coarse):
            return F.embedding(index, table)
        a, b = F.embedding(index // FINE, coarse), F.embedding(index % FINE, table)
        sin_a, cos_a, sin_b, cos_b = a[..., 0::2], a[..., 1::2], b[..., 0::2], b[..., 1::2]
        sine, cosine = sin_a * cos_b + cos_a * sin_b, cos_a * cos_b - sin_a * sin_b
        return torch.stack([sine, cosine], -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B N W"],
        *,
        valid: Bool[Tensor, "B N"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "B N W"]:
        rows, tokens, width = x.shape
        split = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if valid is None else valid[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Pre-LayerNorm Transformer block; `shift` is added after attention (conditioning).

    Both branches end in zeros at the start, so an untrained block is the identity.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        for branch_end in (self.attention.out, self.down):
            nn.init.zeros_(branch_end.weight)
            nn.init.zeros_(branch_end.bias)

    def forward(
        self,
        x: Float[Tensor, "B N W"],
        *,
        shift: Float[Tensor, "B 1 W"] | None = None,
        valid: Bool[Tensor, "B N"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "B N W"]:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, valid=valid, causal=causal)
        x = x if shift is None else x + shift
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class CachedBlock:
    """A causal `Block` that is fed one token a row at a time and remembers keys and values.

    The same function in a third of the time: no module calls, two-dimensional products with
    weights turned beforehand, and shift, bias and residual inside them. Memory is taken ahead of
    need. An object of one sampling call, never of a module.
    """

    def __init__(
        self, block: Block, shift: Float[Tensor, "B 1 W"] | None, rows: int, size: int = 256
    ):
        qkv, out = block.attention.qkv, block.attention.out
        self.block, self.heads, self.length = block, block.attention.heads, 0
        self.qkv, self.out, self.up, self.down = (
            linear.weight.t().contiguous() for linear in (qkv, out, block.up, block.down)
        )
        moved = out.bias.expand(rows, -1)
        self.shift = moved if shift is None else moved + shift[:, 0]
        width = out.in_features // self.heads
        self.memory = moved.new_empty(2, rows, self.heads, size, width)  # keys, then values

    def advance(self, x: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """The block's output for the next token of every row."""
        block, rows = self.block, len(x)
        triple = torch.addmm(block.attention.qkv.bias, _norm(block.attention_norm, x), self.qkv)
        heads = triple.view(rows, 3, self.heads, 1, -1).transpose(0, 1)
        mixed = _attend(heads[0], *self._remember(heads[1:]))
        x = (x + self.shift).addmm_(mixed.reshape(x.shape), self.out)
        hidden = F.gelu(torch.addmm(block.up.bias, _norm(block.mlp_norm, x), self.up))
        return x.add_(block.down.bias).addmm_(hidden, self.down)

    def keep(self, rows: Int[Tensor, " K"]) -> None:
        """Go on with these rows only."""
        old, self.shift = self.memory, self.shift[rows]
        self.memory = old.new_empty(2, len(rows), *old.shape[2:])
        self.memory[:, :, :, : self.length] = old[:, rows, :, : self.length]

    def _remember(self, pair: Float[Tensor, "2 B H 1 C"]) -> tuple[Tensor, Tensor]:
        """Store one token's key and value; return those of all tokens (B, H, N, C)."""
        if self.length == self.memory.shape[3]:
            self.memory = torch.cat([self.memory, self.memory], 3)
        self.memory.narrow(3, self.length, 1).copy_(pair)
        self.length += 1
        key, value = self.memory.narrow(3, 0, self.length).unbind(0)
        return key, value


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one query a row; on a CPU, plain products win once there are many rows."""
    if query.device.type != "cpu" or len(query) < 48:
        return F.scaled_dot_product_attention(query, key, value)
    weight = (query @ key.mT).mul_(query.shape[-1] ** -0.5).softmax(-1)
    return weight @ value


class FourierFeatures(nn.Module):
    """A scalar beside its sines and cosines at learned frequencies."""

    def __init__(self, frequencies: int = 16):
        super().__init__()
        self.frequency = nn.Parameter(torch.linspace(0.02, 1.0, frequencies))
        self.width = 2 * frequencies + 1

    def forward(self, x: Float[Tensor, " B"]) -> Float[Tensor, "B F"]:
        angle = 2 * pi * x[:, None] * self.frequency
        return torch.cat([x[:, None], angle.sin(), angle.cos()], 1)


class ConditionedLinear(nn.Module):
    """Linear, plus a linear map of the condition, then LayerNorm and SiLU."""

    def __init__(self, inputs: int, outputs: int, condition: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.condition = nn.Linear(condition, outputs)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "B I"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B O"]:
        return F.silu(self.norm(self.linear(x) + self.condition(F.silu(c))))


class MLPUNet(nn.Module):
    """A U-Net of fully connected layers, for vectors without a grid.

    Widths (h0, h1, ..., hk): down h0 -> ... -> hk and up again, each level adding the stored output
    of equal width (layout of scDiffusion's cell U-Net).
    """

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...], condition: int):
        super().__init__()
        levels = list(zip((inputs, *widths[:-1]), widths, strict=True))
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.down = nn.ModuleList(ConditionedLinear(a, b, condition) for a, b in levels)
        self.up = nn.ModuleList(ConditionedLinear(a, b, condition) for a, b in ups)
        hidden = 2 * widths[1]
        self.out = nn.Sequential(
            nn.Linear(widths[0], hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, x: Float[Tensor, "B I"], c: Float[Tensor, "B C"]) -> Float[Tensor, "B O"]:
        stored: list[Tensor] = []
        for block in self.down:
            x = block(x, c)
            stored.append(x)
        for block, skip in zip(self.up, stored[-2::-1], strict=True):
            x = block(x, c) + skip
        return self.out(x)


def masked_mean(
    x: Float[Tensor, "B N W"], mask: Bool[Tensor, "B N"], empty: Float[Tensor, " W"]
) -> Float[Tensor, "B W"]:
    """Mean over the valid tokens of each row; `empty` for a row without any."""
    weight = rearrange(mask, "b n -> b n 1").to(x.dtype)
    total, count = (x * weight).sum(1), weight.sum(1)
    return torch.where(count > 0, total / count.clamp_min(1), empty)
