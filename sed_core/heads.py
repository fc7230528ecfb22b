"""Index heads: the law of the next dimension, or stop, given the decoder's state.

Classes 0..D-1 are dimensions, class D is stop. `last` is the dimension chosen before (-1 at the
start, or always where nothing is masked): every dimension up to it has probability exactly zero.
`base` (B, D+1) adds log-weights that are the same at every position of a row.
"""

from math import ceil, sqrt
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

NEVER = float("-inf")
Base = Float[Tensor, "B classes"] | None
Ready = Float[Tensor, "B sums"] | None  # a base as a head's `prepared` made it
Used = Bool[Tensor, "B N D"] | None


class IndexHead(Protocol):
    """What the decoder asks of a head; `base` is what its `prepared` made of log-weights."""

    def prepared(self, base: Base) -> Ready: ...

    def log_prob(
        self, h: Tensor, target: Tensor, last: Tensor, base: Ready, used: Used = None
    ) -> Float[Tensor, "B N"]: ...

    def law(
        self, h: Tensor, last: Tensor, base: Ready, temperature: float, used: Used = None
    ) -> Float[Tensor, "B classes"]: ...

    def pick(
        self,
        h: Tensor,
        last: Tensor,
        base: Ready,
        u: Tensor,
        temperature: float = 1.0,
        used: Used = None,
    ) -> Int[Tensor, " B"]: ...


class FlatHead(nn.Module):
    """One softmax over all dimensions and stop: D weights rows read for every pair."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(width, dim + 1)

    def prepared(self, base: Base) -> Ready:
        """Log-weights as they are."""
        return base

    def log_prob(
        self,
        h: Float[Tensor, "B N W"],
        target: Int[Tensor, "B N"],
        last: Int[Tensor, "B N"],
        base: Ready,
        used: Used = None,
    ) -> Float[Tensor, "B N"]:
        """log p(target) at every position of a given sequence."""
        logits = self.logits(h, last, base, used)
        return -F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(
            target.shape
        )

    def law(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Ready,
        temperature: float = 1.0,
        used: Used = None,
    ) -> Float[Tensor, "B classes"]:
        """The whole next-index law of one position."""
        logits = self.logits(h[:, None], last[:, None], base, used)[:, 0]
        return tempered(logits, temperature)

    def pick(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Ready,
        u: Float[Tensor, " B"],
        temperature: float = 1.0,
        used: Used = None,
    ) -> Int[Tensor, " B"]:
        """Draw the next index by inverting the law's distribution function at u.

        What no row can choose any more is not scored: half of the head, over a whole decoding.
        """
        start = int(last.min()) + 1
        logits = F.linear(h, self.linear.weight[start:], self.linear.bias[start:])
        if base is not None:
            logits.add_(base[:, start:])
        if len(h) > 1:
            classes = torch.arange(start, self.dim + 1, device=h.device)
            logits.masked_fill_(classes <= last[:, None], NEVER)
        if used is not None:
            logits.masked_fill_(F.pad(used[:, 0], (0, 1))[:, start:], NEVER)
        return start + invert(tempered(logits, temperature), u)

    def logits(
        self, h: Float[Tensor, "B N W"], last: Int[Tensor, "B N"], base: Ready, used: Used = None
    ) -> Float[Tensor, "B N classes"]:
        """Masked log-weights of all classes."""
        logits = self.linear(h)
        logits = logits if base is None else logits + base[:, None]
        gone = torch.arange(self.dim + 1, device=h.device) <= last[..., None]
        gone = gone if used is None else gone | F.pad(used, (0, 1))
        return logits.masked_fill(gone, NEVER)


class BlockedHead(nn.Module):
    """Two softmaxes, over about sqrt(D) blocks (and stop) and over the offsets in one block.

    p(j) = p(block) p(offset | block) is exact and sums to one over dimensions and stop; a pair
    costs about 2 W sqrt(D) multiply-adds instead of W D. Temperature acts on each level: at 0 it
    takes the most probable block and the most probable offset in it.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.dim, self.size = dim, ceil(sqrt(dim))
        self.blocks = ceil(dim / self.size)
        self.block = nn.Linear(width, self.blocks + 1)
        flat = nn.Linear(width, self.blocks * self.size)
        self.weight = nn.Parameter(flat.weight.detach().view(self.blocks, self.size, width))
        self.bias = nn.Parameter(flat.bias.detach().view(self.blocks, self.size))

    def prepared(self, base: Base) -> Ready:
        """Log-weights as they are."""
        return base

    def log_prob(
        self,
        h: Float[Tensor, "B N W"],
        target: Int[Tensor, "B N"],
        last: Int[Tensor, "B N"],
        base: Ready,
        used: Used = None,
    ) -> Float[Tensor, "B N"]:
        """log p(target) at every position; offsets are scored for the target's block only."""
        row = torch.arange(len(h), device=h.device).repeat_interleave(h.shape[1])
        tokens, aims, before = h.flatten(0, 1), target.flatten(), last.flatten()
        blocks = self._block_logits(tokens, before, base, row).log_softmax(-1)
        aim_block = torch.div(aims, self.size, rounding_mode="floor").where(
            aims < self.dim, self.blocks
        )
        total = blocks.gather(1, aim_block[:, None])[:, 0]
        inside = aims < self.dim
        offsets = self._grouped_offsets(tokens[inside], aim_block[inside])
        offsets = self._mask_offsets(
            offsets, aim_block[inside], before[inside], base, row[inside]
        ).log_softmax(-1)
        chosen = offsets.gather(1, (aims[inside] % self.size)[:, None])[:, 0]
        return total.index_add(0, inside.nonzero()[:, 0], chosen).view(target.shape)

    def law(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Ready,
        temperature: float = 1.0,
        used: Used = None,
    ) -> Float[Tensor, "B classes"]:
        """The whole next-index law: every block's offsets, so as dear as a flat head."""
        rows = torch.arange(len(h), device=h.device)
        blocks = tempered(self._block_logits(h, last, base, rows), temperature)
        offsets = torch.einsum("bw,nsw->bns", h, self.weight) + self.bias
        every = torch.arange(self.blocks, device=h.device)
        masked = [
            self._mask_offsets(offsets[:, n], every[n].expand(len(h)), last, base, rows)
            for n in range(self.blocks)
        ]
        inner = tempered(torch.stack(masked, 1), temperature).nan_to_num(0.0)
        joint = (blocks[:, :-1, None] * inner).flatten(1)[:, : self.dim]
        return torch.cat([joint, blocks[:, -1:]], 1)

    def pick(
        self,
        h: Float[Tensor, "B W"],
        last: Int[Tensor, " B"],
        base: Ready,
        u: Float[Tensor, " B"],
        temperature: float = 1.0,
        used: Used = None,
    ) -> Int[Tensor, " B"]:
        """Invert the joint distribution function at u, scoring one block's offsets only."""
        rows = torch.arange(len(h), device=h.device)
        blocks = tempered(self._block_logits(h, last, base, rows), temperature)
        block = invert(blocks, u)
        inside = block.clamp_max(self.blocks - 1)
        below = F.pad(blocks.double().cumsum(1), (1, 0)).gather(1, block[:, None])[:, 0]
        share = (u - below) / blocks.gather(1, block[:, None])[:, 0].double()
        logits = torch.einsum("bw,bsw->bs", h, self.weight[inside]) + self.bias[inside]
        logits = self._mask_offsets(logits, inside, last, base, rows)
        stop = block == self.blocks
        logits = logits.masked_fill(stop[:, None], 0.0)
        offset = invert(tempered(logits, temperature), share.clamp(0, 1 - 1e-12))
        return torch.where(stop, self.dim, inside * self.size + offset)

    def _block_logits(self, h: Tensor, last: Tensor, base: Ready, row: Tensor) -> Tensor:
        """(T, blocks + 1); blocks that hold nothing after `last` are gone."""
        final = torch.arange(1, self.blocks + 1, device=h.device) * self.size - 1
        gone = F.pad(final.clamp_max(self.dim - 1) <= last[:, None], (0, 1))
        logits = self.block(h)
        if base is not None:
            logits = logits + self._block_base(last, base, row)
        return logits.masked_fill(gone, NEVER)

    def _block_base(self, last: Tensor, base: Tensor, row: Tensor) -> Tensor:
        """log-sum of the base over what is left of each block, and stop's own."""
        by_block = self._by_block(base)
        whole = by_block.logsumexp(-1)[row]
        current = torch.div(last.clamp_min(0), self.size, rounding_mode="floor")
        gone = self._dims(current) <= last[:, None]
        left = by_block[row, current].masked_fill(gone, -1e9).logsumexp(-1)
        whole = whole.scatter(1, current[:, None], left[:, None])
        return torch.cat([whole, base[row, -1:]], 1)

    def _mask_offsets(
        self, logits: Tensor, block: Tensor, last: Tensor, base: Ready, row: Tensor
    ) -> Tensor:
        """Add the base and remove offsets up to `last` and beyond the last dimension."""
        dims = self._dims(block)
        if base is not None:
            logits = logits + self._by_block(base)[row, block]
        return logits.masked_fill((dims <= last[:, None]) | (dims >= self.dim), NEVER)

    def _by_block(self, base: Tensor) -> Tensor:
        missing = self.blocks * self.size - self.dim
        return F.pad(base[:, :-1], (0, missing), value=-1e9).view(-1, self.blocks, self.size)

    def _dims(self, block: Tensor) -> Tensor:
        return block[:, None] * self.size + torch.arange(self.size, device=block.device)

    def _grouped_offsets(self, h: Tensor, block: Tensor) -> Tensor:
        """Offset logits of each token's own block: tokens sorted by block, one batched product."""
        order = block.argsort(stable=True)
        counts = torch.bincount(block, minlength=self.blocks)
        start = counts.cumsum(0) - counts
        place = torch.arange(len(h), device=h.device) - start[block[order]]
        width = int(counts.max()) if len(h) else 0
        packed = h.new_zeros(self.blocks, width, h.shape[1])
        packed = packed.index_put((block[order], place), h[order])
        logits = torch.baddbmm(self.bias[:, None].to(h.dtype), packed, self.weight.mT.to(h.dtype))
        return logits[block[order], place][order.argsort()]


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Softmax of logits / temperature in at least float32; at temperature 0 all on the largest."""
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(torch.float32)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits if temperature == 1 else logits / temperature).softmax(-1)


def invert(law: Float[Tensor, "B classes"], u: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The first class whose distribution function exceeds u in [0, 1)."""
    below = law.cumsum(-1, dtype=torch.float64)
    aim = (u * below[:, -1])[:, None]
    return torch.searchsorted(below, aim, right=True)[:, 0].clamp_max(law.shape[-1] - 1)


def hazard_law(logit: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
    """log-weights of the next index if every dimension were an independent Bernoulli.

    log p_j + sum_{k<j} log(1 - p_k) for dimension j, sum_k log(1 - p_k) for stop; masking the
    past and normalising gives the exact next-index law after any prefix.
    """
    return hazards(F.logsigmoid(logit), F.logsigmoid(-logit))


def hazards(hit: Float[Tensor, "B D"], miss: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
    """The same from the log-probabilities of being non-zero and of being zero."""
    missed = miss.cumsum(1)
    return torch.cat([hit + missed - miss, missed[:, -1:]], 1)
