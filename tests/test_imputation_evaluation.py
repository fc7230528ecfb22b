"""Imputation is measured as it is defined: known laws get known figures, and the right one wins."""

from collections.abc import Mapping

import anndata
import numpy as np
import pytest
import torch
from small import untouched_global_chance
from torch import Tensor

from sed_core.chance import seeded
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.domains.cells import Cells, setup_anndata
from sed_core.imputation_evaluation import (
    MASKS,
    cell_masked,
    evaluate_imputation,
    masks,
    tasks,
    train_cell_masked,
)
from sed_core.imputation_table import (
    Drawn,
    beaten,
    even_coverage,
    held_to,
    imputation_table,
    read,
    wins,
)
from sed_core.metrics.counts import coverage, crps
from sed_core.training import fit, shuffled

DIM = 12


def parts(seed: int = 0, n: int = 160) -> dict[str, Cells]:
    """Overdispersed cells of two types and many sizes, some without a type."""
    chance = np.random.default_rng(seed)
    kind = chance.integers(0, 2, n)
    rate = chance.gamma(1.0, 2.0, (2, DIM))
    x = chance.negative_binomial(3, 3 / (3 + rate[kind] * chance.uniform(0.3, 2, (n, 1))))
    x[x.sum(1) == 0, 0] = 1
    names = np.array(["b", "a"], dtype=object)[kind]
    names[::20] = None
    made = anndata.AnnData(x.astype(np.float32))
    made.obs["cell_type"] = names
    return setup_anndata(made, label="cell_type").split(0, {"train": 0.75, "test": 0.25})


@pytest.fixture(scope="module")
def trained() -> tuple[CountsDiff, dict[str, Cells]]:
    """A CountsDiff of half a second."""
    found = parts()
    train, names = found["train"], found["train"].labels["cell_type"]
    config = CountsConfig(
        dim=DIM, width=32, layers=1, condition=16, classes=2, class_names="\n".join(names.names)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CountsDiff(config)
    x, label = train.counts(), names.numbers

    def loss(rows: Tensor, chance: torch.Generator):
        return model.loss(x[rows], label=label[rows], generator=chance)

    plan = shuffled(len(x), size=64, steps=150, seed=0)
    for _ in fit(model, plan, lr=1e-2, ema=0.9, generator=seeded(0), loss=loss):
        pass
    return model.eval().requires_grad_(False), found


def drawn(rate: Tensor, m: int, seed: int, law: float = 1.0) -> Drawn:
    """Truth of a Poisson law, and draws of one `law` times as large; all of it is hidden."""
    truth = torch.poisson(rate, generator=seeded(seed)).long()
    x = torch.poisson(law * rate.expand(m, *rate.shape), generator=seeded(seed + 1)).long()
    return Drawn(x, truth, torch.ones_like(truth, dtype=torch.bool))


def test_ties_count_in_part_so_that_the_right_law_covers_ninety_per_cent() -> None:
    """Of counts that are mostly zero: ends included, the right law covers 97 %, as its own draws;
    one that is too narrow or too wide does not reach 90 %, or passes it."""
    rate = 0.02 + torch.rand(100, 200, generator=seeded(0)) ** 4
    right = read(drawn(rate, 50, 1), torch.ones(200, dtype=torch.bool))
    assert right["coverage_even"] == pytest.approx(0.9, abs=0.008)
    assert right["coverage_frequent"] == right["coverage_even"]
    assert right["coverage"] > 0.96
    assert right["coverage"] == pytest.approx(right["coverage_own"], abs=0.005)
    low = read(drawn(rate, 50, 1, law=0.3), torch.zeros(200, dtype=torch.bool))
    assert low["coverage_even"] < 0.87
    assert low["coverage"] < low["coverage_own"] - 0.02
    assert low["coverage_frequent"] is None
    assert right["crps"] < low["crps"]


def test_even_coverage_of_continuous_numbers_is_plain_coverage() -> None:
    """m + 1 = 40 ranks: 5 % and 95 % fall on ends of draws."""
    x = torch.randn(39, 40, 50, generator=seeded(0), dtype=torch.float64)
    y = torch.randn(40, 50, generator=seeded(1), dtype=torch.float64)
    everything = torch.ones(40, 50, dtype=torch.bool)
    plain = coverage(x, truth=y, target=everything)
    assert even_coverage(x, truth=y, target=everything) == pytest.approx(plain, abs=1e-9)


def test_figures_of_one_number_and_of_draws() -> None:
    truth = torch.tensor([[0, 2, 5], [1, 1, 9]])
    hidden = torch.tensor([[True, True, False], [True, True, False]])
    point = Drawn(torch.tensor([[1.0, 2.0, 0.0], [1.0, 3.0, 0.0]]), truth, hidden)
    told = read(point, torch.zeros(3, dtype=torch.bool))
    assert told["rmse"] == pytest.approx((5 / 4) ** 0.5, abs=1e-5)
    assert told["mae"] == told["crps"] == 0.75
    assert told["bias"] == 0.75
    assert told["spearman"] == 1.0  # of the first cell; in the second all truths are alike
    assert told["energy_distance"] == told["energy_distance_of_one"]
    assert told["coverage"] is told["coverage_own"] is told["coverage_even"] is None
    assert (told["cells"], told["entries"], told["zeros"]) == (2, 4, 0.25)
    many = drawn(torch.full((5, 30), 2.0), 20, 3)
    own = read(many, torch.zeros(30, dtype=torch.bool))
    ends = {"truth": many.truth, "target": many.hidden}
    assert own["crps"] == pytest.approx(crps(many.filled, **ends), abs=1e-5)
    assert own["energy_distance_of_one"] < own["energy_distance"]


def test_a_cell_without_hidden_entries_counts_for_nothing() -> None:
    whole = drawn(torch.full((4, 30), 2.0), 20, 3)
    hidden = whole.hidden.clone()
    hidden[1] = False
    some = Drawn(whole.filled, whole.truth, hidden)
    assert some.surprise[1] == some.squares[1] == some.targets[1] == 0
    assert some.surprise[0] == whole.surprise[0]


def test_how_much_worse_a_peer_is_has_an_interval() -> None:
    rate = torch.rand(60, 30, generator=seeded(0)) * 3
    good, bad = drawn(rate, 20, 1), drawn(rate, 20, 1, law=2.0)
    above = beaten(bad, good, generator=seeded(0))
    for low, high in above.values():
        assert 0 < low < high
    same = beaten(good, good, generator=seeded(0))
    assert same == {"rmse": [0, 0], "crps": [0, 0]}
    whole = ((bad.mean - bad.truth).square().mean().sqrt()
             - (good.mean - good.truth).square().mean().sqrt()).item()  # fmt: skip
    assert above["rmse"][0] < whole < above["rmse"][1]


def row(method: str, **figures: float | None) -> dict[str, object]:
    none = dict.fromkeys(("coverage", "coverage_own", "coverage_even", "coverage_frequent"))
    usual = dict.fromkeys(("mae", "energy_distance", "energy_distance_of_one", "crps"), 1.0)
    kept = {"rmse": 1.0, "bias": 0.1, "spearman": 0.5}
    return {"mask": "half", "method": method, **none, **usual, **kept, **figures}


def test_who_wins_each_figure_is_told_and_losses_too() -> None:
    scores = [
        row("CountsDiff", rmse=2.0, bias=-0.2, spearman=0.4, coverage=0.97, coverage_even=0.87),
        row("other", rmse=1.0, bias=0.1, spearman=0.6, coverage=0.9, coverage_even=0.96),
        row("third", rmse=3.0, bias=-0.3, spearman=0.5),
    ]
    found = {one["figure"]: one for one in wins(scores)}
    assert (found["rmse"]["best"], found["rmse"]["place"], found["rmse"]["of"]) == ("other", 2, 3)
    assert found["bias"]["best"] == "other"  # nearest to 0, on either side
    assert found["spearman"]["place"] == 3  # the larger the better
    assert found["coverage_even"]["best"] == "CountsDiff"
    assert found["coverage_even"]["of"] == 2
    assert [(one["got"], one["met"]) for one in held_to(scores)] == [(0.97, False), (0.87, True)]


def test_masks_hide_what_they_say_each_by_itself() -> None:
    truth = torch.poisson(torch.full((200, 500), 1.0), generator=seeded(0)).long()
    found = masks(truth, seed=3)
    assert tuple(found) == MASKS
    for seen, share in zip(found.values(), (0.25, 0.5, 0.25), strict=True):
        assert abs((~seen).double().mean() - share) < 0.006
    a, b, _ = found.values()
    assert abs((~a & ~b).double().mean() - 0.125) < 0.006
    again = masks(truth, seed=3)
    assert all(torch.equal(found[name], again[name]) for name in MASKS)


def test_tasks_are_of_held_out_cells_and_hold_no_hidden_count() -> None:
    cells = parts()
    found = tasks(cells, "cell_type", 7, seed=1)
    for truth, given in found.values():
        assert truth.shape == (7, DIM)
        whole = {tuple(one.tolist()) for one in cells["test"].counts()}
        assert all(tuple(one.tolist()) in whole for one in truth)
        assert not given.seen[~given.observed].any()
        assert torch.equal(given.seen[given.observed].long(), truth[given.observed])
        assert torch.equal(given.train.long(), cells["train"].counts())


def test_a_whole_evaluation(trained: tuple[CountsDiff, Mapping[str, Cells]]) -> None:
    model, cells = trained
    peer = cell_masked(cells["train"], seed=0)
    losses = [one.total.item() for one in train_cell_masked(peer, cells["train"], steps=40, seed=0)]
    assert losses[-1] < losses[0]
    shares = list[float]()
    with untouched_global_chance():
        found = evaluate_imputation(
            model, cells, draws=20, steps=6, rows=30, seed=2, births="poisson", masked=peer,
            methods=("conditional", "replace"), progress=shares.append,
        )  # fmt: skip
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert found["setting"]["cells"] == 30
    methods = [one["method"] for one in found["scores"][: len(found["scores"]) // 3]]
    assert methods == [
        "CountsDiff", "CountsDiff, replace", "masked diffusion", "negative binomial by type",
        "kNN diffusion", "low rank", "type mean x library", "type mean", "mean", "zero",
    ]  # fmt: skip
    by = {(one["mask"], one["method"]): one for one in found["scores"]}
    for mask in MASKS[:2]:  # under the third, most of what is hidden is 0
        assert by[mask, "type mean x library"]["rmse"] < by[mask, "zero"]["rmse"]
        assert by[mask, "CountsDiff"]["rmse"] < by[mask, "mean"]["rmse"]
    for mask in MASKS:
        assert by[mask, "zero"]["spearman"] == 0
        assert by[mask, "CountsDiff"]["above_ours"] == {"rmse": [0, 0], "crps": [0, 0]}
    told = imputation_table(found)
    assert all(f"| {name} |" in told for name in methods)
    assert "ties in part | 0.85 to 0.95" in told
    few = evaluate_imputation(model, cells, draws=20, steps=6, rows=30, seed=2, births="poisson")
    assert few["scores"][0]["rmse"] == by[MASKS[0], "CountsDiff"]["rmse"]  # of the seed alone


def test_what_does_not_fit_is_refused_at_once(
    trained: tuple[CountsDiff, Mapping[str, Cells]],
) -> None:
    model, cells = trained
    with pytest.raises(ValueError, match="more draws than 18"):
        evaluate_imputation(model, cells, draws=19)
    with pytest.raises(ValueError, match="rows must be from 1 to 40"):
        evaluate_imputation(model, cells, rows=41)
    fewer = {name: own.with_genes(own.genes[1:]) for name, own in cells.items()}
    with pytest.raises(ValueError, match="the model's 12 genes"):
        evaluate_imputation(model, fewer)
    other = CountsDiff(CountsConfig(dim=DIM, classes=2, class_names="a\nc"))
    with pytest.raises(ValueError, match="classes are"):
        evaluate_imputation(other, cells)
