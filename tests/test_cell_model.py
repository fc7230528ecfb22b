"""Cells in, a model, cells out: names in order, whole counts, chance that knows no chunks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import small
import torch

from sed_core import cell_training, hub
from sed_core.baselines.nbvae import NBVAEConfig, NegativeBinomialVAE
from sed_core.cell_imputation import rows_at_once
from sed_core.cell_model import CellModel
from sed_core.cell_training import chosen_cells, mark, sized, train_cells
from sed_core.chance import seeded, split
from sed_core.domains.cell_rows import FileRows
from sed_core.domains.cells import Cells, DataError, setup_anndata
from sed_core.stages import Stage
from sed_core.store import CheckpointError
from sed_core.vocabulary import GeneVocabulary

CELLS, GENES = 24, tuple(f"G{k}-{'ab'[k % 2]}" for k in range(14))
TYPES = ("T cells", "B")
FEW = {
    "sed": {name: Stage(2, rows=8, lr=1e-3) for name in ("draft", "savae", "latent")},
    "counts": {"counts": Stage(3, rows=8, lr=1e-2)},
}


def counts(seed: int = 0) -> np.ndarray:
    """About half zeros; every gene and every cell has something."""
    chance = np.random.default_rng(seed)
    found = chance.poisson(4, (CELLS, len(GENES))) * (chance.random((CELLS, len(GENES))) < 0.5)
    found[:, 0] += 1
    found[0] += 1
    return found


def adata(matrix: np.ndarray | None = None, **more: Any) -> anndata.AnnData:
    """Labelled cells, of which the last one's type is not known."""
    matrix = counts() if matrix is None else matrix
    types = pd.Categorical([*(["T cells", "B"] * CELLS)[: CELLS - 1], None], categories=TYPES)
    obs = pd.DataFrame({"cell_type": types}, index=[f"cell {k}" for k in range(CELLS)])
    sparse = scipy.sparse.csr_matrix(matrix.astype(np.float32))
    return anndata.AnnData(sparse, obs=obs, var=pd.DataFrame(index=list(GENES)), **more)


def in_float32(device: torch.device) -> str:
    """To try which precision is faster takes longer than to train so little."""
    return "float32"


def train(data: Any, out: Path, family: Any = "counts", **options: Any) -> CellModel:
    options = {"label": "cell_type", "plan": FEW[family], **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sed_core.training.best_precision", in_float32)
        for _ in CellModel.training(data, family=family, out=out, device="cpu", **options):
            pass
    return CellModel.load(out / "checkpoint", device="cpu")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CellModel]:
    """A model of each family, hardly trained."""
    folder = tmp_path_factory.mktemp("models")
    return {family: train(adata(), folder / family, family) for family in FEW}


def weights(model: CellModel) -> dict[str, torch.Tensor]:
    return model.model.state_dict()


# -- training --------------------------------------------------------------------------------------


def test_a_trained_model_knows_its_names(both: dict[str, CellModel]):
    for found in both.values():
        assert found.genes == GENES and found.label == "cell_type" and found.labels == TYPES
        assert found.model.classes == 2 and found.metrics["training"]["seed"] == 0


@pytest.mark.parametrize("family", FEW)
def test_a_file_that_stays_on_disk_trains_the_same_model(
    family: str, both: dict[str, CellModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each step reads its batch by rows; what reads more does so by a constant number of rows."""
    adata().write_h5ad(tmp_path / "a.h5ad")
    cells = setup_anndata(tmp_path / "a.h5ad", label="cell_type", memory=False)
    asked, read = list[int](), FileRows.csr
    monkeypatch.setattr(
        FileRows, "csr", lambda self, rows: asked.append(len(rows)) or read(self, rows)
    )
    found = train(cells, tmp_path / "run", family)
    for name, part in weights(both[family]).items():
        assert torch.equal(weights(found)[name], part), name
    batches = [n for n in asked if 1 < n < CELLS]  # 8 rows, more of them where they are short
    assert len(batches) == {"sed": 4, "counts": 3}[family] and max(batches) <= 16


@pytest.mark.parametrize("family", FEW)
def test_without_a_label_there_is_none(family: str, tmp_path: Path):
    data = adata()
    data.X = scipy.sparse.csr_array(data.X)  # another of the forms that anndata holds
    found = train(data, tmp_path, family, label=None)
    assert (found.label, found.labels, found.model.classes) == (None, (), 0)
    assert "cell_type" not in found.sample(2, steps=2).obs


def test_genes_are_chosen_where_asked_or_needed(monkeypatch: pytest.MonkeyPatch):
    cells = setup_anndata(adata())
    assert chosen_cells(cells, "sed").genes == GENES == chosen_cells(cells, "counts").genes
    five = cells.most_variable(5).genes
    assert chosen_cells(cells, "sed", genes=5).genes == five
    monkeypatch.setitem(cell_training.PANEL, "counts", 5)
    assert chosen_cells(cells, "counts").genes == five
    assert chosen_cells(cells, "sed").genes == GENES


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"label": "tissue"}, "bring no label 'tissue'"),
        ({"genes": 99}, "n must be 1 to"),
        ({"minutes": 1.0, "steps": 5}, "not both"),
        ({"minutes": float("nan")}, "minutes must be"),
        ({"steps": 0}, "steps must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_what_can_not_be_trained_is_refused(options: dict, match: str, tmp_path: Path):
    cells = setup_anndata(adata())
    with pytest.raises(ValueError, match=match):
        next(train_cells(cells, **{"family": "counts", "out": tmp_path / "run", **options}))
    assert not (tmp_path / "run").exists()


def test_normalised_values_are_refused(tmp_path: Path):
    data = adata()
    data.X = data.X / 3
    with pytest.raises(DataError, match="trained on raw counts; X holds normalised values"):
        next(CellModel.training(data, family="sed", out=tmp_path))


def test_a_folder_belongs_to_one_run(tmp_path: Path):
    asked = {"family": "counts", "label": "cell_type", "out": tmp_path, "device": "cpu"}
    cells = setup_anndata(adata(), label="cell_type")
    moves = train_cells(cells, steps=4, **asked)
    next(moves)
    moves.close()
    assert [move.step for move in train_cells(cells, steps=4, **asked)][-1] == 4
    for other in ({"steps": 5}, {"steps": 4, "seed": 1}, {"steps": 4, "label": None}):
        with pytest.raises(ValueError, match="holds a run with another"):
            next(train_cells(cells, **{**asked, **other}))
    with pytest.raises(ValueError, match="another data"):
        next(train_cells(cells.part(range(20)), steps=4, **asked))


def test_a_mark_tells_data_apart():
    one = setup_anndata(adata(), label="cell_type")
    assert mark(one) == mark(setup_anndata(adata(), label="cell_type"))
    others = [one.part(range(CELLS - 1)), one.part(range(CELLS)[::-1]), one.with_genes(GENES[1:])]
    others += [setup_anndata(adata(counts(1)), label="cell_type"), setup_anndata(adata())]
    assert len({mark(one), *map(mark, others)}) == 6


def test_steps_keep_their_proportions():
    plan = {"a": Stage(3_000, 8, 1e-3), "b": Stage(1_000, 4, 1e-2)}
    assert sized(plan, 400) == {"a": Stage(300, 8, 1e-3), "b": Stage(100, 4, 1e-2)}
    assert sized(plan, 2) == {"a": Stage(2, 8, 1e-3), "b": Stage(1, 4, 1e-2)}


def test_minutes_become_steps_by_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A clock on which a step of a takes 1 s and one of b 4 s."""
    now, plan = [0.0], {"a": Stage(600, 8, 1e-3), "b": Stage(150, 8, 1e-3)}

    def trainer(name: str, cells: Cells, asked: Any, run: Any, command: str, *, label: Any) -> Any:
        for stage, size in asked.items():
            now[0] += 50  # between stages
            for step in range(1, size.steps + 1):
                now[0] += {"a": 1.0, "b": 4.0}[stage]
                yield type("Move", (), {"stage": stage, "step": step})

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setitem(cell_training.TRAINERS, "counts", trainer)
    monkeypatch.setitem(cell_training.PLANS, "counts", {"cpu": plan})
    cells, asked = setup_anndata(adata()), {"family": "counts", "out": tmp_path, "device": "cpu"}
    for _ in range(2):  # the second time as it was stored
        moves = list(train_cells(cells, minutes=2, **asked))
        done = {stage: sum(move.stage == stage for move in moves) for stage in plan}
        assert done == {"a": 60, "b": 15}  # 60 x 1 s + 15 x 4 s
        monkeypatch.setattr(cell_training, "timed", None)


# -- checkpoints -----------------------------------------------------------------------------------


def test_saved_again_it_is_the_same(both: dict[str, CellModel], tmp_path: Path):
    for family, found in both.items():
        found.save(tmp_path / family)
        again = CellModel.load(tmp_path / family, device="cpu")
        assert again.vocabulary == found.vocabulary and again.metrics == found.metrics
        for name, part in weights(found).items():
            torch.testing.assert_close(weights(again)[name], part, rtol=0, atol=1e-6)


def test_a_checkpoint_without_genes_is_no_model_of_cells(tmp_path: Path):
    hub.save(small.countsdiff(5), tmp_path / "a", metrics={}, card="", recipe="none")
    with pytest.raises(CheckpointError, match="names no genes"):
        CellModel.load(tmp_path / "a")


def test_names_are_as_many_as_the_model_has():
    with pytest.raises(ValueError, match="5 dimensions, got 3 genes"):
        CellModel(small.countsdiff(5, classes=0), GeneVocabulary(("a", "b", "c")))
    with pytest.raises(ValueError, match="3 classes, got 2 labels"):
        CellModel(small.countsdiff(2, classes=3), GeneVocabulary(("a", "b"), "x", ("u", "v")))


# -- new cells -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FEW)
def test_samples_are_cells_as_anndata(family: str, both: dict[str, CellModel]):
    with small.untouched_global_chance():
        found = both[family].sample(5, label="B", steps=3, seed=7)
    assert tuple(found.var_names) == GENES and found.X.dtype == np.float32
    assert found.layers["counts"].dtype == np.int32
    assert (found.layers["counts"] != found.X).nnz == 0 and found.X.nnz > 0
    assert found.obs["cell_type"].tolist() == ["B"] * 5
    assert tuple(found.obs["cell_type"].cat.categories) == TYPES
    assert found.obs["sed_source"].tolist() == ["generated"] * 5
    recipe = json.loads(found.uns["sed_recipe"])
    asked = {"n": 5, "label": "B", "steps": 3, "seed": 7, "guidance": 1.0}
    assert asked.items() <= recipe.items()
    assert recipe["weights_sha256"] == both[family].origin["weights_sha256"]


@pytest.mark.parametrize("family", FEW)
def test_a_cell_does_not_depend_on_its_chunk(family: str, both: dict[str, CellModel]):
    asked = {"label": [0, 1, "B", None, "T cells"], "steps": 3, "seed": 5}
    whole = both[family].sample(5, **asked).X.toarray()
    for size in (1, 2, 3):
        assert np.array_equal(both[family].sample(5, size=size, **asked).X.toarray(), whole)
    asked["label"] = asked["label"][:4]
    assert np.array_equal(both[family].sample(4, **asked).X.toarray(), whole[:4])
    later = list(both[family].chunks(4, first=3, **asked))
    assert np.array_equal(later[0].to_dense().numpy(), whole[3:4])
    assert not np.array_equal(both[family].sample(4, **{**asked, "seed": 6}).X.toarray(), whole[:4])


def test_rows_are_those_of_the_family(both: dict[str, CellModel]):
    found, chance = both["counts"], split(seeded(3), 4)
    rows = found.rows(4, label=[1, 0, "B", None], steps=3, guidance=2.0, generator=chance)
    numbers, again = torch.tensor([1, 0, 1, 2]), split(seeded(3), 4)
    model: Any = found.model
    own = model.sample(4, label=numbers, steps=3, guidance=2.0, generator=again)
    assert torch.equal(rows.to_dense().long(), own)


@pytest.mark.parametrize(
    ("label", "match"),
    [
        ("NK", r"no label 'NK'; the model knows T cells, B \(0 to 1\)"),
        (2, "no label 2"),
        (True, "no label True"),
        ([0, "NK", 1], "no label 'NK'"),
        ([0, 1], "3 cells but 2 labels"),
    ],
)
def test_labels_that_are_not_known_are_refused(label: Any, match: str, both: dict[str, CellModel]):
    with pytest.raises(ValueError, match=match):
        both["counts"].sample(3, label=label, steps=2)


def test_a_dense_family_is_rounded_to_counts_and_one_without_steps_has_none():
    vocabulary = GeneVocabulary(GENES, "cell_type", TYPES)
    dense = CellModel(small.ldm(len(GENES), classes=2), vocabulary)
    value = dense.rows(6, steps=2, generator=seeded(0)).value
    assert bool((value == value.round()).all()) and bool((value >= 0).all())
    with torch.random.fork_rng():
        vae = NegativeBinomialVAE(NBVAEConfig(dim=len(GENES), classes=2, width=8)).eval()
    assert CellModel(vae, vocabulary).sample(3, label="B").X.shape == (3, len(GENES))
    with pytest.raises(ValueError, match="has no guidance"):
        CellModel(vae, vocabulary).sample(3, label="B", guidance=2.0)


def test_values_that_are_no_counts_are_refused_as_cells():
    found = CellModel(small.sed(len(GENES), classes=0), GeneVocabulary(GENES))
    assert bool((found.rows(3, steps=2, generator=seeded(0)).value % 1 != 0).any())
    with pytest.raises(ValueError, match="its cells are no counts"):
        found.sample(3, steps=2)


# -- given cells -----------------------------------------------------------------------------------


def test_latents_are_those_of_the_model_whatever_the_order_of_genes(both: dict[str, CellModel]):
    data, found = adata(), both["sed"]
    latent = found.get_latent_representation(data, size=5)
    model: Any = found.model
    mu, _ = model.encode(setup_anndata(data).rows())
    assert latent.dtype == np.float32 and latent.shape == (CELLS, model.denoiser.config.latent)
    np.testing.assert_allclose(latent, mu.detach().numpy(), atol=1e-5)
    turned = data[:, list(GENES[::-1])].copy()
    np.testing.assert_allclose(found.get_latent_representation(turned), latent, atol=1e-5)
    with pytest.raises(DataError, match="1 of the 14 genes wanted are not in the file: G3-b"):
        found.get_latent_representation(data[:, [g for g in GENES if g != "G3-b"]].copy())
    with pytest.raises(ValueError, match="CountsDiff has no latent"):
        both["counts"].get_latent_representation(data)


def hidden_entries(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((CELLS, len(GENES))) < 0.4


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
def test_what_is_known_comes_back_exactly(both: dict[str, CellModel], form: Callable[..., Any]):
    hidden, found = hidden_entries(), both["counts"]
    spoilt = np.where(hidden, 999, counts())  # what stands in a gap is not looked at
    filled = found.impute(adata(spoilt), hidden=form(hidden), draws=6, steps=3, seed=2)
    x, layers = filled.X.toarray(), {k: v.toarray() for k, v in filled.layers.items()}
    assert np.array_equal(x[~hidden], counts()[~hidden])
    assert np.array_equal(layers["observed"], ~hidden)
    for name in ("mean", "lower", "upper"):
        assert np.array_equal(layers[name][~hidden], counts()[~hidden])
    assert (layers["sd"][~hidden] == 0).all() and (layers["sd"][hidden] > 0).any()
    assert (layers["lower"] <= layers["mean"]).all() and (layers["mean"] <= layers["upper"]).all()
    assert list(filled.obs_names) == [f"cell {k}" for k in range(CELLS)]
    model: Any = found.model
    chance = split(split(seeded(2), 2)[1], CELLS)
    own = model.impute(
        torch.tensor(counts()), torch.tensor(~hidden), draws=6, steps=3, generator=chance
    )
    assert np.array_equal(x, own[0].numpy())
    np.testing.assert_allclose(layers["mean"], own.double().mean(0).numpy(), rtol=1e-5)


def test_genes_of_given_cells_are_found_by_name(both: dict[str, CellModel]):
    hidden, order = hidden_entries(), list(range(len(GENES)))[::-1]
    data = adata()[:, [GENES[k] for k in order]].copy()
    one = both["counts"].impute(data, hidden=hidden[:, order], draws=2, steps=3)
    other = both["counts"].impute(adata(), hidden=hidden, draws=2, steps=3)
    assert tuple(one.var_names) == GENES and np.array_equal(one.X.toarray(), other.X.toarray())
    with pytest.raises(DataError, match=r"wanted \(24, 14\), got \(24, 13\)"):
        both["counts"].impute(adata(), hidden=hidden[:, 1:])


def test_zeros_are_what_is_missing_unless_said_otherwise(both: dict[str, CellModel]):
    filled = both["counts"].impute(adata(), draws=3, steps=3, label="own")
    known = counts() > 0
    assert np.array_equal(filled.layers["observed"].toarray(), known)
    assert np.array_equal(filled.X.toarray()[known], counts()[known])
    assert filled.obs["cell_type"].equals(adata().obs["cell_type"])
    assert json.loads(filled.uns["sed_recipe"])["missing"] == "zeros"
    with pytest.raises(ValueError, match="SED can't impute"):
        both["sed"].impute(adata(), draws=2)


def test_filling_does_not_depend_on_the_chunk(both: dict[str, CellModel]):
    asked = {"hidden": hidden_entries(), "draws": 3, "steps": 3, "seed": 4}
    whole = both["counts"].impute(adata(), **asked)
    parts = both["counts"].impute(adata(), size=5, **asked)
    for name in ("mean", "sd", "counts"):
        assert (whole.layers[name] != parts.layers[name]).nnz == 0


def test_memory_of_filling_is_bounded():
    for draws, dim in ((1, 50), (10, 2_000), (50, 13_714), (1_000, 30_000)):
        rows = rows_at_once(draws, dim)
        assert rows == 1 or (rows * draws <= 256 and rows * draws * dim <= 1 << 22)
