"""Digits: whatever is not the data we know is refused in one sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from sed_core.domains import digits
from sed_core.domains.digits import DataError, Digits

Arrays = dict[str, np.ndarray]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SED_DATA, an empty cache and no network."""
    monkeypatch.setenv("SED_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def few(n: int = 5) -> Arrays:
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return {"x": images, "y": (np.arange(n) % 10).astype(np.uint8)}


def as_parquet(arrays: Arrays) -> bytes:
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    cells = []
    for image in arrays["x"]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    table = pyarrow.table({"image": cells, "label": arrays["y"].astype(np.int64)})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


# the container ----------------------------------------------------------------------------------


def test_a_batch_holds_the_levels_over_255_and_nothing_else() -> None:
    images = torch.zeros(3, 784, dtype=torch.uint8)
    images[0, 5], images[0, 700], images[2, 1] = 255, 1, 128
    batch = Digits(images, torch.tensor([0, 1, 2])).batch()
    assert batch.nnz.tolist() == [2, 0, 1]
    assert batch.pairs(0)[0].tolist() == [5, 700]
    assert torch.equal(batch.to_dense(), images.float() / 255)


@pytest.mark.parametrize("rows", [[2, 0], torch.tensor([2, 0]), slice(2, None, -2)], ids=repr)
def test_a_batch_of_some_rows(rows: list[int] | torch.Tensor | slice) -> None:
    images = torch.from_numpy(few()["x"].reshape(5, 784))[:3]
    some = Digits(images, torch.arange(3))
    if isinstance(rows, slice):
        rows = slice(0, 3, 2)
        wanted = images[[0, 2]]
    else:
        wanted = images[[2, 0]]
    assert torch.equal(some.batch(rows).to_dense(), wanted.float() / 255)


# refusals ---------------------------------------------------------------------------------------


def test_data_that_is_nowhere_says_what_to_do(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"holds no mnist\.npz.*set SED_DATA.*allow the network"):
        digits.load("mnist")
    monkeypatch.delenv("SED_DATA")
    with pytest.raises(DataError, match=r"SED_DATA is not set.*fashion_mnist_20k\.npz"):
        digits.load("fashion_mnist", "test")


def test_a_network_that_is_not_there_says_what_to_do(nowhere: Path) -> None:
    with pytest.raises(DataError, match=r"ylecun/mnist could not be fetched .*set SED_DATA"):
        digits.load("mnist", "test", allow_network=True)


def test_another_file_of_that_name_is_refused(nowhere: Path) -> None:
    arrays = few()
    np.savez(nowhere / "mnist.npz", x_test=arrays["x"], y_test=arrays["y"])
    with pytest.raises(
        DataError, match=r"mnist\.npz is not the one we know: wanted sha256 57b5755"
    ):
        digits.load("mnist", "test")


def test_an_unknown_name_or_split_is_refused() -> None:
    with pytest.raises(DataError, match="one of mnist, fashion_mnist, got 'cifar'"):
        digits.load("cifar")
    with pytest.raises(DataError, match="train or test, got 'valid'"):
        digits.load("mnist", "valid")


# the official source, as its cached file looks --------------------------------------------------


@pytest.fixture
def cached(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a file where the cache of the official source would have it."""
    file = nowhere / "train.parquet"
    monkeypatch.setattr(digits, "_in_cache", lambda source, split: file)
    return file


def test_the_cached_official_file_is_decoded_cut_and_checked(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = few(7)
    cached.write_bytes(as_parquet(arrays))
    known = digits.content_hash(arrays["x"][:5], arrays["y"][:5])
    source = digits._SOURCES["mnist"]
    small = digits._Source(
        source.file, source.sha256, source.repo, source.parquet, {"train": known}, {"train": 5}
    )
    monkeypatch.setitem(digits._SOURCES, "mnist", small)
    got = digits.load("mnist", "train")
    assert torch.equal(got.images, torch.from_numpy(arrays["x"][:5].reshape(5, 784)))
    assert got.labels.tolist() == [0, 1, 2, 3, 4]


def test_a_cached_file_with_other_pictures_is_refused(cached: Path) -> None:
    cached.write_bytes(as_parquet(few()))
    with pytest.raises(DataError, match=r"ylecun/mnist \(train\) is not the one we know"):
        digits.load("mnist")


def test_a_damaged_cached_file_is_refused(cached: Path) -> None:
    cached.write_bytes(as_parquet(few())[:-20])
    with pytest.raises(DataError, match="no readable copy of ylecun/mnist"):
        digits.load("mnist")


# the real thing ---------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "n", "zeros"),
    [
        ("mnist", "train", 60_000, 0.809),
        ("mnist", "test", 10_000, 0.807),
        ("fashion_mnist", "train", 20_000, 0.502),
        ("fashion_mnist", "test", 10_000, 0.500),
    ],
)
def test_the_real_sets(name: str, split: str, n: int, zeros: float) -> None:
    some = digits.load(name, split)
    assert some.images.shape == (n, 784)
    assert (some.images == 0).float().mean().item() == pytest.approx(zeros, abs=0.003)
    assert some.labels.unique().tolist() == list(range(len(digits.CLASS_NAMES[name])))
    known = digits._SOURCES[name].content[split]
    assert digits.content_hash(some.images.numpy(), some.labels.byte().numpy()) == known
