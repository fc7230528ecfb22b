"""Evaluation: a perfect model gets perfect figures, a bad one is found out."""

import json
from typing import Any

import pytest
import torch

from sed_core.chance import seeded
from sed_core.domains.digits import Digits
from sed_core.evaluation import (
    evaluate_digits,
    evaluate_judge,
    generate,
    judge_card,
    judge_figures,
    rebuild,
    rebuilt_figures,
    rows,
    shape_figures,
    table,
    targets,
    tidy,
)
from sed_core.metrics.judge import DigitJudge, new_judge
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch, trusted


@pytest.fixture(scope="module")
def judge() -> DigitJudge:
    return new_judge(seed=0).eval().requires_grad_(False)


def tiny(classes: int = 10, mask: Any = "past") -> SED:
    """A model that knows nothing and draws at most 12 pairs."""
    savae = SAVAEConfig(
        dim=784, latent=4, width=16, heads=2, encoder_layers=1, decoder_layers=1,
        draft_width=8, max_pairs=12, mask=mask, value_step=1 / 255, value_smallest=1 / 255,
        value_largest=1.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = SED(savae, DenoiserConfig(latent=4, widths=(16, 8), condition=8, classes=classes))
    return model.eval().requires_grad_(False)


def some(n: int, seed: int = 0) -> Digits:
    """Strokes at a place that says the class."""
    chance = seeded(seed)
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    labels = torch.arange(n) % 10
    for image, label in zip(images, labels.tolist(), strict=True):
        top = int(torch.randint(0, 8, (), generator=chance))
        image[top : top + 12, 2 * label + 2 : 2 * label + 6] = 200
    return Digits(images.view(n, 784), labels)


def test_an_evaluation_of_a_model_that_knows_nothing(judge: DigitJudge) -> None:
    shares: list[float] = []
    before = torch.get_rng_state()
    options = {"samples": 20, "guidance": 2.0, "steps": 2, "batch": 8}
    result = evaluate_digits(
        tiny(), judge, some(40), some(30, 1), **options, progress=shares.append
    )
    assert torch.equal(before, torch.get_rng_state())
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    figures = result["figures"]
    assert figures["order_accuracy"] == {"value": 1.0, "n": 20}
    assert figures["agreement_guidance_1"]["n"] == 4
    for name in ("count_w1_share", "frechet", "sure", "agreement", "zero_share", "nearest"):
        assert {"value", "n", "real"} <= figures[name].keys()
    wanted = {"seed", "samples", "guidance", "steps", "device", "torch", "date", "seconds"}
    assert wanted <= result["setting"].keys()
    met = {target["name"]: target["met"] for target in result["targets"]}
    assert len(met) == 6
    assert met["samples: order accuracy"]
    assert not met["reconstruction: support IoU"]
    again = evaluate_digits(tiny(), judge, some(40), some(30, 1), **options)
    assert again["figures"] == figures


def test_a_model_without_classes_is_asked_for_none(judge: DigitJudge) -> None:
    result = evaluate_digits(tiny(0), judge, some(20), some(20, 1), samples=10, steps=2)
    assert result["setting"]["guidance"] is None
    assert not any(name.startswith("agreement") for name in result["figures"])
    assert len(result["targets"]) == 5


def test_too_few_of_anything_is_refused(judge: DigitJudge) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        evaluate_digits(tiny(), judge, some(9), some(9), samples=1)
    with pytest.raises(ValueError, match="at least 2 test digits, got 1"):
        evaluate_digits(tiny(), judge, some(9), some(1), samples=4)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        evaluate_digits(tiny(), judge, some(9), some(9), samples=4, batch=0)


def test_the_batch_changes_no_sample_and_no_reconstruction() -> None:
    model, labels, real = tiny(), torch.arange(10), some(10).batch()
    options = {"guidance": 2.0, "seed": 7, "steps": 3}
    whole = generate(model, 10, labels, batch=10, **options)
    parts = generate(model, 10, labels, batch=3, **options)
    assert torch.equal(whole.to_dense() != 0, parts.to_dense() != 0)
    fewer = generate(model, 4, labels[:4], batch=4, **options)
    assert torch.equal(fewer.to_dense() != 0, whole[:4].to_dense() != 0)
    one, _ = rebuild(model, real, batch=10)
    many, _ = rebuild(model, real, batch=3)
    assert torch.equal(one.to_dense() != 0, many.to_dense() != 0)
    alone = model.reconstruct(real[[7]])
    assert torch.equal(many[[7]].to_dense() != 0, alone.to_dense() != 0)


def test_perfect_reconstructions_need_their_own_latent() -> None:
    real = SparseBatch.from_dense(torch.eye(12))
    figures = rebuilt_figures(real, real, SparseBatch.from_dense(torch.ones(1, 12)), seed=0)
    assert figures["support_iou"]["value"] == 1
    assert figures["value_error"] == {"value": 0.0, "n": 12}
    assert figures["support_iou_shuffled"]["value"] == 0  # nobody got his own
    assert figures["support_iou_prior"]["value"] == pytest.approx(1 / 12, abs=1e-6)


def test_an_error_on_no_common_pixel_is_none() -> None:
    left, right = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])
    a, b = SparseBatch.from_dense(left), SparseBatch.from_dense(right)
    assert rebuilt_figures(a, b, a[[0]], seed=0)["value_error"]["value"] is None


def test_real_digits_in_place_of_samples_get_the_figures_of_real_digits(judge: DigitJudge) -> None:
    test = some(30)
    real = test.batch()
    shape = shape_figures(real, real, some(30, 1).batch())
    assert shape["order_accuracy"]["value"] == 1
    assert shape["count_w1"]["value"] == shape["ink_w1_share"]["value"] == 0
    assert shape["zero_share"]["value"] == shape["zero_share"]["real"]
    seen = judge_figures(judge, real, test.labels, test, some(30, 1), seed=0)
    assert seen["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert seen["frechet"]["real"] > 0
    assert seen["sure"]["value"] == seen["sure"]["real"]
    assert seen["agreement"]["value"] == seen["judge_accuracy"]["value"]


def test_indices_out_of_order_are_found_and_then_set_right() -> None:
    index = torch.tensor([[3, 1, 2], [0, 1, 4], [5, 5, 0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True, True, False]])
    made = trusted(index, torch.full((3, 3), 0.5) * mask, mask, 6)
    real = SparseBatch.from_dense(torch.eye(6)[:3])
    figures = shape_figures(made, real, real)
    assert figures["order_accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert figures["bad_steps"]["value"] == pytest.approx(2 / 5)
    assert tidy(made).nnz.tolist() == [3, 3, 1]
    assert tidy(made).pairs(0)[0].tolist() == [1, 2, 3]


def test_a_decoder_without_order_is_evaluated_too(judge: DigitJudge) -> None:
    result = evaluate_digits(tiny(mask="none"), judge, some(20), some(20), samples=20, steps=2)
    assert result["figures"]["order_accuracy"]["value"] < 1
    met = {target["name"]: target["met"] for target in result["targets"]}
    assert not met["samples: order accuracy"]


def test_targets_say_what_was_wanted_and_what_came() -> None:
    value = {
        "support_iou": 0.9, "support_iou_shuffled": 0.3, "support_iou_prior": 0.5,
        "order_accuracy": 1.0, "count_w1_share": 0.081, "sure": 0.8, "agreement": 0.94,
    }  # fmt: skip
    told = targets({name: {"value": v, "n": 9} for name, v in value.items()}, 2.0)
    assert [target["met"] for target in told] == [True, False, True, False, True, False]
    assert told[3]["wanted"] == "at most 0.08"
    assert told[-1]["name"].endswith("at guidance 2")


def test_a_judge_is_evaluated_and_has_a_card(judge: DigitJudge) -> None:
    result = evaluate_judge(judge, some(30), least=0.985)
    right = result["figures"]["judge_accuracy"]
    assert right["n"] == 30
    assert 0 <= right["low"] <= right["value"] <= right["high"] <= 1
    assert result["figures"]["judge_worst"]["value"] <= right["value"]
    assert [target["met"] for target in result["targets"]] == [False]
    card = judge_card(result, "mnist")
    assert "CC BY-SA" in card
    assert table(result) in card
    assert all(len(row) == 4 for row in rows(result))
    assert "| target |" not in table(evaluate_judge(judge, some(30)))
