"""The index head for a million dimensions: blocks within blocks, and weights that all blocks share.

    p(j) = p(block | h) p(sub-block | block, h) p(offset | sub-block, h)

Three choices among about D^(1/3) each. Which block it is bends the state before it is scored, so a
level has one set of rows for all blocks: no table holds a row for every dimension. A base has its
weights summed over blocks and sub-blocks once a row; a choice then reads one path of these sums.
"""

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core.heads import NEVER, Base, Ready, Used, tempered

FAR = -1e9  # log-weight of what is not there, finite so that sums stay so


class NestedHead(nn.Module):
    """Blocks of blocks of dimensions; exact, and sums to one over dimensions and stop.

    Logits of the children of a block = rows gelu(mix h + shift of the block). A pair costs about
    3 W D^(1/3) + 2 W^2 multiply-adds, and the largest table has D^(2/3) rows. Temperature acts on
    each level. With a base, and with its own rows at zero as they start, the law is the base's.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.dim = dim
        self.size = next(size for size in range(1, dim + 2) if size**3 >= dim)
        self.spans = (self.size**2, self.size, 1)  # dimensions under one child, level by level
        counts = [-(-dim // span) for span in self.spans]
        self.block = nn.Linear(width, counts[0] + 1)
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in counts[1:])
        self.shift = nn.ModuleList(nn.Embedding(count, width) for count in counts[:-1])
        self.rows = nn.ModuleList(nn.Linear(width, self.size) for _ in counts[1:])
        self.blocks = counts[0]

    @torch.no_grad()
    def start_from_base(self) -> None:
        """Let the law be the base's until something else is learned."""
        for linear in (self.block, *self.rows):
            for part in linear.parameters():
                part.zero_()

    def prepared(self, base: Base) -> Ready:
        """Log-weights of blocks, stop, sub-blocks and dimensions side by side, a row each."""
        if base is None:
            return None
        missing = self.blocks * self.spans[0] - self.dim
        dims = F.pad(base[:, :-1], (0, missing), value=FAR)
        subs = dims.view(len(base), -1, self.size).logsumexp(2)
        tops = subs.view(len(base), -1, self.size).logsumexp(2)
        return torch.cat([tops, base[:, -1:], subs, dims], 1)

    def log_prob(
        self,
        h: Float[Tensor, "B N W"],
        target: Int[Tensor, "B N"],
        last: Int[Tensor, "B N"],
        base: Ready,
        used: Used = None,
    ) -> Float[Tensor, "B N"]:
        """log p(target) at every position; only blocks on the way to a target are scored."""
        assert used is None
        row = torch.arange(len(h), device=h.device).repeat_interleave(h.shape[1])
        tokens, aims, before = h.flatten(0, 1), target.flatten(), last.flatten()
        left = self._left(base, row, before)
        inside = aims < self.dim
        first = (aims // self.spans[0]).where(inside, self.blocks)
        total = _log_of(self._top(tokens, before, left), first)
        tokens, aims, before = tokens[inside], aims[inside], before[inside]
        left = None if left is None else left.keep(inside)
        for level in (1, 2):
            parent, child = aims // self.spans[level - 1], aims // self.spans[level] % self.size
            chosen = _log_of(self._children(level, tokens, parent, before, left), child)
            total = total.index_add(0, inside.nonzero()[:, 0], chosen)
        return total.view(target.shape)

    def law(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Ready,
        temperature: float = 1.0,
        used: Used = None,
    ) -> Float[Tensor, "B classes"]:
        """The whole next-index law: every block of every level, so dearer than a flat head."""
        assert used is None
        rows = torch.arange(len(h), device=h.device)
        top = tempered(self._top(h, last, self._left(base, rows, last)), temperature)
        nodes = top[:, :-1]
        for level in (1, 2):
            count = nodes.shape[1]
            row = rows.repeat_interleave(count)
            parent = torch.arange(count, device=h.device).repeat(len(h))
            left = self._left(base, row, last[row])
            inner = tempered(self._children(level, h[row], parent, last[row], left), temperature)
            inner = inner.nan_to_num(0.0).view(len(h), count, self.size)  # NaN: nothing is left
            kept = -(-self.dim // self.spans[level])
            nodes = (nodes[..., None] * inner).flatten(1)[:, :kept]
        return torch.cat([nodes, top[:, -1:]], 1)

    def pick(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Ready,
        u: Float[Tensor, " B"],
        temperature: float = 1.0,
        used: Used = None,
    ) -> Int[Tensor, " B"]:
        """Invert the joint distribution function at u, down one path of blocks."""
        assert used is None
        left = self._left(base, torch.arange(len(h), device=h.device), last)
        node, u = _descend(tempered(self._top(h, last, left), temperature), u.double())
        stop = node == self.blocks
        node = node.masked_fill(stop, 0)
        for level in (1, 2):
            logits = self._children(level, h, node, last, left).masked_fill(stop[:, None], 0.0)
            child, u = _descend(tempered(logits, temperature), u)
            node = node * self.size + child.masked_fill(stop, 0)
        return torch.where(stop, self.dim, node)

    def _top(self, h: Tensor, last: Tensor, left: "_Left | None") -> Tensor:
        """(T, blocks + 1); blocks that hold nothing after `last` are gone, stop never is."""
        block = torch.arange(self.blocks, device=h.device)
        logits = self.block(h) if left is None else self.block(h) + left.tops()
        return logits.masked_fill(F.pad(self._gone(0, block, last), (0, 1)), NEVER)

    def _children(
        self, level: int, h: Tensor, parent: Tensor, last: Tensor, left: "_Left | None"
    ) -> Tensor:
        """(T, size); without children that hold nothing after `last`, or no dimension at all."""
        at = level - 1
        logits = self.rows[at](F.gelu(self.mix[at](h) + self.shift[at](parent)))
        if left is not None:
            logits = logits + (left.subs(parent) if level == 1 else left.dims(parent))
        child = parent[:, None] * self.size + torch.arange(self.size, device=h.device)
        return logits.masked_fill(self._gone(level, child, last), NEVER)

    def _left(self, base: Ready, row: Tensor, last: Tensor) -> "_Left | None":
        """What each token finds of its row's base after `last`; `base` as `prepared` made it."""
        if base is None:
            return None
        ends = (self.blocks + 1, self.blocks * self.size, self.blocks * self.spans[0])
        tops, subs, dims = (base[:, a:b] for a, b in pairwise((0, *accumulate(ends))))
        subs, dims = (part.view(len(base), -1, self.size) for part in (subs, dims))
        sub = last.clamp_min(0) // self.size  # the sub-block that `last` lies in
        place = torch.arange(self.size, device=row.device)
        passed = sub[:, None] * self.size + place <= last[:, None]
        rest = dims[row, sub].masked_fill(passed, FAR).logsumexp(1)
        block = sub // self.size
        before = place < (sub % self.size)[:, None]
        inside = subs[row, block].masked_fill(before, FAR)
        inside = inside.scatter(1, (sub % self.size)[:, None], rest[:, None])
        return _Left(tops, subs, dims, row, sub, rest, block, inside.logsumexp(1))

    def _gone(self, level: int, child: Tensor, last: Tensor) -> Tensor:
        """Whether nothing of a child lies after `last` and before the last dimension's end."""
        end = torch.clamp((child + 1) * self.spans[level], max=self.dim)
        return (end <= last[:, None] + 1) | (child * self.spans[level] >= self.dim)


class _Left(NamedTuple):
    """A base, and what is left after `last` of the sub-block and the block where it lies."""

    all_tops: Tensor  # (B, blocks + 1)
    all_subs: Tensor  # (B, blocks, size)
    all_dims: Tensor  # (B, blocks * size, size)
    row: Tensor  # (T,) the token's row, and so on
    sub: Tensor
    sub_left: Tensor
    block: Tensor
    block_left: Tensor

    def keep(self, tokens: Tensor) -> "_Left":
        return _Left(*self[:3], *(part[tokens] for part in self[3:]))

    def tops(self) -> Tensor:
        return self.all_tops[self.row].scatter(1, self.block[:, None], self.block_left[:, None])

    def subs(self, block: Tensor) -> Tensor:
        """Of one block a token; those before `last` are masked by who asks."""
        found, place = self.all_subs[self.row, block], (self.sub % self.all_subs.shape[2])[:, None]
        mine = (block == self.block)[:, None]
        changed = found.scatter(1, place, self.sub_left[:, None])
        return torch.where(mine, changed, found)

    def dims(self, sub: Tensor) -> Tensor:
        return self.all_dims[self.row, sub]


def _log_of(logits: Tensor, choice: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, choice[:, None])[:, 0]


def _descend(law: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The choice that u in [0, 1) is inverted to, and where u lies inside it, again in [0, 1)."""
    ends = law.cumsum(1, dtype=torch.float64)
    aim = u[:, None] * ends[:, -1:]
    choice = torch.searchsorted(ends, aim, right=True).clamp_max(law.shape[1] - 1)
    share = 1 - (ends.gather(1, choice) - aim) / law.gather(1, choice)
    return choice[:, 0], share[:, 0].clamp(0, 1 - 1e-12)
