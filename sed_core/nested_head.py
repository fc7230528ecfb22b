"""The index head for a million dimensions: blocks within blocks, and weights that all blocks share.

    p(j) = p(block | h) p(sub-block | block, h) p(offset | sub-block, h)

Three choices among about D^(1/3) each. Which block it is bends the state before it is scored, so a
level has one set of rows for all blocks: no table holds a row for every dimension.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core.heads import NEVER, Base, Used, tempered


class NestedHead(nn.Module):
    """Blocks of blocks of dimensions; exact, and sums to one over dimensions and stop.

    Logits of the children of a block = rows gelu(mix h + shift of the block). A pair costs about
    3 W D^(1/3) + 2 W^2 multiply-adds, and the largest table has D^(2/3) rows. Temperature acts on
    each level. There is no base: a draft of all dimensions would cost more than everything else.
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

    def log_prob(
        self,
        h: Float[Tensor, "B N W"],
        target: Int[Tensor, "B N"],
        last: Int[Tensor, "B N"],
        base: Base,
        used: Used = None,
    ) -> Float[Tensor, "B N"]:
        """log p(target) at every position; only blocks on the way to a target are scored."""
        assert base is None and used is None
        tokens, aims, before = h.flatten(0, 1), target.flatten(), last.flatten()
        inside = aims < self.dim
        first = (aims // self.spans[0]).where(inside, self.blocks)
        total = _log_of(self._top(tokens, before), first)
        tokens, aims, before = tokens[inside], aims[inside], before[inside]
        for level in (1, 2):
            parent, child = aims // self.spans[level - 1], aims // self.spans[level] % self.size
            chosen = _log_of(self._children(level, tokens, parent, before), child)
            total = total.index_add(0, inside.nonzero()[:, 0], chosen)
        return total.view(target.shape)

    def law(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Base,
        temperature: float = 1.0,
        used: Used = None,
    ) -> Float[Tensor, "B classes"]:
        """The whole next-index law: every block of every level, so dearer than a flat head."""
        assert base is None and used is None
        top = tempered(self._top(h, last), temperature)
        nodes = top[:, :-1]
        for level in (1, 2):
            count = nodes.shape[1]
            row = torch.arange(len(h), device=h.device).repeat_interleave(count)
            parent = torch.arange(count, device=h.device).repeat(len(h))
            inner = tempered(self._children(level, h[row], parent, last[row]), temperature)
            inner = inner.nan_to_num(0.0).view(len(h), count, self.size)  # NaN: nothing is left
            kept = -(-self.dim // self.spans[level])
            nodes = (nodes[..., None] * inner).flatten(1)[:, :kept]
        return torch.cat([nodes, top[:, -1:]], 1)

    def pick(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Base,
        u: Float[Tensor, " B"],
        temperature: float = 1.0,
        used: Used = None,
    ) -> Int[Tensor, " B"]:
        """Invert the joint distribution function at u, down one path of blocks."""
        assert base is None and used is None
        node, u = _descend(tempered(self._top(h, last), temperature), u.double())
        stop = node == self.blocks
        node = node.masked_fill(stop, 0)
        for level in (1, 2):
            logits = self._children(level, h, node, last).masked_fill(stop[:, None], 0.0)
            child, u = _descend(tempered(logits, temperature), u)
            node = node * self.size + child.masked_fill(stop, 0)
        return torch.where(stop, self.dim, node)

    def _top(self, h: Tensor, last: Tensor) -> Tensor:
        """(T, blocks + 1); blocks that hold nothing after `last` are gone, stop never is."""
        block = torch.arange(self.blocks, device=h.device)
        return self.block(h).masked_fill(F.pad(self._gone(0, block, last), (0, 1)), NEVER)

    def _children(self, level: int, h: Tensor, parent: Tensor, last: Tensor) -> Tensor:
        """(T, size); without children that hold nothing after `last`, or no dimension at all."""
        at = level - 1
        logits = self.rows[at](F.gelu(self.mix[at](h) + self.shift[at](parent)))
        child = parent[:, None] * self.size + torch.arange(self.size, device=h.device)
        return logits.masked_fill(self._gone(level, child, last), NEVER)

    def _gone(self, level: int, child: Tensor, last: Tensor) -> Tensor:
        """Whether nothing of a child lies after `last` and before the last dimension's end."""
        end = torch.clamp((child + 1) * self.spans[level], max=self.dim)
        return (end <= last[:, None] + 1) | (child * self.spans[level] >= self.dim)


def _log_of(logits: Tensor, choice: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, choice[:, None])[:, 0]


def _descend(law: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The choice that u in [0, 1) is inverted to, and where u lies inside it, again in [0, 1)."""
    ends = law.cumsum(1, dtype=torch.float64)
    aim = u[:, None] * ends[:, -1:]
    choice = torch.searchsorted(ends, aim, right=True).clamp_max(law.shape[1] - 1)
    share = 1 - (ends.gather(1, choice) - aim) / law.gather(1, choice)
    return choice[:, 0], share[:, 0].clamp(0, 1 - 1e-12)
