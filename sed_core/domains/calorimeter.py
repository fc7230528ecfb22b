"""Calorimeter windows: 32 x 32 cells of energy in GeV, about 97 % of them exactly zero.

The measured ones are cut from real LHC collisions of 2010 to 2012 around jets, electrons, photons,
muons and unmatched clusters: transverse energy in the crystals of the CMS barrel, 0.01745 wide in
eta and phi (a degree). They are read from the folder in SED_DATA and checked against a sha256 on
every read; no hub serves them. Rows are phi, the first row the largest; columns are eta, ascending.
The crystal that holds the object is the one of row 15, column 16.
"""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float32, Int64
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from sed_core.chance import seeded
from sed_core.domains.source import DataError, in_folder, looked, read_known
from sed_core.sparse import Rows, SparseBatch

SIDE = 32
CLASS_NAMES = ("jet", "electron", "photon", "muon", "cluster")
TITLE = "CMS calorimeter windows"
CREDIT = "CMS collaboration, CERN Open Data, CC0"
CENTRE = (15.0, 16.0)  # row and column of the crystal that a measured window is cut around
MOST_IMAGES = 100_000  # of a user's file: 0.4 GB once read

_FILE = "cms_ecal.npz"
_SHA256 = "4fcbf81f5524b2ce28061afbb5a9759a8f2dd61cea7f8e28fda58053f5a9a316"
_SPLITS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}
_FORMATS = ".npz, .npy, .h5 or .hdf5"


@dataclass(frozen=True, eq=False)
class Showers:
    """Windows as rows of 1,024 energies in GeV (phi by phi, eta within), and the class of each."""

    energy: Float32[Tensor, "n 1024"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Rows | None = None) -> SparseBatch:
        """The (cell, GeV) pairs of all rows, or of those asked for."""
        rows = slice(None) if rows is None else rows
        return SparseBatch.from_dense(
            self.energy[rows if isinstance(rows, slice | Tensor) else list(rows)]
        )


# the measured windows ---------------------------------------------------------------------------


def load(split: str = "train", *, seed: int = 0) -> Showers:
    """The measured windows of one split (80 % train, 10 % val, 10 % test), in file order.

    The split deals out whole collision events (one run and event number each): windows of one
    event overlap now and then, so none of them may be trained on and another tested on.

    Raises:
        DataError: where the file is nowhere to be found, or is not the one we know.
    """
    if split not in _SPLITS:
        raise DataError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    file = in_folder(_FILE)
    if file is None:
        raise DataError(_missing())
    energy, labels, events = _decode(read_known(file, _SHA256), file)
    rows = _rows(events, *_SPLITS[split], seed=seed)
    return Showers(energy[rows], labels[rows])


def _missing() -> str:
    return (
        f"the CMS calorimeter windows are not on this machine: {looked(_FILE)}; set SED_DATA to "
        f"the folder with {_FILE}; no hub serves it: it was cut from the event displays that CMS "
        'publishes on https://opendata.cern.ch (search for "ig" files) and carries '
        "in https://github.com/cms-outreach/ispy-webgl"
    )


def _decode(data: bytes, file: Path) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Energies, labels, and the event of every window."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            windows, labels, meta = (arrays[name] for name in ("x", "y", "meta"))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} holds no readable x, y and meta; copy it again") from error
    # the file has eta first and phi ascending; ours are rows of descending phi
    energy = rearrange(torch.from_numpy(windows), "n eta phi -> n phi eta").flip(1)
    rows = rearrange(energy, "n phi eta -> n (phi eta)")
    return rows, torch.from_numpy(labels.astype(np.int64)), meta[:, 0].astype(np.int64)


def _rows(
    events: NDArray[np.int64], first: float, last: float, *, seed: int
) -> Int64[Tensor, " k"]:
    """Windows of the events that fall between two shares when all are dealt out in random order."""
    _, event, sizes = np.unique(events, return_inverse=True, return_counts=True)
    order = torch.randperm(len(sizes), generator=seeded(seed)).numpy()
    before = np.empty(len(sizes))
    before[order] = np.cumsum(sizes[order]) - sizes[order]  # windows dealt out before each event
    share = before[event] / len(events)
    return torch.from_numpy(np.flatnonzero((share >= first) & (share < last)))


# more of them -----------------------------------------------------------------------------------


def augmented(
    showers: Showers,
    *,
    copies: int,
    generator: torch.Generator,
    shift: int = 1,
    centre: tuple[float, float] = CENTRE,
) -> Showers:
    """The windows themselves, then copies - 1 times all of them, mirrored and shifted at random.

    Each is mirrored in eta and in phi with probability 1/2 and shifted by up to `shift` cells in
    phi. Collisions know no forward and no up, so a mirror image is as likely as the window; it is
    taken about the central crystal, so that the object stays where it was. What leaves at an edge
    comes back at the opposite one: compared with cutting the event anew one crystal further, that
    keeps the number of hits (33.89, cut anew 33.86), which filling with zeros lowers (33.54).

    Args:
        centre: row and column that mirrors turn about; (15.5, 15.5) for images whose middle is a
            corner of four cells, as the muon images of the paper.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1 (the windows themselves), got {copies}")
    if not 0 <= shift < SIDE:
        raise ValueError(f"shift must be 0 to {SIDE - 1} cells, got {shift}")
    more = (_moved(showers.energy, generator, shift, centre) for _ in range(copies - 1))
    return Showers(
        torch.cat([showers.energy, *more]), repeat(showers.labels, "n -> (c n)", c=copies)
    )


def _moved(
    energy: Tensor, generator: torch.Generator, shift: int, centre: tuple[float, float]
) -> Float32[Tensor, "n 1024"]:
    """Every window once, with its own mirrors and its own shift."""
    mirror = torch.randint(2, (len(energy), 2), generator=generator).bool()
    moves = torch.randint(-shift, shift + 1, (len(energy), 1), generator=generator)
    rows = _places(mirror[:, :1], centre[0]) + moves
    columns = _places(mirror[:, 1:], centre[1])
    cell = (rows % SIDE * SIDE)[:, :, None] + (columns % SIDE)[:, None, :]
    return energy.gather(1, rearrange(cell, "n r c -> n (r c)"))


def _places(mirror: Tensor, centre: float) -> Int64[Tensor, "n 32"]:
    """Where the cells of each line come from: i, or 2 centre - i in its mirror image."""
    line = torch.arange(SIDE)
    return torch.where(mirror, int(2 * centre) - line, line)


# a user's images --------------------------------------------------------------------------------


def load_images(path: str | Path, *, key: str | None = None) -> Showers:
    """Images of one's own, such as the muon images of the SED paper: (n, 32, 32) energies in GeV.

    They are taken as they are (rows phi, the first the largest; columns eta); the labels are all 0
    and say nothing.

    Args:
        path: a .npz, .npy, .h5 or .hdf5 file.
        key: name of the array in it; not needed where only one has the shape of images.

    Raises:
        DataError: where the file can't be read, is too large, or holds NaN or negative energies.
    """
    path = Path(path).expanduser()
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"images are read from {_FORMATS} files, got {path.name}")
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    try:
        array = read(path, key)
    except DataError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and HDF5 raise many kinds for a damaged file
        raise DataError(f"{path} cannot be read ({error}); save it again") from error
    energy = _energies(array, path)
    return Showers(energy, torch.zeros(len(energy), dtype=torch.int64))


def _energies(array: NDArray[Any], path: Path) -> Float32[Tensor, "n 1024"]:
    """The images as float32 rows, where every cell may be an energy."""
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite and is refused
        rows = torch.from_numpy(array.astype(np.float32).reshape(len(array), SIDE**2))
    _refuse(~rows.isfinite(), "a value that is NaN, infinite or beyond float32", path)
    _refuse(rows < 0, "a negative energy; standardised or logarithmic values must be undone", path)
    return rows


def _refuse(bad: Tensor, what: str, path: Path) -> None:
    if bad.any():
        row = int(bad.any(1).nonzero()[0])
        raise DataError(f"image {row} (from 0) of {path} has {what}; energies in GeV were wanted")


# Shapes come from headers first, so that nothing large is read before it is refused.

_Kind = tuple[tuple[int, ...], np.dtype[Any]]  # shape and type of an array that is not read yet


def _read_npy(path: Path, key: str | None) -> NDArray[Any]:
    with path.open("rb") as file:
        _choose({path.name: _header(file)}, key, path, named=False)
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        kinds: dict[str, _Kind] = {}
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    kinds[name[:-4]] = _header(file)
        with archive.open(_choose(kinds, key, path) + ".npy") as file:
            return npy.read_array(file, allow_pickle=False)


def _header(file: Any) -> _Kind:
    """Shape and type that an .npy file announces."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its .npy version {version} is not 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _read_h5(path: Path, key: str | None) -> NDArray[Any]:
    try:
        import h5py  # pyright: ignore
    except ImportError as error:
        raise DataError(
            f"reading {path.name} needs h5py: install it (pip install h5py), or save the images as "
            ".npz"
        ) from error
    h5: Any = h5py
    with h5.File(path, "r") as file:
        kinds: dict[str, _Kind] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5.Dataset) and _stored(item):
                kinds[name] = (item.shape, item.dtype)

        file.visititems(note)  # follows no link to elsewhere
        return file[_choose(kinds, key, path)][()]


def _stored(dataset: Any) -> bool:
    """Whether the numbers of an HDF5 array lie in the file itself."""
    return dataset.shape is not None and not dataset.external and not dataset.is_virtual


_READERS: Mapping[str, Callable[[Path, str | None], NDArray[Any]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
}


def _choose(kinds: Mapping[str, _Kind], key: str | None, path: Path, *, named: bool = True) -> str:
    """Name of the array to read: the one asked for, else the only one shaped like images."""
    if key is not None and named and key not in kinds:
        raise DataError(f"{path} holds no array {key!r}; it holds {_listed(kinds)}")
    names = [name for name, kind in kinds.items() if _is_images(kind)]
    asked = [key] if key is not None and named else names
    if len(asked) != 1 or asked[0] not in names:
        raise DataError(
            f"{path} must hold one array of numbers shaped (n, {SIDE}, {SIDE}) or (n, {SIDE**2})"
            f"{', or key= must name it' if len(names) > 1 else ''}; it holds {_listed(kinds)}"
        )
    count = kinds[asked[0]][0][0]
    if not 1 <= count <= MOST_IMAGES:
        raise DataError(f"{path} has {count:,} images; 1 to {MOST_IMAGES:,} are read, save a part")
    return asked[0]


def _is_images(kind: _Kind) -> bool:
    shape, dtype = kind
    return shape[1:] in ((SIDE, SIDE), (SIDE**2,)) and dtype.kind in "fiu" and dtype.itemsize <= 8


def _listed(kinds: Mapping[str, _Kind]) -> str:
    names: Sequence[str] = [f"{name} {shape} {dtype}" for name, (shape, dtype) in kinds.items()]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more or "no array"
