"""SparseBatch: exact zeros, nothing lost, nothing invented, bad rows named."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import ascending, equal, pairs
from torch import Tensor

from sed_core.chance import seeded
from sed_core.sparse import SparseBatch

seeds = st.integers(0, 2**31)
shares = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))


def dense(seed: int, rows: int, dim: int, share: float) -> Tensor:
    chance = seeded(seed)
    kept = torch.rand(rows, dim, generator=chance) < share
    return torch.randn(rows, dim, generator=chance) * kept


def batch(index: list[list[int]], value: list[list[float]], mask: list[list[bool]], dim: int = 5):
    return SparseBatch(torch.tensor(index), torch.tensor(value), torch.tensor(mask), dim)


# round trips ------------------------------------------------------------------------------------


@given(seeds, st.integers(0, 6), st.integers(1, 40), shares)
def test_dense_round_trip_is_exact(seed: int, rows: int, dim: int, share: float) -> None:
    x = dense(seed, rows, dim, share)
    found = SparseBatch.from_dense(x)
    assert torch.equal(found.to_dense(), x)
    assert torch.equal(found.nnz, (x != 0).sum(1))
    assert ascending(found)


@given(seeds, st.integers(1, 6), st.integers(1, 40), shares)
def test_csr_round_trip_is_exact(seed: int, rows: int, dim: int, share: float) -> None:
    x = dense(seed, rows, dim, share)
    csr = SparseBatch.from_dense(x).to_csr()
    assert np.array_equal(csr.toarray(), x.numpy())
    assert equal(SparseBatch.from_csr(csr), SparseBatch.from_dense(x))
    assert equal(SparseBatch.from_csr(scipy.sparse.csr_array(x.numpy())), SparseBatch.from_dense(x))


def test_csr_is_never_made_dense() -> None:
    wide = 2_000_000_000  # dense, one row of it would take 8 GB
    matrix = scipy.sparse.csr_matrix(
        (np.float32([1, 2]), np.int64([5, wide - 1]), [0, 2]), (1, wide)
    )
    found = SparseBatch.from_csr(matrix)
    assert found.index.tolist() == [[5, wide - 1]]
    assert (found.to_csr() != matrix).nnz == 0


def test_negative_zero_is_a_zero_and_a_subnormal_is_not() -> None:
    tiny = 1.4e-45
    found = SparseBatch.from_dense(torch.tensor([[-0.0, tiny, 0.0, -tiny]]))
    assert found.index.tolist() == [[1, 3]]
    assert found.value.tolist() == [[pytest.approx(tiny), pytest.approx(-tiny)]]


def test_stored_zeros_of_a_csr_matrix_are_dropped() -> None:
    data, indices = np.float32([0.0, 2.0, -0.0, 3.0]), np.int32([0, 1, 2, 3])
    found = SparseBatch.from_csr(scipy.sparse.csr_matrix((data, indices, [0, 2, 4]), (2, 4)))
    assert found.index.tolist() == [[1], [3]]


# refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_with_its_row(bad: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = bad
    with pytest.raises(ValueError, match="row 2 has a value that is NaN or infinite"):
        SparseBatch.from_dense(x)
    with pytest.raises(ValueError, match="row 2 has a value that is NaN or infinite"):
        SparseBatch.from_csr(scipy.sparse.csr_matrix(x.numpy()))


@pytest.mark.parametrize(
    ("index", "value", "mask", "message"),
    [
        ([[0, 1], [2, 2]], [[1.0, 1.0]] * 2, [[True, True]] * 2, "row 1 has duplicate or unsorted"),
        ([[0, 1], [3, 2]], [[1.0, 1.0]] * 2, [[True, True]] * 2, "row 1 has duplicate or unsorted"),
        ([[0, 5]], [[1.0, 1.0]], [[True, True]], r"row 0 has an index outside 0\.\.4"),
        ([[-1, 2]], [[1.0, 1.0]], [[True, True]], r"row 0 has an index outside 0\.\.4"),
        ([[0, 1]], [[1.0, 0.0]], [[True, True]], "row 0 has a listed value that is zero"),
        ([[0, 1]], [[0.0, 1.0]], [[False, True]], "row 0 has padding before a pair"),
        ([[1, 3]], [[1.0, 0.0]], [[True, False]], "row 0 has padding that is not zero"),
        ([[1, 0]], [[1.0, 2.0]], [[True, False]], "row 0 has padding that is not zero"),
    ],
)
def test_broken_rows_are_refused(index, value, mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch(index, value, mask)


def test_parts_of_different_shapes_are_refused() -> None:
    with pytest.raises((ValueError, TypeError)):  # in tests jaxtyping's hook is there first
        batch([[1, 2]], [[1.0, 2.0]], [[True]])


def csr(data: list[float], indices: list[int], indptr: list[int], shape: tuple[int, int]):
    """A CSR matrix that scipy has not checked, as one read from a file may be."""
    matrix = scipy.sparse.csr_matrix(shape, dtype=np.float32)
    matrix.data, matrix.indices = np.float32(data), np.int32(indices)
    matrix.indptr = np.int32(indptr)
    return matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (csr([1, 2], [1, 0], [0, 0, 2], (2, 3)), "row 1 has duplicate or unsorted"),
        (csr([1, 2], [1, 1], [0, 0, 2], (2, 3)), "row 1 has duplicate or unsorted"),
        (csr([1, 2], [1, 3], [0, 0, 2], (2, 3)), r"row 1 has an index outside 0\.\.2"),
        (csr([1, 2], [-1, 1], [0, 0, 2], (2, 3)), r"row 1 has an index outside 0\.\.2"),
        (csr([1, 2], [0, 1], [0, 3, 2], (2, 3)), "row 1 has a decreasing CSR row pointer"),
        (csr([1, 2], [0, 1], [0, 1, 7], (2, 3)), "row pointers do not fit"),
        (csr([1], [0, 1], [0, 1, 2], (2, 3)), "2 indices but 1 values"),
        (scipy.sparse.coo_matrix(np.eye(3)), "needs a scipy CSR matrix, got coo_matrix"),
        (np.eye(3), "needs a scipy CSR matrix, got ndarray"),
    ],
)
def test_broken_csr_is_refused(matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseBatch.from_csr(matrix)


# views ------------------------------------------------------------------------------------------


@given(seeds, shares)
def test_counts_equal_numpy(seed: int, share: float) -> None:
    x = dense(seed, 5, 13, share)
    assert SparseBatch.from_dense(x).sparsity == pytest.approx(np.mean(x.numpy() == 0))


@given(seeds, st.lists(st.integers(0, 5), max_size=8))
def test_rows_taken_equal_dense_rows_taken(seed: int, rows: list[int]) -> None:
    x = dense(seed, 6, 9, 0.4)
    found = SparseBatch.from_dense(x)
    for taken in (found[rows], found[torch.tensor(rows, dtype=torch.int64)]):
        assert torch.equal(taken.to_dense(), x[rows])
        assert taken.index.shape[1] == max([int((x[r] != 0).sum()) for r in rows], default=0)
    assert torch.equal(found[2:4].to_dense(), x[2:4])


def test_concat_stacks_rows_of_any_width() -> None:
    a, b = pairs(0, rows=3, share=0.1), pairs(1, rows=2, share=0.9)
    both = SparseBatch.concat([a, b])
    assert torch.equal(both.to_dense(), torch.cat([a.to_dense(), b.to_dense()]))
    SparseBatch(both.index, both.value, both.mask, both.dim)  # its padding is valid too
    with pytest.raises(ValueError, match=r"one dimension, got \[20, 21\]"):
        SparseBatch.concat([a, pairs(1, dim=21)])


def test_pairs_of_a_row_leave_padding_out() -> None:
    found = batch([[1, 3], [2, 0]], [[1.0, 2.0], [3.0, 0.0]], [[True, True], [True, False]])
    index, value = found.pairs(1)
    assert (index.tolist(), value.tolist()) == ([2], [3.0])
    assert len(found) == 2


def test_a_batch_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        pairs().dim = 3  # type: ignore[misc]
