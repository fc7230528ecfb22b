"""The toy's table: the exact law gets perfect figures, a wrong law is found out."""

import json
from typing import Any

import pytest
import torch
from small import countsdiff
from torch import Tensor, nn

from sed_core import hub
from sed_core.domains import toy
from sed_core.toy_evaluation import PUBLISHED, evaluate_toy, method_of, toy_table


class CountsDiff(nn.Module):
    """Stands in for a model of that name: draws the exact law, times something."""

    dim = 10

    def __init__(self, times: int = 1):
        super().__init__()
        self.times, self.weight = times, nn.Parameter(torch.zeros(3))

    def sample(self, n: int, *, steps: int, generator: Any) -> Tensor:
        return self.times * toy.TOY.sample(n, generator=generator)


class LogGaussian(CountsDiff):
    """The same under a peer's name."""


def evaluated(*models: nn.Module, samples: int = 1500, **options: Any) -> dict[str, Any]:
    return evaluate_toy(((f"m{k}", m) for k, m in enumerate(models)), samples=samples, **options)


def test_the_exact_law_meets_the_targets_and_is_as_near_as_the_floor() -> None:
    result = evaluated(CountsDiff(), CountsDiff(), training_seconds={"CountsDiff": [12.0, 9.0]})
    assert all(target["met"] for target in result["targets"])
    assert len(result["targets"]) == 3
    drawn, floor = result["toy"]["methods"]["CountsDiff"], result["toy"]["floor"]
    assert len(drawn) == len(floor) == 2
    assert drawn[0]["w1"] < 2 * floor[0]["w1"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_law_twice_as_large_misses_them() -> None:
    result = evaluated(CountsDiff(), CountsDiff(2), training_seconds={"CountsDiff": [12.0, 200.0]})
    assert [target["met"] for target in result["targets"]] == [False, False, False]
    assert result["toy"]["methods"]["CountsDiff"][1]["variance_error"] > 2


def test_the_table_holds_ours_the_published_and_the_exact_law() -> None:
    text = toy_table(evaluated(CountsDiff(), CountsDiff(), LogGaussian()))
    lines = text.splitlines()
    assert "| exact law | 0.79 | 4.66 |" in text
    assert "| CountsDiff, published | 0.55 | 1.99 |" in text
    assert "| Gaussian, published | 1.17 to 1.29 | 0.542 | 0.054 |" in text
    assert "Masked" not in text  # was not evaluated
    ours = next(line for line in lines if line.startswith("| CountsDiff, ours") and " to " in line)
    assert "| 3 |" in ours  # parameters
    widths = {line.count("|") for line in lines if line.startswith(("| variance", "| exact"))}
    assert widths == {8, 12}  # whole rows, dimensions


def test_published_figures_are_ten_a_row() -> None:
    for figures in PUBLISHED.values():
        assert len(figures.variance) == len(figures.w1) == 10


def test_a_model_of_other_rows_or_another_family_is_refused() -> None:
    assert method_of(hub.load("counts-toy", device="cpu")) == "CountsDiff"
    with pytest.raises(ValueError, match="got a CountsDiff of 4 dimensions"):
        method_of(countsdiff(4))
    with pytest.raises(ValueError, match="got a Linear of None"):
        method_of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="at least 2 samples"):
        evaluated(CountsDiff(), samples=1)
