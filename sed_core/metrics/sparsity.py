"""Where the pairs lie: counts of non-zeros, order of emitted indices, agreement of supports."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sed_core.metrics.distance import w1
from sed_core.sparse import SparseBatch

# counts -----------------------------------------------------------------------------------------


def count_w1(samples: SparseBatch, real: SparseBatch) -> float:
    """W1 distance between the non-zero counts of two sets, in pairs."""
    return w1(samples.nnz, real.nnz)


def count_w1_share(samples: SparseBatch, real: SparseBatch) -> float:
    """W1 distance between the non-zero counts, as a share of the mean count of the real set."""
    mean = real.nnz.double().mean().item()
    if not mean > 0:
        raise ValueError(
            "the real set has no non-zero at all, so there is no mean count to share by"
        )
    return count_w1(samples, real) / mean


def count_histogram(batch: SparseBatch) -> Int[Tensor, " D1"]:
    """How many rows have 0, 1, ..., D pairs."""
    return torch.bincount(batch.nnz, minlength=batch.dim + 1)


# order ------------------------------------------------------------------------------------------


def order_accuracy(index: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> float:
    """Share of rows whose indices, as they were emitted, ascend strictly.

    The rows are raw sequences, sorted by nobody; mask marks their real pairs.
    Source: SED, dimension-order accuracy.
    """
    if not len(index):
        raise ValueError("order accuracy needs at least one sequence, got none")
    return 1 - _bad(index, mask).any(1).double().mean().item()


def bad_steps(index: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> float:
    """Share of steps from one pair to the next that do not ascend; 0 where there is no step."""
    steps = (mask[:, 1:] & mask[:, :-1]).sum().item()
    return _bad(index, mask).sum().item() / max(1, steps)


def _bad(index: Tensor, mask: Tensor) -> Bool[Tensor, "B L1"]:
    """Steps whose second index is not above the first."""
    return mask[:, 1:] & mask[:, :-1] & (index[:, 1:] <= index[:, :-1])


# agreement --------------------------------------------------------------------------------------


def support_iou(a: SparseBatch, b: SparseBatch) -> Float[Tensor, " B"]:
    """Pixels that both list over pixels that either lists, row by row; two empty rows agree: 1."""
    row, _, _ = _shared(a, b)
    both = torch.bincount(row, minlength=len(a)).double()
    either = a.nnz + b.nnz - both
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def value_error(a: SparseBatch, b: SparseBatch, *, scale: float = 255.0) -> float:
    """Mean absolute difference of the values that both list, in grey levels; NaN if none is."""
    _, left, right = _shared(a, b)
    return (left - right).abs().double().mean().item() * scale if len(left) else math.nan


def _shared(a: SparseBatch, b: SparseBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Row and both values of every (row, dimension) listed by both, without a dense matrix."""
    if (len(a), a.dim) != (len(b), b.dim):
        raise ValueError(
            f"two sets are compared row by row, got {len(a)} x {a.dim} and {len(b)} x {b.dim}"
        )
    key_a, key_b = _keys(a), _keys(b)
    if not len(key_b):
        key_a = key_a[:0]
    place = torch.searchsorted(key_b, key_a).clamp(max=max(0, len(key_b) - 1))
    hit = key_b[place] == key_a
    value_a = a.value[a.mask][: len(key_a)]
    return key_a[hit] // a.dim, value_a[hit], b.value[b.mask][place[hit]]


def _keys(batch: SparseBatch) -> Int[Tensor, " K"]:
    """row * D + dimension of every pair, which ascends because rows and dimensions do."""
    row = torch.arange(len(batch), device=batch.index.device)[:, None]
    return (row * batch.dim + batch.index)[batch.mask]
