"""Metrics of counts: closed forms, scipy, what the authors' code got wrong, calibrated draws."""

import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import untouched_global_chance
from torch import Tensor

from sed_core.chance import seeded
from sed_core.domains.toy import TOY
from sed_core.metrics import counts as metrics
from sed_core.metrics.distance import energy_distance, gaussian_mmd, sliced_w2

seeds = st.integers(0, 2**31)
Score = Callable[..., Tensor]
Ends = dict[str, Tensor]

rows_scores = pytest.mark.parametrize("score", [metrics.r2, metrics.pearson, metrics.spearman])
entry_scores = pytest.mark.parametrize("score", [metrics.rmse, metrics.mae, metrics.bias])


def some(seed: int, n: int, d: int = 4, *, mean: float = 2.0) -> Tensor:
    """Poisson counts."""
    return torch.poisson(torch.full((n, d), mean), generator=seeded(seed)).long()


def ends(seed: int = 0, n: int = 6, d: int = 9, share: float = 0.6) -> Ends:
    """A truth, and which of its entries are targets."""
    target = torch.rand(n, d, generator=seeded(seed + 1)) < share
    return {"truth": some(seed, n, d, mean=3.0), "target": target}


# -- sets ------------------------------------------------------------------------------------------


@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_sets_are_at_no_distance_of_themselves_and_as_far_one_way_as_the_other(
    seed: int, n: int, m: int
) -> None:
    a, b = some(seed, n), some(seed + 1, m) + 1
    for between in (
        lambda x, y: metrics.w1_each(x, y).sum().item(),
        metrics.counts_mmd,
        lambda x, y: gaussian_mmd(x, y, gamma=0.1, kernels=5),
        lambda x, y: metrics.distances(x, y, generator=seeded(0))["sliced_w2"],
    ):
        assert between(a, a.flip(0)) == pytest.approx(0, abs=1e-9)
        assert between(a, b) == pytest.approx(between(b, a), abs=1e-12)
        assert between(a, b) > 0


def test_w1_is_that_of_each_dimension_alone() -> None:
    a, b = some(0, 50), some(1, 30)
    shifted = metrics.w1_each(a, a + torch.tensor([0, 1, 2, 7]))
    assert shifted.tolist() == pytest.approx([0, 1, 2, 7])
    wanted = [scipy.stats.wasserstein_distance(*pair) for pair in zip(a.T, b.T, strict=True)]
    assert metrics.w1_each(a, b).tolist() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="same dimensions, got 4 and 3"):
        metrics.w1_each(a, b[:, :3])


def test_mmd_of_counts_is_its_definition_diagonals_included() -> None:
    a, b = some(0, 7), some(1, 5)

    def mean(x: Tensor, y: Tensor, gamma: float = 1.0) -> float:
        squares = (x[:, None] - y[None]).double().square().sum(-1)
        return (-gamma * squares).exp().mean().item()

    wanted = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert metrics.counts_mmd(a, b) == pytest.approx(wanted, abs=1e-12)
    point = torch.zeros(1, 4).long()
    assert metrics.counts_mmd(point, point + 50) == pytest.approx(2)
    five = sum(
        mean(a, a, g) + mean(b, b, g) - 2 * mean(a, b, g) for g in (0.2 * 2**i for i in range(5))
    )
    assert gaussian_mmd(a, b, gamma=0.2, kernels=5) == pytest.approx(five / 5, abs=1e-12)
    with pytest.raises(ValueError, match=r"gamma above 0 .* got 0 and 1"):
        gaussian_mmd(a, b, gamma=0)


def test_median_mmd_takes_its_bandwidths_from_the_truth_and_has_no_unit() -> None:
    a, truth = some(0, 20), some(1, 30)
    truth[15:] *= 3  # so that the halves are further from each other than from themselves
    squares = (truth[:15, None] - truth[15:]).double().square().sum(-1).flatten()
    h = squares.sort().values[(len(squares) - 1) // 2].item()
    parts = [gaussian_mmd(a, truth, gamma=1 / (2 * h * f)) for f in (0.25, 0.5, 1, 2, 4)]
    assert metrics.median_mmd(a, truth) == pytest.approx(sum(parts) / 5, abs=1e-12)
    assert metrics.median_mmd(a * 10, truth * 10) == pytest.approx(metrics.median_mmd(a, truth))
    assert metrics.median_mmd(truth, truth) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="rows are alike"):
        metrics.median_mmd(a, torch.ones(10, 4).long())


def test_sliced_w2_of_a_shift_is_its_length_over_root_d() -> None:
    x, shift = TOY.sample(300, generator=seeded(0)), torch.arange(10)
    got = sliced_w2(x, x + shift, projections=1000, generator=seeded(0))
    assert got == pytest.approx(shift.double().norm().item() / math.sqrt(10), rel=0.05)


def test_two_samples_of_the_toy_are_as_near_as_their_floor() -> None:
    """The figures of countsdiff.md 8: sliced W2 0.13 to 0.33 between two samples of 4,000 rows."""
    a, b = (TOY.sample(4000, generator=seeded(seed)) for seed in (0, 1))
    with untouched_global_chance():
        found = metrics.distances(a, b, generator=seeded(0))
    assert found == metrics.distances(a, b, generator=seeded(0))
    assert found["sliced_w2"] < 0.4
    assert found["w1"] < 0.06
    assert found["mmd"] < 0.001
    assert metrics.variance_error(a, TOY.mean, TOY.variance) < 0.3
    far = metrics.distances(a, 2 * b, generator=seeded(0))
    assert all(far[name] > 2 * found[name] for name in found)


def test_variances_stand_side_by_side_and_the_worst_is_told() -> None:
    a = torch.tensor([[0, 0], [2, 4]])
    assert metrics.variance_table({"a": a, "b": 2 * a}) == {"a": [2, 8], "b": [8, 32]}
    mean, variance = torch.tensor([1.0, 0.1]).double(), torch.tensor([4.0, 1.0]).double()
    assert metrics.variance_error(a, mean, variance) == pytest.approx(0.5)
    assert metrics.variance_error(a, mean, variance, above=0) == pytest.approx(7)
    with pytest.raises(ValueError, match="'b' has 1"):
        metrics.variance_table({"a": a, "b": a[:1]})
    with pytest.raises(ValueError, match="a dimension of mean above 2"):
        metrics.variance_error(a, mean, variance, above=2)


@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_energy_distance_of_many_equal_numbers_is_that_of_scipy(seed: int, n: int, m: int) -> None:
    a, b = some(seed, n, 1)[:, 0], some(seed + 1, m, 1, mean=3.0)[:, 0]
    wanted = scipy.stats.energy_distance(a.numpy(), b.numpy())
    assert energy_distance(a, b) == pytest.approx(wanted, abs=1e-12)


def test_a_million_numbers_are_compared_by_sorting() -> None:
    a = torch.arange(1_000_000)
    assert energy_distance(a, a) == 0
    # 2 int (F - G)^2 of a shift by n of n even numbers: F - G rises to 1 and falls again
    assert energy_distance(a, a + len(a)) == pytest.approx(math.sqrt(2 * 2 / 3 * len(a)), rel=1e-5)


# -- imputation, one number an entry ---------------------------------------------------------------


@given(seeds)
def test_errors_are_pooled_over_targets(seed: int) -> None:
    known = ends(seed, share=0.7)
    imputed = some(seed + 2, 6, 9).double() + 0.5
    e = (imputed - known["truth"])[known["target"]]
    assert metrics.rmse(imputed, **known) == pytest.approx(e.square().mean().sqrt().item())
    assert metrics.mae(imputed, **known) == pytest.approx(e.abs().mean().item())
    assert metrics.bias(imputed, **known) == pytest.approx(e.mean().item())
    wanted = energy_distance(imputed[known["target"]], known["truth"][known["target"]])
    assert metrics.target_energy_distance(imputed, **known) == wanted


@entry_scores
def test_the_truth_has_no_error_and_a_shift_has_its_own(score: Score) -> None:
    known = ends()
    assert score(known["truth"], **known) == 0
    assert score(known["truth"] + 3, **known) == 3
    assert abs(score(known["truth"] - 3, **known)) == 3
    assert metrics.bias(known["truth"] - 3, **known) == -3


@rows_scores
@given(seeds)
def test_what_is_no_target_plays_no_part(score: Score, seed: int) -> None:
    known = ends(seed)
    imputed = some(seed + 2, 6, 9).double()
    wanted = score(imputed, **known)
    spoilt = torch.where(known["target"], imputed, math.nan)
    other = {**known, "truth": torch.where(known["target"], known["truth"], 999)}
    torch.testing.assert_close(score(spoilt, **other), wanted, equal_nan=True)


@given(seeds)
def test_row_scores_are_those_of_scipy(seed: int) -> None:
    known = ends(seed)
    imputed = some(seed + 2, 6, 9).double()
    found = [score(imputed, **known) for score in (metrics.pearson, metrics.spearman, metrics.r2)]
    for row, mask in enumerate(known["target"]):
        x, z = known["truth"][row, mask].double(), imputed[row, mask]
        if len(x) < 2 or (x == x[0]).all():
            assert all(math.isnan(part[row].item()) for part in found)
        elif (z == z[0]).all():
            assert [part[row].item() for part in found[:2]] == [0, 0]
        else:
            wanted = (
                scipy.stats.pearsonr(x, z).statistic,
                scipy.stats.spearmanr(x, z).statistic,
                (1 - (x - z).square().sum() / (x - x.mean()).square().sum()).item(),
            )
            assert [part[row].item() for part in found] == pytest.approx(wanted, abs=1e-9)


def test_r2_is_one_for_the_truth_and_zero_for_its_mean() -> None:
    truth = torch.tensor([[1, 4, 7, 3], [2, 2, 9, 0]])
    target = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert metrics.r2(truth, truth=truth, target=target).tolist() == [1, 1]
    means = torch.tensor([[4.0], [3.25]]).double().expand(2, 4)
    assert metrics.r2(means, truth=truth, target=target).tolist() == pytest.approx([0, 0])
    half = truth // 2
    right, swapped = (
        metrics.r2(a, truth=b, target=target) for a, b in ((half, truth), (truth, half))
    )
    assert not torch.allclose(swapped, right)  # the sides are not the same


def test_a_constant_truth_is_dropped_and_a_constant_prediction_scores_zero() -> None:
    truth = torch.tensor([[1, 4, 7], [5, 5, 5], [0, 2, 1], [3, 9, 9]])
    imputed = torch.tensor([[2.0, 2.0, 2.0], [1.0, 2.0, 3.0], [0.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    target = torch.ones(4, 3).bool()
    target[3, 1:] = False  # one target is left
    for score in (metrics.pearson, metrics.spearman):
        found = score(imputed, truth=truth, target=target)
        assert found[[0, 2]].tolist() == pytest.approx([0, 1])
        assert found[[1, 3]].isnan().all()
        assert metrics.row_mean(found) == pytest.approx(0.5)
    assert metrics.r2(imputed, truth=truth, target=target).isnan().tolist() == [0, 1, 0, 1]
    none = metrics.pearson(imputed[1:2], truth=truth[1:2], target=target[1:2])
    assert math.isnan(metrics.row_mean(none))


def test_a_constant_prediction_of_a_third_is_constant_though_it_rounds() -> None:
    truth = torch.arange(7)[None]
    third = torch.full((1, 7), 1 / 3)
    target = torch.ones(1, 7).bool()
    assert metrics.pearson(third, truth=truth, target=target).tolist() == [0]
    assert metrics.pearson(truth, truth=truth, target=target).tolist() == pytest.approx([1])


def test_ranks_and_not_sizes_are_what_spearman_sees() -> None:
    known = ends()
    grown = known["truth"].double().exp()
    kept = ~metrics.spearman(grown, **known).isnan()
    assert metrics.spearman(grown, **known)[kept].tolist() == pytest.approx([1] * int(kept.sum()))
    assert (metrics.pearson(grown, **known)[kept] < 0.999).any()


def test_what_cannot_be_scored_is_refused() -> None:
    known = ends()
    with pytest.raises(ValueError, match=r"one shape, got \(6, 8\), \(6, 9\), \(6, 9\)"):
        metrics._check(known["truth"][:, :8], **known)  # the types of `rmse` refuse it in tests
    with pytest.raises(ValueError, match="nothing to score"):
        metrics.r2(known["truth"], truth=known["truth"], target=torch.zeros(6, 9).bool())
    with pytest.raises(ValueError, match="imputed number of a target entry is NaN"):
        metrics.mae(torch.full((6, 9), math.nan), **known)
    with pytest.raises(ValueError, match="at least one draw"):
        metrics.crps(known["truth"][None][:0], **known)


# -- imputation, many draws an entry ---------------------------------------------------------------


@given(seeds, st.integers(2, 9))
def test_crps_is_its_definition_over_pairs_of_different_draws(seed: int, m: int) -> None:
    known = ends(seed, n=3, d=4, share=0.9)
    draws = torch.stack([some(seed + k, 3, 4) for k in range(m)])
    x, y = draws[:, known["target"]].double(), known["truth"][known["target"]]
    pairs = (x[:, None] - x[None]).abs().sum((0, 1)) / (m * (m - 1))
    wanted = ((x - y).abs().mean(0) - pairs / 2).mean().item()
    assert metrics.crps(draws, **known) == pytest.approx(wanted, abs=1e-12)


def test_crps_of_equal_draws_is_the_absolute_error() -> None:
    known = ends()
    draws = (known["truth"] + 2).expand(5, -1, -1)
    assert metrics.crps(draws, **known) == pytest.approx(2)
    assert metrics.crps(known["truth"].expand(5, -1, -1), **known) == 0
    with pytest.raises(ValueError, match="two draws or more"):
        metrics.crps(draws[:1], **known)


@pytest.fixture(scope="module")
def imputed() -> tuple[Tensor, Ends]:
    """39 exact posterior draws of four hidden dimensions of 1,000 rows of the toy."""
    truth = TOY.sample(1000, generator=seeded(0))
    target = (torch.arange(10) % 3 == 1).expand(1000, -1)
    seen, survival = truth * ~target, (~target).double()
    draws = [seen + TOY.draw_missing(seen, survival, generator=seeded(1 + k)) for k in range(39)]
    return torch.stack(draws), {"truth": truth, "target": target}


def test_the_right_law_has_the_lowest_crps(imputed: tuple[Tensor, Ends]) -> None:
    draws, known = imputed
    right = metrics.crps(draws, **known)
    few = metrics.crps(draws[:3], **known)
    assert few == pytest.approx(right, rel=0.06)  # the number of draws moves chance only
    narrow = (draws + draws.double().mean(0).round().long()) // 2
    wide = (2 * draws - draws.double().mean(0).round().long()).clamp_min(0)
    for wrong in (narrow, wide, draws + 1, draws.roll(1, 1)):
        assert metrics.crps(wrong, **known) > 1.02 * right


def test_the_right_law_has_a_flat_rank_histogram(imputed: tuple[Tensor, Ends]) -> None:
    draws, known = imputed
    ranks = metrics.rank_histogram(draws, **known)
    assert ranks.sum().item() == pytest.approx(1)
    assert len(ranks) == 40
    # 4,000 truths, those of a row dependent: as wide as 1,000 alone are
    spread = math.sqrt(1 / 40 / 1000)
    assert (ranks - 1 / 40).abs().max() < 5 * spread
    low, high = metrics.pit(draws, **known)
    bins = metrics.pit_histogram(low, high)
    torch.testing.assert_close(bins, ranks.view(10, 4).sum(1))
    narrow = (draws + draws.double().mean(0).round().long()) // 2
    u_shaped = metrics.rank_histogram(narrow, **known)
    assert u_shaped[-1] > 1 / 40 + 5 * spread
    assert metrics.rank_histogram(draws + 1, **known)[0] > 1 / 40 + 5 * spread


def test_the_right_law_is_covered_as_often_as_promised(imputed: tuple[Tensor, Ends]) -> None:
    draws, known = imputed
    for level in (0.5, 0.8, 0.95):
        got = metrics.coverage(draws, **known, level=level)
        assert got > level - 3 * math.sqrt(level * (1 - level) / 1000)
        narrow = (draws + draws.double().mean(0).round().long()) // 2
        assert metrics.coverage(narrow, **known, level=level) < got


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_continuous_truths_are_covered_exactly_as_often_as_promised(level: float) -> None:
    """Without ties the share is 1 - 2 k / (m + 1), here the level itself."""
    x = torch.rand(20, 40_000, 1, generator=seeded(0))
    known = {"truth": x[0], "target": torch.ones(40_000, 1).bool()}
    got = metrics.coverage(x[1:], **known, level=level)
    assert got == pytest.approx(level, abs=5 * math.sqrt(level * (1 - level) / 40_000))


def test_intervals_need_enough_draws() -> None:
    known = ends()
    draws = known["truth"].expand(18, -1, -1)
    with pytest.raises(ValueError, match=r"level 0.9 need more draws than 18"):
        metrics.coverage(draws, **known)
    assert metrics.coverage(draws, **known, level=0.8) == 1
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="need more draws"):
            metrics.coverage(draws, **known, level=level)


def test_a_truth_among_draws_takes_its_rank_and_ties_share() -> None:
    draws = torch.tensor([0, 2, 2, 5]).view(4, 1, 1)
    target = torch.ones(1, 1).bool()
    for y, wanted in (
        (0, [0.5, 0.5, 0, 0, 0]),
        (1, [0, 1, 0, 0, 0]),
        (2, [0, 1 / 3, 1 / 3, 1 / 3, 0]),
        (9, [0, 0, 0, 0, 1]),
    ):
        got = metrics.rank_histogram(draws, truth=torch.tensor([[y]]), target=target)
        assert got.tolist() == pytest.approx(wanted)


def test_the_pit_of_a_known_law_is_flat_and_of_another_is_not() -> None:
    y = torch.poisson(torch.full((20_000,), 2.5), generator=seeded(0)).numpy()
    for mean, flat in ((2.5, True), (2.8, False)):
        low, high = (torch.from_numpy(scipy.stats.poisson.cdf(y - k, mean)) for k in (1, 0))
        error = (metrics.pit_histogram(low, high) - 0.1).abs().max().item()
        assert (error < 5 * math.sqrt(0.1 / 20_000)) == flat
    with pytest.raises(ValueError, match="3 starts and 2 ends"):
        metrics.pit_histogram(torch.zeros(3), torch.ones(2))


def test_the_table_of_scores_is_that_of_the_mean_and_of_the_draws(
    imputed: tuple[Tensor, Ends],
) -> None:
    draws, known = imputed
    scores = metrics.imputation_scores(draws, **known)
    assert set(scores) == {
        *("rmse", "mae", "bias", "energy_distance", "r2", "pearson", "spearman", "crps"),
    }
    assert scores["rmse"] == metrics.rmse(draws.double().mean(0), **known)
    assert scores["rmse"] < metrics.rmse(TOY.mean.expand(1000, -1), **known)
    assert abs(scores["bias"]) < 0.15
    assert 0 < scores["spearman"] < 1
    assert "crps" not in metrics.imputation_scores(draws[:1], **known)
