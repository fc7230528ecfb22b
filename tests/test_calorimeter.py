"""Calorimeter windows: splits keep events whole, copies keep energies, odd files are refused."""

import builtins
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from sed_core.chance import seeded
from sed_core.domains import calorimeter, digits
from sed_core.domains.calorimeter import SIDE, DataError, Showers, augmented, load, load_images
from tests.small import untouched_global_chance

seeds = st.integers(0, 2**31)


def showers(seed: int = 0, n: int = 5, share: float = 0.1) -> Showers:
    """Random windows with a hit in about one cell of ten."""
    chance = seeded(seed)
    hit = torch.rand(n, SIDE**2, generator=chance) < share
    energy = torch.rand(n, SIDE**2, generator=chance) + 0.01
    return Showers(energy * hit, torch.arange(n) % 5)


def one_hit(row: int, column: int) -> Showers:
    energy = torch.zeros(1, SIDE, SIDE)
    energy[0, row, column] = 2.5
    return Showers(energy.flatten(1), torch.tensor([1]))


def images(some: Showers) -> torch.Tensor:
    return some.energy.view(-1, SIDE, SIDE)


# the container ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, [3, 0], torch.tensor([3, 0]), slice(1, 3)], ids=repr)
def test_a_batch_holds_the_energies_as_they_are(rows: Any) -> None:
    some = showers()
    wanted = some.energy if rows is None else some.energy[rows]
    assert len(some) == 5
    assert torch.equal(some.batch(rows).to_dense(), wanted)


# splits -----------------------------------------------------------------------------------------


@given(seeds, st.lists(st.integers(0, 30), min_size=1, max_size=200))
def test_splits_are_disjoint_complete_and_keep_events_whole(seed: int, events: list[int]) -> None:
    event = np.array(events)
    parts = [calorimeter._rows(event, *share, seed=seed) for share in calorimeter._SPLITS.values()]
    assert sorted(torch.cat(parts).tolist()) == list(range(len(event)))
    sets = [set(event[part.numpy()].tolist()) for part in parts]
    assert sum(map(len, sets)) == len(set(events))
    largest = np.bincount(event).max()  # an event that is cut goes to the side where it begins
    assert abs(len(parts[0]) - 0.8 * len(event)) <= largest
    again = calorimeter._rows(event, 0.0, 0.8, seed=seed)
    assert torch.equal(again, parts[0])


def test_another_seed_deals_other_events() -> None:
    event = np.arange(100)
    one, two = (calorimeter._rows(event, 0.9, 1.0, seed=seed).tolist() for seed in (0, 1))
    assert one != two


# copies -----------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 4), st.integers(0, 31))
def test_copies_keep_every_window_s_energies_and_hits(seed: int, copies: int, shift: int) -> None:
    some = showers(seed % 7)
    with untouched_global_chance():
        more = augmented(some, copies=copies, generator=seeded(seed), shift=shift)
    assert torch.equal(more.energy[: len(some)], some.energy)
    assert torch.equal(more.labels, some.labels.repeat(copies))
    wanted = some.energy.sort(1).values.repeat(copies, 1)
    assert torch.equal(more.energy.sort(1).values, wanted)
    assert torch.equal(more.batch().nnz, some.batch().nnz.repeat(copies))


@given(seeds)
def test_the_same_generator_makes_the_same_copies_and_fewer_are_the_first(seed: int) -> None:
    some = showers()
    long, same = (augmented(some, copies=4, generator=seeded(seed)) for _ in range(2))
    short = augmented(some, copies=2, generator=seeded(seed))
    assert torch.equal(long.energy, same.energy)
    assert torch.equal(long.energy[: len(short)], short.energy)


def test_mirrors_are_the_four_of_a_window_and_leave_the_centre_where_it_is() -> None:
    window = one_hit(12, 20)  # three rows above and four columns right of the central crystal
    found = images(augmented(window, copies=60, generator=seeded(0), shift=0)).nonzero()
    assert {(r, c) for _, r, c in found.tolist()} == {(12, 20), (18, 20), (12, 12), (18, 12)}
    middle = augmented(one_hit(15, 16), copies=20, generator=seeded(0), shift=0)
    assert (images(middle)[:, 15, 16] > 0).all()
    corner = augmented(one_hit(0, 0), copies=60, generator=seeded(0), shift=0, centre=(15.5, 15.5))
    found = images(corner).nonzero()
    assert {(r, c) for _, r, c in found.tolist()} == {(0, 0), (0, 31), (31, 0), (31, 31)}


def test_shifts_move_in_phi_only_as_far_as_allowed_and_wrap() -> None:
    found = images(augmented(one_hit(15, 16), copies=200, generator=seeded(0), shift=2)).nonzero()
    assert set(found[:, 1].tolist()) == {13, 14, 15, 16, 17}
    assert set(found[:, 2].tolist()) == {16}
    edge = images(augmented(one_hit(31, 16), copies=200, generator=seeded(0))).nonzero()
    assert set(edge[:, 1].tolist()) == {30, 31, 0}
    rows = torch.bincount(found[:, 1])[13:]
    assert rows.min() > 20  # 40 expected of each, a standard deviation is 6


def test_windows_of_one_copy_move_independently() -> None:
    same = Showers(one_hit(12, 20).energy.repeat(64, 1), torch.zeros(64, dtype=torch.int64))
    moved = augmented(same, copies=2, generator=seeded(0)).energy[64:]
    assert len(moved.unique(dim=0)) == 12  # four mirrors at three shifts


def test_impossible_copies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"copies must be at least 1 .*, got 0"):
        augmented(showers(), copies=0, generator=seeded(0))
    with pytest.raises(ValueError, match="shift must be 0 to 31 cells, got 32"):
        augmented(showers(), copies=2, generator=seeded(0), shift=32)


# the file ---------------------------------------------------------------------------------------


def test_missing_windows_say_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SED_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"holds no cms_ecal\.npz.*opendata\.cern\.ch"):
        load()
    monkeypatch.delenv("SED_DATA")
    with pytest.raises(DataError, match="SED_DATA is not set; set SED_DATA to the folder"):
        load("test")


def test_another_or_a_damaged_file_and_an_unknown_split_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SED_DATA", str(tmp_path))
    np.savez(tmp_path / "cms_ecal.npz", x=np.zeros((2, 32, 32)), y=np.zeros(2), meta=np.zeros(2))
    with pytest.raises(DataError, match=r"is not the one we know: wanted sha256 4fcbf81f5524"):
        load()
    with pytest.raises(DataError, match="one of train, val, test, got 'valid'"):
        load("valid")


def test_a_known_file_without_its_arrays_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, x=np.zeros((1, 32, 32), np.float32))
    for data in (file.getvalue(), file.getvalue()[:-9], b"nothing"):
        with pytest.raises(DataError, match="holds no readable x, y and meta; copy it again"):
            calorimeter._decode(data, Path("cms_ecal.npz"))


def test_one_data_error_for_every_domain() -> None:
    assert digits.DataError is DataError
    assert issubclass(DataError, ValueError)


# the real windows -------------------------------------------------------------------------------


@pytest.mark.data
def test_the_real_windows() -> None:
    train, val, test = (load(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (2043, 245, 254)  # 80.4, 9.6 and 10.0 %
    every = torch.cat([part.energy for part in (train, val, test)])
    assert len(every.unique(dim=0)) == 2542  # so no window is in two sets
    assert (every == 0).double().mean().item() == pytest.approx(0.966902, abs=1e-6)
    assert (every != 0).sum(1).double().mean().item() == pytest.approx(33.89, abs=0.01)
    assert (every >= 0).all()
    assert every.max().item() == pytest.approx(250.628, abs=1e-3)
    for part in (train, val, test):
        assert part.labels.unique().tolist() == list(range(len(calorimeter.CLASS_NAMES)))
        assert torch.equal(part.batch().to_dense(), part.energy)


@pytest.mark.data
def test_the_real_split_keeps_events_whole_and_belongs_to_its_seed() -> None:
    arrays = real()
    event = arrays["meta"][:, 0].astype(int)
    numbers = np.stack([arrays["events_run"], arrays["events_number"]], 1)
    assert len(np.unique(numbers, axis=0)) == len(numbers)  # an event of the file is one collision
    sets = [
        set(event[calorimeter._rows(event, *share, seed=3).numpy()].tolist())
        for share in calorimeter._SPLITS.values()
    ]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert torch.equal(load("val", seed=3).energy, load("val", seed=3).energy)
    assert not torch.equal(load("val", seed=3).energy[:200], load("val", seed=4).energy[:200])


@pytest.mark.data
def test_rows_are_falling_phi_and_columns_rising_eta_of_the_whole_event() -> None:
    arrays = real()
    parts = (arrays[f"events_{name}"] for name in ("data", "indices", "indptr"))
    maps = scipy.sparse.csr_matrix(tuple(parts), shape=(906, 170 * 360))
    ours = calorimeter._decode(file().read_bytes(), file())[0].view(-1, SIDE, SIDE)
    for k in range(0, len(ours), 50):
        event, _, eta, phi = arrays["meta"][k]
        whole = maps[int(event)].toarray().reshape(170, 360)  # eta x phi, both rising
        column = np.floor(eta / np.radians(1) + 85).astype(int) + np.arange(SIDE) - 16
        row = np.floor(np.degrees(phi)).astype(int) + 10 - (np.arange(SIDE) - 15)
        wanted = whole[column[None, :], row[:, None] % 360]
        assert torch.equal(ours[k], torch.from_numpy(wanted))


@pytest.mark.data
def test_electrons_spread_in_phi_because_the_field_bends_them() -> None:
    train = load()
    energy = images(train)[train.labels == calorimeter.CLASS_NAMES.index("electron")]
    place = torch.arange(SIDE).double()
    across = {}
    for name, axis in (("phi", 2), ("eta", 1)):
        hits = (energy > 0).sum(axis).double()
        mean = (hits * place).sum(1, keepdim=True) / hits.sum(1, keepdim=True)
        across[name] = ((hits * (place - mean) ** 2).sum(1) / hits.sum(1)).sqrt().mean().item()
    assert across["phi"] > 1.15 * across["eta"]


@pytest.mark.data
def test_copies_of_the_real_windows_keep_their_counts() -> None:
    val = load("val")
    more = augmented(val, copies=3, generator=seeded(0))
    assert len(more) == 3 * len(val)
    assert more.batch().sparsity == pytest.approx(val.batch().sparsity, abs=1e-12)
    for copy in more.energy.split(len(val)):
        torch.testing.assert_close(copy.sum(1), val.energy.sum(1), rtol=1e-5, atol=0)


def file() -> Path:
    found = calorimeter.in_folder("cms_ecal.npz")
    assert found
    return found


def real() -> dict[str, Any]:
    with np.load(file(), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


# a user's images --------------------------------------------------------------------------------


def some_images(n: int = 3) -> np.ndarray:
    return images(showers(n=n)).numpy()


def write(path: Path, **arrays: Any) -> Path:
    """The arrays as the file that its name promises."""
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".npy":
        np.save(path, next(iter(arrays.values())))
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as out:
            for name, array in arrays.items():
                out.create_dataset(name, data=array, compression="gzip" if np.ndim(array) else None)
    return path


KINDS = ["a.npz", "a.npy", "a.h5", "a.HDF5"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, ">f4"])
def test_images_of_every_kind_come_back(tmp_path: Path, name: str, dtype: Any) -> None:
    wanted = (some_images() * 20).astype(dtype)
    got = load_images(write(tmp_path / name, x=wanted))
    assert torch.equal(images(got), torch.from_numpy(wanted.astype(np.float32)))
    assert got.labels.tolist() == [0, 0, 0]
    flat = load_images(str(write(tmp_path / name, x=wanted.reshape(3, -1))))
    assert torch.equal(flat.energy, got.energy)


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_the_array_is_the_one_shaped_like_images_or_the_one_named(
    tmp_path: Path, name: str
) -> None:
    one, two = some_images(2), some_images(4)
    path = write(tmp_path / name, y=np.arange(2), x=one)
    assert len(load_images(path)) == 2
    path = write(tmp_path / name, x=one, more=two)
    assert len(load_images(path, key="more")) == 4
    with pytest.raises(DataError, match=r"or key= must name it; it holds .*more \(4, 32, 32\)"):
        load_images(path)
    with pytest.raises(DataError, match="holds no array 'z'; it holds"):
        load_images(path, key="z")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "NaN, infinite or beyond"),
        (np.inf, "NaN, infinite or beyond"),
        (1e300, "NaN, infinite or beyond"),
        (-0.5, "a negative energy"),
    ],
)
def test_what_is_no_energy_is_refused_by_its_row(
    tmp_path: Path, name: str, value: float, said: str
) -> None:
    bad = some_images().astype(np.float64)
    bad[1, 4, 5] = value
    with pytest.raises(DataError, match=rf"image 1 \(from 0\) of .* has .*{said}"):
        load_images(write(tmp_path / name, x=bad))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 28, 28)), np.zeros((32, 32)), np.zeros((3, 32, 32), "c8"), np.array(1.0)],
    ids=["28", "one", "complex", "scalar"],
)
def test_other_shapes_are_refused(tmp_path: Path, name: str, array: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"must hold one array of numbers shaped \(n, 32, 32\)"):
        load_images(write(tmp_path / name, x=array))


@pytest.mark.parametrize("name", KINDS)
def test_no_images_and_too_many_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="has 0 images"):
        load_images(write(tmp_path / name, x=np.zeros((0, 32, 32))))
    monkeypatch.setattr(calorimeter, "MOST_IMAGES", 2)
    with pytest.raises(DataError, match="has 3 images; 1 to 2 are read, save a part"):
        load_images(write(tmp_path / name, x=some_images()))


def test_a_gigantic_file_is_refused_by_its_header(tmp_path: Path) -> None:
    out = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 32, 32)}
    np.lib.format.write_array_header_1_0(out, shape)
    (tmp_path / "a.npy").write_bytes(out.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", out.getvalue() + bytes(10**6))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="has 1,000,000,000,000 images"):
            load_images(tmp_path / name)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / name, x=some_images(40)).read_bytes()
    path = tmp_path / f"bad{Path(name).suffix}"
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cannot be read|must hold one array"):
            load_images(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 1024), {"a": 1}, dtype=object))
    with pytest.raises(DataError, match="must hold one array of numbers"):
        load_images(tmp_path / "a.npy")


def test_links_out_of_an_hdf5_file_are_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    write(tmp_path / "other.h5", x=some_images())
    (tmp_path / "raw").write_bytes(bytes(4096 * 3))
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["x"] = h5py.ExternalLink("other.h5", "x")
        out.create_dataset("raw", (3, 32, 32), "f4", external=[(str(tmp_path / "raw"), 0, 12288)])
        layout = h5py.VirtualLayout((3, 32, 32), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3, 32, 32))
        out.create_virtual_dataset("virtual", layout)
    with pytest.raises(DataError, match="it holds no array"):
        load_images(tmp_path / "a.h5")
    for key in ("x", "raw", "virtual"):
        with pytest.raises(DataError, match=f"holds no array '{key}'"):
            load_images(tmp_path / "a.h5", key=key)


def test_other_kinds_missing_files_and_missing_h5py_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"from \.npz, \.npy, \.h5 or \.hdf5 files, got a\.csv"):
        load_images(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"there is no file .*a\.npy"):
        load_images(tmp_path / "a.npy")
    path = tmp_path / "a.h5"
    path.write_bytes(b"x")
    real_import = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "h5py":
            raise ImportError(name="h5py")
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="needs h5py: install it"):
        load_images(path)
