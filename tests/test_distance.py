"""Distances between sets: laws, closed forms, brute force, scipy."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from sed_core.chance import seeded
from sed_core.metrics import distance
from sed_core.metrics.distance import energy_distance, mmd, sliced_w2, w1
from tests.small import untouched_global_chance

Distance = Callable[[torch.Tensor, torch.Tensor], float]

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 12)
widths = st.integers(1, 5)


def sliced(a: torch.Tensor, b: torch.Tensor) -> float:
    return sliced_w2(a, b, projections=20, generator=seeded(5))


distances = pytest.mark.parametrize("between", [energy_distance, mmd, sliced])


def rows(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=seeded(seed)).double()


# laws of every one ------------------------------------------------------------------------------
# A root of a difference that is 0 but for rounding is about 1e-8 where the numbers are about 1.


@distances
@given(seeds, sizes, widths)
def test_a_set_is_at_no_distance_of_itself_in_any_order(
    between: Distance, seed: int, n: int, d: int
) -> None:
    a = rows(seed, n, d)
    order = torch.randperm(n, generator=seeded(seed))
    assert between(a, a) == 0
    assert between(a, a[order]) == pytest.approx(0, abs=1e-6)
    assert between(a, a.repeat(3, 1)) == pytest.approx(0, abs=1e-6)  # the same law


@distances
@given(seeds, sizes, sizes, widths)
def test_order_of_rows_and_of_sets_and_a_common_shift_change_nothing(
    between: Distance, seed: int, n: int, m: int, d: int
) -> None:
    a, b = rows(seed, n, d), rows(seed + 1, m, d) * 1.5 + 0.4
    wanted = between(a, b)
    assert wanted > 0
    assert between(b, a) == pytest.approx(wanted, abs=1e-7)
    assert between(a.flip(0), b.roll(1, 0)) == pytest.approx(wanted, abs=1e-7)
    shift = 100 * rows(seed + 2, 1, d)
    assert between(a + shift, b + shift) == pytest.approx(wanted, abs=1e-6)


@distances
def test_blocks_change_nothing(between: Distance, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows(0, 23, 4), rows(1, 17, 4) + 0.5
    wanted = between(a, b)
    for block in (1, 40, 1000):
        monkeypatch.setattr(distance, "_BLOCK", block)
        assert between(a, b) == pytest.approx(wanted, rel=1e-9)


@distances
def test_numbers_are_rows_of_one_and_types_do_not_matter(between: Distance) -> None:
    a, b = rows(0, 9, 1).float(), rows(1, 6, 1).float() + 1
    wanted = between(a, b)
    assert between(a[:, 0], b[:, 0]) == wanted
    assert between(a.double(), b.double()) == wanted
    levels = torch.randint(0, 255, (8, 6), generator=seeded(0), dtype=torch.uint8)
    assert between(levels, levels) == 0


@distances
def test_what_is_no_pair_of_sets_is_refused(between: Distance) -> None:
    a = rows(0, 4, 3)
    for bad in (a[:, :2], a[:, 0], a[None]):
        with pytest.raises(ValueError, match=r"rows of one width, got \(4, 3\) and"):
            between(a, bad)
    with pytest.raises(ValueError, match="at least one row in each set, got 0 and 4"):
        between(a[:0], a)
    for value in (math.nan, math.inf):
        bad = a.clone()
        bad[2, 1] = value
        with pytest.raises(ValueError, match="row 2 of the second set has a NaN or infinite"):
            between(a, bad)


# W1 ---------------------------------------------------------------------------------------------


@given(seeds, sizes, sizes)
def test_w1_equals_scipy(seed: int, n: int, m: int) -> None:
    a, b = rows(seed, n, 1)[:, 0], rows(seed + 1, m, 1)[:, 0] * 2
    wanted = scipy.stats.wasserstein_distance(a.numpy(), b.numpy())
    assert w1(a, b) == pytest.approx(wanted, rel=1e-9)


@given(seeds, st.floats(-9, 9), sizes)
def test_w1_of_a_shift_is_the_shift_in_float64(seed: int, shift: float, n: int) -> None:
    a = rows(seed, n, 1)[:, 0]
    assert w1(a, a + shift) == pytest.approx(abs(shift), abs=1e-12)


# energy distance --------------------------------------------------------------------------------


@given(seeds, sizes, sizes)
def test_energy_distance_of_numbers_equals_scipy(seed: int, n: int, m: int) -> None:
    a, b = rows(seed, n, 1)[:, 0], rows(seed + 1, m, 1)[:, 0] * 2 + 1
    wanted = scipy.stats.energy_distance(a.numpy(), b.numpy())
    assert energy_distance(a, b) == pytest.approx(wanted, abs=1e-7)


@given(seeds, sizes, sizes, widths)
def test_energy_distance_of_rows_equals_brute_force(seed: int, n: int, m: int, d: int) -> None:
    a, b = rows(seed, n, d), rows(seed + 1, m, d) + 1

    def mean(x: torch.Tensor, y: torch.Tensor) -> float:
        return (x[:, None] - y[None]).square().sum(-1).sqrt().mean().item()

    wanted = 2 * mean(a, b) - mean(a, a) - mean(b, b)
    assert energy_distance(a, b) ** 2 == pytest.approx(wanted, abs=1e-7)


@given(seeds, st.floats(0.01, 100))
def test_energy_distance_grows_with_the_root_of_the_scale(seed: int, scale: float) -> None:
    a, b = rows(seed, 8, 3), rows(seed + 1, 5, 3) + 1
    wanted = energy_distance(a, b) * math.sqrt(scale)
    assert energy_distance(a * scale, b * scale) == pytest.approx(wanted, rel=1e-6)


@given(seeds, sizes, widths)
def test_energy_distance_of_a_shift_grows_with_it(seed: int, n: int, d: int) -> None:
    a, shift = rows(seed, n, d), rows(seed + 1, 1, d)  # E|X - X' - s| is even and convex in s
    steps = [energy_distance(a, a + far * shift) for far in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert steps == sorted(steps)


def test_energy_distance_of_two_points() -> None:
    a, b = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert energy_distance(a, b) == pytest.approx(math.sqrt(2 * 5))


# MMD --------------------------------------------------------------------------------------------


def by_hand(a: torch.Tensor, b: torch.Tensor) -> float:
    """The definition of sed.md 6.2, kernel by kernel, for sets of one size."""
    union = torch.cat([a, b])
    squares = (union[:, None] - union[None]).square().sum(-1)
    n, count = len(a), len(union)
    first = squares.sum() / (count**2 - count)
    kernel = sum(torch.exp(-squares / (first / 4 * 2**i)) for i in range(5))
    assert isinstance(kernel, torch.Tensor)
    xx, yy, xy, yx = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:], kernel[n:, :n]
    return (xx + yy - xy - yx).mean().item()


@given(seeds, sizes, widths)
def test_mmd_equals_its_definition(seed: int, n: int, d: int) -> None:
    a, b = rows(seed, n, d), rows(seed + 1, n, d) * 2 + 1
    assert mmd(a, b) == pytest.approx(by_hand(a, b), abs=1e-9)


@given(seeds, st.floats(1e-6, 1e6))
def test_mmd_has_no_unit_and_stays_below_ten(seed: int, scale: float) -> None:
    a, b = rows(seed, 8, 3), rows(seed + 1, 6, 3) * 2 + 1
    assert mmd(a * scale, b * scale) == pytest.approx(mmd(a, b), rel=1e-7)
    assert 0 < mmd(a, b + 1e6) <= 10


def test_mmd_of_two_points_in_closed_form() -> None:
    a, b = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])  # D = b_0 = 25 whatever the points are
    wanted = 2 * 5 - 2 * sum(math.exp(-4 / 2**i) for i in range(5))
    assert mmd(a, b) == pytest.approx(wanted, rel=1e-12)
    assert mmd(torch.ones(3, 2), torch.ones(5, 2)) == 0  # no bandwidth, no difference


# sliced W2 --------------------------------------------------------------------------------------


@given(seeds, sizes, sizes)
def test_sliced_w2_of_numbers_is_w2_of_many_copies(seed: int, n: int, m: int) -> None:
    a, b = rows(seed, n, 1), rows(seed + 1, m, 1) * 2
    copies = a.repeat_interleave(m, 0).sort(0).values - b.repeat_interleave(n, 0).sort(0).values
    assert sliced(a, b) == pytest.approx(copies.square().mean().sqrt().item(), rel=1e-9)


@given(seeds, sizes, widths)
def test_sliced_w2_of_a_shift_is_its_mean_shadow(seed: int, n: int, d: int) -> None:
    a, shift = rows(seed, n, d), rows(seed + 1, 1, d)
    directions = torch.randn(20, d, generator=seeded(5), dtype=torch.float64)
    shadow = (directions @ shift[0]) / directions.norm(dim=1)
    assert sliced(a, a + shift) == pytest.approx(shadow.square().mean().sqrt().item(), abs=1e-9)


@given(seeds, st.floats(0.01, 100))
def test_sliced_w2_grows_with_the_scale(seed: int, scale: float) -> None:
    a, b = rows(seed, 8, 3), rows(seed + 1, 5, 3)
    assert sliced(a * scale, b * scale) == pytest.approx(sliced(a, b) * scale, rel=1e-9)


def test_sliced_w2_of_a_shift_of_one_is_one_over_root_d() -> None:
    a = rows(0, 50, 25)
    shift = torch.eye(25)[0].double()
    got = sliced_w2(a, a + shift, projections=4000, generator=seeded(0))
    # each squared shadow has mean 1 / 25 and relative spread of about root 2
    assert got == pytest.approx(1 / 5, rel=3 * math.sqrt(2 / 4000))


def test_sliced_w2_belongs_to_its_generator() -> None:
    a, b = rows(0, 9, 3), rows(1, 9, 3)
    with untouched_global_chance():
        one, same, other = (sliced_w2(a, b, generator=seeded(seed)) for seed in (1, 1, 2))
    assert one == same != other
    with pytest.raises(ValueError, match="projections must be at least 1, got 0"):
        sliced_w2(a, b, projections=0, generator=seeded(0))


# size -------------------------------------------------------------------------------------------

LARGE = """
import resource, torch
from sed_core.metrics.distance import energy_distance, mmd, sliced_w2
a, b = (torch.rand(10_000, 784, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
print([mmd(a, b), energy_distance(a, b),
       sliced_w2(a, b, projections=500, generator=torch.Generator().manual_seed(0))])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_ten_thousand_pictures_stay_below_two_gib() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=280
    )
    peak = int(done.stdout.split()[-1])
    assert peak < 2 * 2**20  # KiB, torch itself among them
