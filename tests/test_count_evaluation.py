"""Evaluation of grey levels as counts: real digits pass, what is wrong is found out."""

import json
from typing import Any

import pytest
import torch
from small import countsdiff
from torch import Tensor

from sed_core.chance import seeded
from sed_core.count_evaluation import (
    counts_tables,
    evaluate_counts,
    filled_figures,
    sample_figures,
    wiped,
)
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.domains.digits import Digits
from sed_core.metrics.judge import DigitJudge, new_judge
from sed_core.model_card import counts_card


@pytest.fixture(scope="module")
def judge() -> DigitJudge:
    return new_judge(seed=0).eval().requires_grad_(False)


def some(n: int, seed: int = 0) -> Digits:
    chance = seeded(seed)
    levels = torch.randint(1, 256, (n, 784), generator=chance)
    ink = torch.rand(n, 784, generator=chance) < 0.2
    return Digits((levels * ink).to(torch.uint8), torch.arange(n) % 10)


def model() -> Any:
    return countsdiff(784, network="unet", patch=2, classes=10)


def test_an_evaluation_of_a_model_that_knows_nothing(judge: DigitJudge) -> None:
    shares: list[float] = []
    result = evaluate_counts(
        model(), judge, some(80), some(70, 1), samples=12, steps=2, batch=5, progress=shares.append
    )
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert result["figures"]["whole"]["value"] == 1
    assert [target["met"] for target in result["targets"]] == [True, False, True]
    for name in ("samples", "test"):
        assert sum(result["levels"][name]) == pytest.approx(1, abs=1e-3)
    assert result["levels"]["test"][0] == pytest.approx(0.8, abs=0.02)
    assert {(one["mask"], one["method"]) for one in result["imputation"]} == {
        (mask, method)
        for mask in ("lower half", "half of the pixels")
        for method in ("conditional", "replace")
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    tables = counts_tables(result)
    assert "| grey level | 0 | 1 to 31 |" in tables
    assert tables.count("| lower half |") == 2
    card = counts_card("counts-mnist", "mnist", {**result, "recipe": "the command"})
    assert "the command" in card
    assert "{" not in card.replace("{name}", "")


def test_real_digits_are_as_near_as_the_floor_and_brighter_ones_are_not(judge: DigitJudge) -> None:
    def level_w1(x: Tensor) -> dict[str, Any]:
        labels = torch.arange(len(x)) % 10
        found = sample_figures(
            model(), judge, x, labels, some(70, 1), some(70, 2), some(80), seed=0
        )
        return found["level_w1"]

    real = some(70, 3).images.long()
    assert level_w1(real)["value"] < 3 * level_w1(real)["real"]
    assert level_w1((real + 40 * (real > 0)).clamp_max(255))["value"] > 5


class Knows(CountsDiff):
    """Imputes what it is told to."""

    def __init__(self, answer: Tensor):
        super().__init__(CountsConfig(dim=784, width=4, layers=1, condition=4, classes=10))
        self.answer = answer

    def impute(self, x: Tensor, observed: Tensor, *, draws: int, **options: Any) -> Tensor:
        return torch.where(observed, x, self.answer).expand(draws, *x.shape)


def test_who_knows_the_truth_errs_by_nothing_and_who_says_zero_by_as_much_as_zeros() -> None:
    test = some(70, 1)
    truth = Knows(test.images[:64].long())
    zeros = Knows(torch.zeros(64, 784, dtype=torch.int64))
    for one in filled_figures(truth, test, steps=2, seed=0):
        assert one["rmse"] == one["crps"] == 0
        assert one["coverage"] == 1
    for one in filled_figures(zeros, test, steps=2, seed=0):
        assert one["rmse"] == pytest.approx(one["rmse_of_zeros"], abs=1e-4)


def test_masks_hide_half() -> None:
    for name, seen in wiped(784, 0).items():
        assert seen.float().mean().item() == pytest.approx(0.5, abs=0.02), name


def test_too_few_samples_for_the_clock_are_refused(judge: DigitJudge) -> None:
    with pytest.raises(ValueError, match="from 64 to 80, got 10"):
        evaluate_counts(model(), judge, some(80), some(70, 1), samples=10)
