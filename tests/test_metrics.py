"""Metrics: laws, closed forms, brute force."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sed_core import hub
from sed_core.chance import seeded
from sed_core.domains import digits
from sed_core.metrics import sparsity
from sed_core.metrics.distance import frechet, frechet_gaussian, interval, nearest, w1
from sed_core.metrics.judge import DigitJudgeConfig, new_judge, read, train_judge
from sed_core.sparse import SparseBatch

seeds = st.integers(0, 2**31)
few = settings(deadline=None, max_examples=40)  # a busy machine is no fault of a metric


def sparse(seed: int, *, rows: int = 7, dim: int = 11, share: float = 0.5) -> SparseBatch:
    chance = seeded(seed)
    kept = torch.rand(rows, dim, generator=chance) < share
    return SparseBatch.from_dense(torch.rand(rows, dim, generator=chance).add(0.1) * kept)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


# distances --------------------------------------------------------------------------------------


@few
@given(seeds, st.floats(-5, 5), st.integers(1, 40))
def test_w1_of_a_shift_is_the_shift(seed: int, shift: float, n: int) -> None:
    a = normal(seed, n).double()
    assert w1(a, a) == 0
    assert w1(a, a + shift) == pytest.approx(abs(shift), abs=1e-9)


@few
@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_w1_equals_the_mean_gap_of_sorted_copies(seed: int, n: int, m: int) -> None:
    a, b = normal(seed, n).double(), normal(seed + 1, m).double()
    same_many = a.repeat_interleave(m).sort().values, b.repeat_interleave(n).sort().values
    by_hand = (same_many[0] - same_many[1]).abs().mean().item()
    assert w1(a, b) == pytest.approx(by_hand, abs=1e-6)  # float32 shares of a step
    assert w1(a, b) == w1(b, a)


def test_w1_refuses_an_empty_set() -> None:
    with pytest.raises(ValueError, match="two sets of numbers, got 0 and 3"):
        w1(torch.zeros(0), torch.ones(3))


@few
@given(seeds)
def test_frechet_is_zero_on_equal_sets_and_the_square_of_a_shift(seed: int) -> None:
    a = normal(seed, 50, 4)
    shift = normal(seed + 1, 4)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    wanted = shift.double().square().sum().item()
    assert frechet(a, a + shift) == pytest.approx(wanted, abs=1e-4)  # the sum is float32


def test_frechet_of_gaussians_in_closed_form() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    a, b = torch.diag(torch.tensor([1.0, 4.0, 0.0])), torch.diag(torch.tensor([9.0, 1.0, 0.0]))
    assert frechet_gaussian(zero, a, one, b) == pytest.approx(3 + (1 - 3) ** 2 + (2 - 1) ** 2)
    turn = torch.linalg.qr(normal(3, 3, 3).double()).Q
    turned = frechet_gaussian(zero, turn @ a.double() @ turn.T, one, turn @ b.double() @ turn.T)
    assert turned == pytest.approx(8, abs=1e-6)  # a turn of both changes nothing


def test_frechet_equals_a_general_matrix_root() -> None:
    import scipy.linalg

    a, b = normal(0, 200, 5) @ normal(1, 5, 5), normal(2, 300, 5) @ normal(3, 5, 5) + 0.3
    cov_a, cov_b = (torch.cov(x.double().T).numpy() for x in (a, b))
    gap = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    wanted = gap + (cov_a + cov_b - 2 * root).trace()
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-9)


def test_frechet_bears_features_that_are_never_on_and_refuses_one_row() -> None:
    a = torch.cat([normal(0, 30, 2), torch.zeros(30, 3)], 1)
    assert math.isfinite(frechet(a, a.flip(0)))
    with pytest.raises(ValueError, match="two rows or more, got 1 and 30"):
        frechet(a[:1], a)


def test_nearest_equals_brute_force_and_the_batch_changes_nothing() -> None:
    a, b = normal(0, 9, 6), normal(1, 23, 6)
    by_hand = (a[:, None] - b[None]).square().sum(-1).sqrt().amin(1)
    torch.testing.assert_close(nearest(a, b, batch=5), by_hand, atol=1e-5, rtol=0)
    levels = torch.randint(0, 255, (5, 6), generator=seeded(2), dtype=torch.uint8)
    assert nearest(levels.float(), levels).max() == 0


def test_interval_holds_the_mean_narrows_with_n_and_belongs_to_its_seed() -> None:
    values = normal(0, 4000)
    low, high = interval(values, generator=seeded(1))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(4000), rel=0.15)  # 1000 draws
    assert (low, high) == interval(values, generator=seeded(1))


# sparsity ---------------------------------------------------------------------------------------


@few
@given(seeds, seeds)
def test_support_iou_and_value_error_equal_brute_force(seed: int, other: int) -> None:
    a, b = sparse(seed, share=0.3), sparse(other, share=0.6)
    x, y = a.to_dense(), b.to_dense()
    both, either = (x != 0) & (y != 0), (x != 0) | (y != 0)
    wanted = [
        (p.sum() / q.sum()).item() if q.any() else 1.0 for p, q in zip(both, either, strict=True)
    ]
    assert sparsity.support_iou(a, b).tolist() == pytest.approx(wanted, abs=1e-6)
    if both.any():
        error = (x - y)[both].abs().mean().item() * 255
        assert sparsity.value_error(a, b) == pytest.approx(error, rel=1e-5)


def test_agreement_of_equal_empty_and_disjoint_sets() -> None:
    a, empty = sparse(0), SparseBatch.from_dense(torch.zeros(7, 11))
    assert (sparsity.support_iou(a, a) == 1).all()
    assert sparsity.value_error(a, a) == 0
    assert (sparsity.support_iou(empty, empty) == 1).all()
    assert (sparsity.support_iou(a, empty)[a.nnz > 0] == 0).all()
    assert math.isnan(sparsity.value_error(a, empty))
    assert math.isnan(sparsity.value_error(empty, a))


def test_sets_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="row by row, got 7 x 11 and 6 x 11"):
        sparsity.support_iou(sparse(0), sparse(0, rows=6))


def test_counts() -> None:
    real = SparseBatch.from_dense(torch.tensor([[1.0, 0, 2, 0], [3, 4, 0, 0], [0, 0, 0, 0]]))
    more = SparseBatch.from_dense(torch.tensor([[1.0, 1, 1, 0], [3, 4, 5, 0], [0, 0, 7, 0]]))
    assert sparsity.count_w1(real, real) == 0
    assert sparsity.count_w1(more, real) == pytest.approx(1)
    assert sparsity.count_w1_share(more, real) == pytest.approx(3 / 4)
    assert sparsity.count_histogram(real).tolist() == [1, 0, 2, 0, 0]
    with pytest.raises(ValueError, match="no non-zero at all"):
        sparsity.count_w1_share(more, SparseBatch.from_dense(torch.zeros(2, 4)))


@few
@given(seeds)
def test_order_accuracy_equals_brute_force(seed: int) -> None:
    chance = seeded(seed)
    index = torch.randint(0, 9, (12, 4), generator=chance)
    length = torch.randint(0, 5, (12,), generator=chance)
    mask = torch.arange(4) < length[:, None]
    rows = [row[:n].tolist() for row, n in zip(index, length.tolist(), strict=True)]
    wanted = sum(row == sorted(set(row)) for row in rows) / len(rows)
    assert sparsity.order_accuracy(index, mask) == pytest.approx(wanted)
    steps = [b > a for row in rows for a, b in pairwise(row)]
    bad = steps.count(False) / max(1, len(steps))
    assert sparsity.bad_steps(index, mask) == pytest.approx(bad)


# judge ------------------------------------------------------------------------------------------


def test_the_judge_learns_repeats_itself_and_leaves_global_chance_alone() -> None:
    labels = torch.arange(64) % 10
    images = torch.zeros(64, 784, dtype=torch.uint8)
    images[torch.arange(64), labels * 70 + 40] = 255
    images = images.view(-1, 28, 28).float()
    images = torch.nn.functional.max_pool2d(images[:, None], 5, 1, 2).flatten(1).byte()
    before = torch.get_rng_state()
    runs = []
    for _ in range(2):
        judge = new_judge(DigitJudgeConfig(channels=8, features=16), seed=1)
        steps = list(train_judge(judge, images, labels, epochs=8, batch=32, lr=1e-2, seed=2))
        runs.append([step.total.item() for step in steps])
    assert torch.equal(before, torch.get_rng_state())
    assert runs[0] == runs[1]
    assert sum(runs[0][-4:]) < 0.5 * sum(runs[0][:4])
    assert [(s.step, s.steps) for s in steps] == [(i, 16) for i in range(1, 17)]
    assert steps[-1].seconds_left == 0
    assert not judge.training
    assert not any(p.requires_grad for p in judge.parameters())


def test_a_reading_is_a_law_and_the_batch_changes_nothing() -> None:
    judge = new_judge(seed=0).eval()
    images = torch.rand(7, 784, generator=seeded(0))
    prob, features = read(judge, images, batch=3)
    torch.testing.assert_close(prob.sum(1), torch.ones(7))
    torch.testing.assert_close(prob, judge(images).softmax(1).detach(), atol=1e-5, rtol=0)
    assert features.shape == (7, judge.config.features)


def test_the_judge_says_what_it_reads() -> None:
    with pytest.raises(ValueError, match=r"rows of 784 pixels, got \(2, 783\)"):
        new_judge().features(torch.zeros(2, 783))
    with pytest.raises(ValueError, match="multiple of 4, got 27"):
        new_judge(DigitJudgeConfig(side=27))


@pytest.mark.data
def test_the_shipped_judge_is_as_good_as_its_card_says() -> None:
    judge, test = hub.load("judge-mnist", device="cpu"), digits.load("mnist", "test")
    rows = torch.randperm(len(test), generator=seeded(0))[:1000]
    prob, _ = read(judge, test.images[rows].float() / 255)
    # 99.4 % on all digits; three standard errors of a share of 1,000 below the required 98.5 %
    assert (prob.argmax(1) == test.labels[rows]).float().mean() >= 0.985
    assert (prob.amax(1) > 0.9).float().mean() >= 0.97
