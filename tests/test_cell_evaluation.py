"""Evaluation of cells: real ones again get perfect figures, poor ones miss, files are matched."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from small import countsdiff, ldm, sed, untouched_global_chance
from torch import nn

from sed_core import cell_draws, cell_evaluation, cli, hub, imputation_evaluation
from sed_core.cell_draws import (
    UNKNOWN,
    Made,
    Plan,
    Real,
    asked_types,
    file_made,
    file_real,
    floor_made,
    model_made,
)
from sed_core.cell_evaluation import evaluate_cells, of_checkpoint
from sed_core.cell_tables import cells_card, cells_csv, cells_markdown, write_cells
from sed_core.domains.cells import setup_anndata
from sed_core.domains.source import DataError
from sed_core.vocabulary import GeneVocabulary

GENES = tuple(f"g{k}" for k in range(60))
TYPES = ("a", "b", "c")
PLAN = Plan(sets=2, trees=5, steps=2)


def table(seed: int, n: int, *, genes: tuple[str, ...] = GENES) -> anndata.AnnData:
    """Cells of three types whose genes go together in fives; every twentieth has no type."""
    chance = np.random.default_rng(seed)
    number = {gene: int(gene[1:]) for gene in genes}
    at = np.array([number[gene] for gene in genes])
    types = chance.integers(0, 3, n)
    together = np.repeat(np.exp(chance.normal(0, 0.8, (n, 12))), 5, axis=1)
    base = np.random.default_rng(99).gamma(0.5, 2.0, 60)
    mean = base * together * np.where(np.arange(60) % 3 == types[:, None], 3.0, 1.0)
    x = chance.poisson(mean)[:, at]
    label = np.where(np.arange(n) % 20 == 0, "unassigned", np.array(TYPES)[types])
    return anndata.AnnData(
        scipy.sparse.csr_matrix(x.astype(np.float32)),
        obs=pd.DataFrame({"cell_type": label}, index=[f"c{k}" for k in range(n)]),
        var=pd.DataFrame(index=list(genes)),
    )


@pytest.fixture(scope="module")
def real() -> Real:
    whole = setup_anndata(table(0, 300), label="cell_type", unknown=("unassigned",))
    parts = whole.split(0, {"train": 0.75, "test": 0.25})
    given = {"train": parts["train"], "test": parts["test"], "label": "cell_type"}
    return Real("some cells", "ours", **given, panel=GENES[:52], learned=True)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that were never trained, and files of cells."""
    folder = tmp_path_factory.mktemp("shop")
    named = {"label": "cell_type", "labels": TYPES}
    models: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
        "sed": (sed(60), GENES),
        "counts": (countsdiff(52), GENES[:52]),
        "ldm": (ldm(52), GENES[:52]),
        "plain": (countsdiff(52, classes=0), GENES[:52]),
    }
    for name, (model, genes) in models.items():
        vocabulary = GeneVocabulary(genes, **named) if name != "plain" else GeneVocabulary(genes)
        options = {"metrics": {}, "card": "# T\n", "recipe": "none", "vocabulary": vocabulary}
        hub.save(model, folder / name, **options)  # type: ignore[arg-type]
    hub.save(countsdiff(52), folder / "digits", metrics={}, card="# T\n", recipe="none")
    table(5, 130, genes=GENES[::-1]).write_h5ad(folder / "real.h5ad")
    table(6, 120).write_h5ad(folder / "again.h5ad")
    other = table(7, 90)
    del other.obs["cell_type"]
    other.write_h5ad(folder / "untyped.h5ad")
    return folder


def made_of(real: Real, x: Any, types: Any, name: str = "model") -> Made:
    return Made(name, name, "SED", x, real.test.genes, tuple(types))


@pytest.fixture(scope="module")
def methods(real: Real) -> dict[str, Made]:
    """Cells of the same law, and such of none."""
    fresh = setup_anndata(table(1, 400), label="cell_type", unknown=("unassigned",))
    types = [word or UNKNOWN for word in fresh.labels["cell_type"].text()]
    x = fresh.csr()
    poor = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, x.shape).astype(float))
    return {
        "good": made_of(real, x, types, "good"),
        "poor": made_of(real, poor, types, "poor"),
        "dense": replace(made_of(real, 2 * poor, types, "dense"), family="GatedLogGaussian"),
    }


@pytest.fixture
def drawn(methods: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> dict[str, Made]:
    """Methods by name, in place of checkpoints."""
    own = dict(methods)
    monkeypatch.setattr(
        cell_evaluation, "model_made", lambda ref, real, plan, **options: [own[ref]]
    )
    return own


@pytest.fixture(scope="module")
def shares() -> list[float]:
    """What progress was told."""
    return []


@pytest.fixture(scope="module")
def result(real: Real, methods: dict[str, Made], shares: list[float]) -> dict[str, Any]:
    """One table of all of them."""
    with pytest.MonkeyPatch.context() as patch, untouched_global_chance():
        patch.setattr(
            cell_evaluation, "model_made", lambda ref, real, plan, **options: [methods[ref]]
        )
        return evaluate_cells(
            list(methods), real, plan=PLAN, progress=lambda share, words: shares.append(share)
        )


# the table ----------------------------------------------------------------------------------------


def test_cells_of_the_same_law_meet_the_targets_and_others_do_not(
    result: dict[str, Any], shares: list[float]
) -> None:
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    panel, whole = result["spaces"]
    assert (panel["genes"], whole["genes"]) == (52, 60)
    names = [m["name"] for m in panel["methods"]]
    assert names == ["good", "poor", "dense", "independent genes"]
    by = {m["name"]: m["figures"] for m in panel["methods"]}
    assert by["good"]["mmd"]["value"] < 2 * by["good"]["mmd"]["real"] < by["poor"]["mmd"]["value"]
    assert {m["n"] for m in panel["methods"]} == {75}
    assert {m["sets"] for m in panel["methods"]} == {2}
    assert len({m["figures"]["mmd"]["real"] for m in panel["methods"]}) == 1
    met = {t["name"]: t["met"] for t in result["targets"]}
    here = [name for name in met if name.startswith("good, 52 genes")]
    assert len(here) == 9
    noisy = {  # at so few cells
        "good, 52 genes: MMD, that of the independent genes",
        "good, 52 genes: zeros off those of held-out cells (percentage points)",
    }
    assert {name for name in here if not met[name]} <= noisy
    assert not met["poor, 52 genes: MMD, that of the independent genes"]
    assert not met["poor, 52 genes: SCC over that of training cells"]
    assert not met["poor, 52 genes: zeros off those of held-out cells (percentage points)"]
    assert not met["poor, 52 genes: slope of log-fold changes off 1"]
    assert not any("dense DDPM" in name for name in met if name.startswith("dense"))
    assert not any(name.startswith("independent") for name in met)


def test_a_gap_of_zeros_is_told_by_its_size(result: dict[str, Any]) -> None:
    for k in range(3):
        got = [t for t in result["targets"] if "zeros off" in t["name"]][k]
        zeros = result["spaces"][0]["methods"][k]["figures"]["zero_difference"]["value"]
        assert got["got"] == pytest.approx(abs(zeros), abs=1e-4)
        assert got["wanted"] == "at most 1"


def test_the_table_is_told_to_people_and_spreadsheets(
    result: dict[str, Any], tmp_path: Path
) -> None:
    said = cells_markdown(result)
    for words in ("| good |", "| *independent genes* |", "| *real training cells* |",
                  "#### 52 genes", "#### all 60 genes", "n = 75 cells a set", "2 sets", "seed 0",
                  "| Memorisation |", "log(1 + 10,000 x / library)", "0.60 on all"):  # fmt: skip
        assert words in said, words
    lines = {len(line.split("|")) for line in said.splitlines() if line.startswith("| Genes and")}
    assert lines == {len(next(x for x in said.splitlines() if x.startswith("| good")).split("|"))}
    bold = [line for line in said.splitlines() if "**" in line]
    assert any(line.startswith("| good") for line in bold)
    assert not any(line.startswith("| *") for line in bold)
    rows = list(csv.DictReader(io.StringIO(cells_csv(result))))
    assert len(rows) == 8
    figure = result["spaces"][0]["methods"][1]["figures"]["scc"]
    assert float(rows[1]["scc"]) == figure["value"]
    assert float(rows[1]["scc_training"]) == figure["real"]
    paths = write_cells(result, [tmp_path / "all"])
    assert {path.suffix for path in paths} == {".json", ".md", ".csv"}
    assert json.loads((tmp_path / "all.json").read_text()) == result


def test_a_checkpoint_keeps_its_own_rows_and_the_floors(real: Real, drawn: dict[str, Made]) -> None:
    result = evaluate_cells(list(drawn), real, plan=PLAN)
    kept = of_checkpoint(result, "poor")
    assert [m["name"] for m in kept["cells"]["spaces"][0]["methods"]] == [
        "poor",
        "independent genes",
    ]
    assert kept["figures"] == result["spaces"][0]["methods"][1]["figures"]
    assert {t["checkpoint"] for t in kept["targets"]} == {"poor"}
    card = cells_card("poor", {**kept, "recipe": "sed-core train x"})
    assert "sed-core train x" in card
    assert "wanted at least 0.95" in card
    assert "| good" not in card
    assert 'CellModel.load("poor")' in card


def test_one_set_has_no_spread_and_files_no_memorisation(
    real: Real, drawn: dict[str, Made]
) -> None:
    few = replace(drawn["good"], counts=drawn["good"].counts[:60], types=drawn["good"].types[:60])
    drawn["good"] = few
    result = evaluate_cells(["good"], replace(real, learned=False), plan=PLAN)
    figures = result["spaces"][0]["methods"][0]["figures"]
    assert "sd" not in figures["scc"]
    assert result["spaces"][0]["methods"][0]["n"] == 60
    assert "in_train" not in result["spaces"][0]["methods"][0]["memorisation"]
    assert "Memorisation: not told" in cells_markdown(result)


def test_too_few_genes_in_common_are_refused(real: Real, drawn: dict[str, Made]) -> None:
    strange = tuple(f"ENSG{k}" for k in range(60))
    drawn["good"] = replace(drawn["good"], genes=strange)
    with pytest.raises(ValueError, match=r"0 of the 52 genes of some cells .*ENSG"):
        evaluate_cells(["good"], real, plan=PLAN)
    with pytest.raises(ValueError, match="different checkpoints"):
        evaluate_cells(["good", "good"], real, plan=PLAN)


# made cells ---------------------------------------------------------------------------------------


def test_types_are_asked_for_as_often_as_held_out_cells_have_them(real: Real) -> None:
    found = asked_types(real, ("c", "a"), 150, 0)
    assert found is not None
    held = real.types(real.test)
    assert held is not None
    assert sorted(found.words) == sorted(held * 2)
    numbers = {word: {int(n) for w, n in zip(found.words, found.numbers, strict=True) if w == word}
               for word in set(found.words)}  # fmt: skip
    assert numbers == {"a": {1}, "b": {2}, "c": {0}, UNKNOWN: {2}}
    few = asked_types(real, ("c", "a"), 10, 0)
    assert few is not None
    assert few.words == found.words[:10]
    assert asked_types(real, (), 10, 0) is None


@pytest.mark.parametrize("name", ["sed", "counts", "ldm", "plain"])
def test_every_family_makes_counts_of_named_genes(real: Real, shop: Path, name: str) -> None:
    ticks: list[float] = []
    plan = replace(PLAN, samples=100)
    made = model_made(str(shop / name), real, plan, device="cpu", tick=ticks.append)
    assert [some.rule for some in made] == (["round", "match"] if name == "ldm" else [None])
    assert ticks == [0.9, 1.0]
    for some in made:
        assert len(some) == 100
        assert some.genes == (GENES if name == "sed" else GENES[:52])
        assert (some.types is None) == (name == "plain")
        own = some.on(GENES[:52][::-1])
        assert own.genes == 52
        if name != "sed":  # whose untrained values are no counts
            assert np.array_equal(own.counts.data, np.rint(own.counts.data))
        plain = some.counts.toarray()
        assert np.array_equal(own.counts.toarray(), plain[:, :52][:, ::-1])
    less = model_made(str(shop / name), real, replace(plan, samples=30), device="cpu")
    if name in ("counts", "plain"):  # floats, and what an untrained SED picks by them, may differ
        assert np.array_equal(less[0].counts.toarray(), made[0].counts[:30].toarray())


def test_dense_numbers_are_cut_where_training_cells_have_their_zeros(
    real: Real, shop: Path
) -> None:
    rounded, cut = model_made(str(shop / "ldm"), real, replace(PLAN, samples=300), device="cpu")
    train = real.on(real.train, GENES[:52])
    wanted = 1 - train.counts.nnz / (len(train) * 52)
    assert 1 - cut.counts.nnz / (300 * 52) == pytest.approx(wanted, abs=0.05)
    assert (cut.name, rounded.name) == ("LDM on log1p, thresholded", "LDM on log1p, rounded")
    assert cut.counts.data.min() >= 1


def test_an_interrupted_run_goes_on_from_what_was_drawn(
    real: Real, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, samples=200)
    options: dict[str, Any] = {"device": "cpu", "keep": tmp_path}
    one = model_made(str(shop / "counts"), real, plan, **options)[0]
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 3
    kept[0].write_bytes(b"broken")
    calls: list[int] = []
    fresh = cell_draws._Draw._fresh  # type: ignore[reportPrivateUsage]

    def counted(self: Any, chance: Any, asked: Any) -> Any:
        calls.append(len(chance))
        return fresh(self, chance, asked)

    monkeypatch.setattr(cell_draws._Draw, "_fresh", counted)  # type: ignore[reportPrivateUsage]
    again = model_made(str(shop / "counts"), real, plan, **options)[0]
    assert len(calls) == 1
    assert np.array_equal(again.counts.toarray(), one.counts.toarray())
    other = model_made(str(shop / "counts"), real, replace(plan, seed=1), **options)[0]
    assert len(calls) == 4
    assert not np.array_equal(other.counts.toarray(), one.counts.toarray())


def test_a_model_of_other_things_is_refused(real: Real, shop: Path) -> None:
    with pytest.raises(ValueError, match="makes no cells of named genes"):
        model_made(str(shop / "digits"), real, PLAN, device="cpu")


def test_the_floor_keeps_genes_of_a_type_and_loses_pairs(real: Real) -> None:
    made = floor_made(real, GENES[:52], 300, 0)
    assert made.checkpoint == ""
    assert made.types is not None
    assert set(made.types) == {*TYPES, UNKNOWN}
    train = real.on(real.train, GENES[:52])
    own = made.on(GENES[:52])
    assert np.corrcoef(own.counts.mean(0), train.counts.mean(0))[0, 1] > 0.98
    assert np.array_equal(floor_made(real, GENES[:52], 30, 0).counts.toarray(),
                          made.counts[:30].toarray())  # fmt: skip
    untyped = floor_made(replace(real, label=None), GENES[:52], 30, 0)
    assert untyped.types is None


# files --------------------------------------------------------------------------------------------


def test_a_file_is_compared_in_halves_that_share_no_cell(shop: Path) -> None:
    found = file_real(shop / "real.h5ad", label="cell_type", seed=3)
    names = [set(part.names) for part in (found.train, found.test)]
    assert len(names[0]) == len(names[1]) == 65
    assert not names[0] & names[1]
    assert found.panel == GENES[::-1]
    again = file_real(shop / "real.h5ad", label="cell_type", seed=4)
    assert set(again.test.names) != names[1]
    assert file_made(shop / "again.h5ad", most=20).counts.shape == (20, 60)


def test_values_that_are_no_counts_are_refused(tmp_path: Path) -> None:
    data = table(0, 30)
    data.X = data.X.log1p()
    data.write_h5ad(tmp_path / "log.h5ad")
    for take in (file_made, file_real):
        with pytest.raises(DataError, match=r"log\.h5ad is compared by its raw counts"):
            take(tmp_path / "log.h5ad")


# command line -------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sed-core", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch, real: Real) -> None:
    """PBMC3k is a few synthetic cells, and the forest a few trees."""
    monkeypatch.setattr(cell_draws, "pbmc_real", lambda: real)
    whole = cell_evaluation.compare

    def quick(*sets: Any, **options: Any) -> Any:
        return whole(*sets, **options | {"trees": 5})

    monkeypatch.setattr(cell_evaluation, "compare", quick)


@pytest.mark.usefixtures("cheap")
def test_the_command_tells_writes_and_keeps_one_table(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("SED_CHECKPOINTS", str(shop))
    command = ["evaluate", "counts", "--against", "plain", "--samples", 150, "--steps", 2]
    command += ["--no-imputation", "--out", tmp_path / "t.json", "--keep", tmp_path / "kept"]
    assert run(monkeypatch, *command, "--save") == 0
    out = capfd.readouterr().out
    assert "| CountsDiff |" in out
    assert "unconditional" in out
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["setting"]["guidance"] == 1
    assert [m["checkpoint"] for m in result["spaces"][0]["methods"]] == ["counts", "plain", ""]
    kept = hub.figures(shop / "counts")
    assert kept["recipe"] == "none"
    assert kept["targets"]
    assert "## Limits" in (shop / "counts" / "README.md").read_text()
    hub.load(shop / "counts")  # every file as the manifest says
    assert hub.vocabulary(shop / "counts") is not None


@pytest.mark.usefixtures("cheap")
def test_countsdiff_also_fills_in_unless_told_not_to(
    shop: Path, real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    given: dict[str, Any] = {}

    def imputed(model: Any, parts: Any, **options: Any) -> dict[str, Any]:
        given.update(options, genes=parts["test"].genes, family=type(model).__name__)
        options["progress"](1.0)
        row = {"name": "coverage", "wanted": "0.85 to 0.95", "got": 0.9, "met": True}
        return {"scores": [], "wins": [], "targets": [row], "options": {}, "setting": {"draws": 50}}

    monkeypatch.setattr(imputation_evaluation, "evaluate_imputation", imputed)
    monkeypatch.setattr(imputation_evaluation, "train_cell_masked", lambda *a, **options: iter(()))
    monkeypatch.setenv("SED_CHECKPOINTS", str(shop))
    command = ["evaluate", "plain", "--against", "counts", "--samples", 60, "--steps", 2]
    assert run(monkeypatch, *command, "--out", tmp_path / "t.json", "--seed", 3) == 0
    assert "#### Imputation with plain" in capfd.readouterr().out
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["imputation"]["checkpoint"] == "plain"
    assert given["genes"] == GENES[:52]
    assert (given["seed"], given["label"], given["family"]) == (3, "cell_type", "CountsDiff")
    kept = of_checkpoint(result, "plain")
    assert kept["targets"][-1]["name"] == "coverage"
    assert "imputation" not in of_checkpoint(result, "counts")
    assert "#### Imputation with plain" in cells_card("plain", kept)
    given.clear()
    assert run(monkeypatch, *command, "--no-imputation") == 0
    assert not given


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(("name", "other"), [("again.h5ad", "real.h5ad"), ("counts", "real.h5ad"),
                                             ("again.h5ad", "untyped.h5ad")])  # fmt: skip
def test_cells_are_compared_with_a_file(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: str
) -> None:
    target = tmp_path / "t.json"
    command = ["evaluate", shop / name, "--against", shop / other, "--steps", 2, "--out", target]
    assert run(monkeypatch, *command, "--samples", 100) == 0
    result = json.loads(target.read_text())
    assert result["title"] == other
    space = result["spaces"][0]
    assert space["genes"] == (52 if name == "counts" else 60)
    figures = space["methods"][0]["figures"]
    assert ("de_slope" in figures) == (other == "real.h5ad")
    if name == "again.h5ad":  # one law, another seed and another order of genes
        assert figures["scc"]["value"] > 0.9
        assert figures["mmd"]["value"] < 3 * figures["mmd"]["real"]


def test_the_command_refuses_before_any_work(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    file = shop / "real.h5ad"
    for command, words in (
        (["evaluate", file], "--against real.h5ad"),
        (["evaluate", shop / "counts", "--against", f"{file},{file}"], "got 2"),
        (["evaluate", shop / "counts", "--against", file, "--save"], "--save"),
        (["evaluate", shop / "counts", "--label", "x"], "--label"),
        (["evaluate", shop / "counts", "--out", "x.png"], "x.png"),
        (["evaluate", file, "--against", file, "--label", "nothing"], "nothing"),
    ):
        assert run(monkeypatch, *command) == 1
        assert words in capfd.readouterr().err, words
