"""The checkpoint store: killed at any call, cut or altered anywhere, it loads whole or not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sed_core.store import (
    MANIFEST,
    CheckpointError,
    Store,
    read_manifest,
    read_verified,
    sweep,
    verify,
    write_folder,
)

CALLS = ("open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir")


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """What belongs to a step, different for each."""
    weights = torch.arange(6, dtype=torch.float32).reshape(2, 3) + step
    return {
        "model": {"w": weights, "count": torch.tensor(step), "empty": torch.zeros(0, 2)},
        "chance": {"state": torch.Generator().manual_seed(step).get_state()},
    }


def save(store: Store, step: int) -> None:
    store.save(step, tensors(step), {"loss": step / 2, "note": "ümlaut"})


def is_whole(found) -> bool:
    """Whether what was loaded is exactly what was saved at its step."""
    wanted = tensors(found.step)
    same = all(
        torch.equal(found.tensors[stem][name], part)
        for stem, named in wanted.items()
        for name, part in named.items()
    )
    meta = {"loss": found.step / 2, "note": "ümlaut"}
    return same and found.tensors.keys() == wanted.keys() and found.meta == meta


def test_what_is_saved_is_loaded(tmp_path: Path):
    store = Store(tmp_path / "run")
    assert store.load() is None
    save(store, 100)
    step, parts, meta = store.load()
    assert (step, meta["loss"]) == (100, 50.0)
    assert parts["model"]["w"].dtype == torch.float32
    assert is_whole(store.load())


def test_newest_wins_and_two_are_kept(tmp_path: Path):
    store = Store(tmp_path)
    for step in (100, 2_000_000, 300):
        save(store, step)
    assert store.load().step == 2_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000300", "step-2000000"]


def test_a_whole_step_is_left_alone(tmp_path: Path):
    store = Store(tmp_path)
    save(store, 1)
    before = (tmp_path / "step-000001" / MANIFEST).stat().st_mtime_ns
    save(store, 1)
    assert (tmp_path / "step-000001" / MANIFEST).stat().st_mtime_ns == before


def test_a_broken_step_is_written_again(tmp_path: Path):
    store = Store(tmp_path)
    save(store, 1)
    (tmp_path / "step-000001" / "model.safetensors").write_bytes(b"")
    assert store.load() is None
    save(store, 1)
    assert is_whole(store.load())


def test_broken_steps_do_not_push_out_whole_ones(tmp_path: Path):
    store = Store(tmp_path, keep=1)
    save(store, 100)
    shutil.copytree(tmp_path / "step-000100", tmp_path / "step-000900")
    (tmp_path / "step-000900" / "model.safetensors").unlink()
    save(store, 200)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000200"]


@pytest.mark.parametrize(
    "bad", [{"step": -1}, {"keep": 0}, {"stem": "../x"}, {"meta": float("nan")}]
)
def test_bad_arguments_are_refused(tmp_path: Path, bad: dict):
    with pytest.raises(ValueError, match=r"."):
        Store(tmp_path, keep=bad.get("keep", 2)).save(
            bad.get("step", 1), {bad.get("stem", "model"): {}}, {"x": bad.get("meta", 0)}
        )
    assert Store(tmp_path).load() is None


# -- crash points ----------------------------------------------------------------------------------


def start(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its process number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def end(child: int) -> int:
    """Wait for a child; its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child to its end; its exit status."""
    return end(start(work))


def dying_at(point: int, work: Callable[[], None], *, torn: bool = False) -> Callable[[], None]:
    """`work` that dies without a word before its system call number `point`, or half through it."""

    def watch() -> None:
        count = 0

        def wrap(name: str):
            real = getattr(os, name)

            def watched(*args, **options):
                nonlocal count
                if count == point:
                    if torn and name == "write":
                        real(args[0], bytes(args[1])[: len(args[1]) // 2])
                    os._exit(9)
                count += 1
                return real(*args, **options)

            return watched

        for name in CALLS:
            setattr(os, name, wrap(name))
        work()

    return watch


def sweep_crash_points(
    base: Path, work: Callable[[Path], None], check: Callable[[Path, bool], None], *, torn: bool
) -> int:
    """Run `work` on a copy of `base` once a crash point; the number of points it has."""
    for point in range(1_000):
        here = base.parent / f"try-{point}"
        shutil.copytree(base, here)
        status = in_child(dying_at(point, lambda here=here: work(here), torn=torn))
        assert status in (0, 9)
        check(here, status == 0)
        shutil.rmtree(here)
        if status == 0:
            return point
    raise AssertionError("no end of crash points")


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("before", [[], [100, 200]])
def test_killed_at_any_call_the_newest_whole_step_loads(
    tmp_path: Path, before: list[int], torn: bool
):
    base = tmp_path / "base"
    base.mkdir()
    for step in before:
        save(Store(base), step)

    def check(here: Path, finished: bool) -> None:
        found = Store(here).load()
        if found is None:
            assert not before and not finished
        else:
            assert is_whole(found)
            assert found.step in ([300] if finished else [*before[-1:], 300])
        save(Store(here), 400)
        assert Store(here).load().step == 400
        names = {p.name for p in here.iterdir()}
        assert len(names) <= 2 and not any(n.startswith(".tmp") for n in names), names

    points = sweep_crash_points(base, lambda here: save(Store(here), 300), check, torn=torn)
    assert points > 15


def test_killed_while_replacing_a_folder_nothing_half_is_found(tmp_path: Path):
    base = tmp_path / "base"
    write_folder(base / "model", {"a": b"old" * 100, "b": b"old"})

    def check(here: Path, finished: bool) -> None:
        folder = here / "model"
        if not folder.exists():
            assert not finished
            with pytest.raises(CheckpointError, match=MANIFEST):
                read_manifest(folder)
            return
        content = {name: read_verified(folder, name, e) for name, e in verify(folder).items()}
        old, new = {"a": b"old" * 100, "b": b"old"}, {"a": b"new" * 100, "b": b"new"}
        assert content in ([new] if finished else [old, new])

    files = {"a": b"new" * 100, "b": b"new"}
    sweep_crash_points(base, lambda h: write_folder(h / "model", files), check, torn=True)


@pytest.mark.parametrize("point", range(0, 24, 3))
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, point: int, monkeypatch: pytest.MonkeyPatch
):
    save(Store(tmp_path), 1)
    room = [point]

    def full(real):
        def call(*args, **options):
            room[0] -= 1
            if room[0] < 0:
                raise OSError(28, "No space left on device")
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "fsync", "mkdir"):
            patch.setattr(os, name, full(getattr(os, name)))
        said = ""
        try:
            save(Store(tmp_path), 2)
        except CheckpointError as fault:
            said = str(fault)
    assert said == "" or ("No space left" in said and "free some space" in said)
    assert is_whole(Store(tmp_path).load())
    assert not list(tmp_path.glob(".tmp*"))


# -- left-overs ------------------------------------------------------------------------------------


def test_sweep_takes_the_dead_and_leaves_the_living(tmp_path: Path):
    gone = in_child(lambda: None)
    assert gone == 0
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        dead = [f".tmp-{2**22 - 3}-0123abcd-0", f".tmp-{os.getpid()}-00000000-7"]
        kept = [f".tmp-{process.pid}-0123abcd-0", ".tmp-notes", "step-000001x", "other"]
        for name in dead + kept:
            (tmp_path / name).mkdir()
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    finally:
        process.communicate(b"\n")


def test_two_writers_in_one_folder_do_not_disturb_each_other(tmp_path: Path):
    def write() -> None:
        for step in range(60):
            save(Store(tmp_path), step)

    assert [end(child) for child in [start(write), start(write)]] == [0, 0]
    assert Store(tmp_path).load().step == 59
    assert is_whole(Store(tmp_path).load())


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(Store(folder), 7)
    return folder / "step-000007"


@pytest.mark.parametrize("name", ["model.safetensors", "meta.json", MANIFEST])
def test_cut_or_longer_files_are_refused(saved: Path, name: str):
    path = saved / name
    content = path.read_bytes()
    try:
        for size in {*range(0, len(content), max(1, len(content) // 40)), len(content) - 1}:
            path.write_bytes(content[:size])
            assert Store(saved.parent).load() is None, size
        path.write_bytes(content + b"x")
        assert Store(saved.parent).load() is None
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "chance.safetensors", "meta.json", MANIFEST])
@given(data=st.data())
def test_one_flipped_bit_is_refused(saved: Path, name: str, data: st.DataObject):
    """Or harmless: a manifest with other white space says the same."""
    path = saved / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    altered = bytearray(content)
    altered[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(altered)
        found = Store(saved.parent).load()
        if found is not None:
            assert name == MANIFEST and json.loads(altered) == json.loads(content)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"null", b"[]", b"{}", b"[" * 5000, b"\xff\xfe", b'{"format_version": 1}',
        b'{"format_version": true, "files": {}}', b'{"format_version": 1, "files": []}',
        b'{"format_version": 1, "files": {"../x": {"sha256": "' + b"0" * 64 + b'", "size": 1}}}',
        b'{"format_version": 1, "files": {"x": {"sha256": "0", "size": 1}}}',
        b'{"format_version": 1, "files": {"x": {"sha256": "' + b"0" * 64 + b'", "size": 1.0}}}',
        b'{"format_version": 1, "files": {"x": 3}}', b" " * (2 << 20),
    ],
)  # fmt: skip
def test_a_bad_manifest_is_one_sentence(tmp_path: Path, manifest: bytes):
    (tmp_path / MANIFEST).write_bytes(manifest)
    with pytest.raises(CheckpointError, match=MANIFEST) as fault:
        read_manifest(tmp_path)
    assert "\n" not in str(fault.value)


def test_a_newer_manifest_says_update(tmp_path: Path):
    (tmp_path / MANIFEST).write_text('{"format_version": 2, "files": {}}')
    with pytest.raises(CheckpointError, match="update sed-core"):
        read_manifest(tmp_path)


# -- a model of the store --------------------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Save, crash anywhere, damage, reopen: the newest whole step loads, nothing else does."""

    def __init__(self):
        super().__init__()
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"store-{os.getpid()}-{id(self)}"
        self.folder.mkdir()
        self.whole: list[int] = []
        self.step = 0

    @rule()
    def save(self):
        self.step += 1
        save(Store(self.folder), self.step)
        self.whole = [*self.whole, self.step][-2:]

    @rule(point=st.integers(0, 40))
    def crash(self, point: int):
        self.step += 1
        in_child(dying_at(point, lambda: save(Store(self.folder), self.step), torn=True))
        if (self.folder / f"step-{self.step:06d}" / MANIFEST).exists():
            self.whole = [*self.whole, self.step]
            kept = {int(p.name[5:]) for p in self.folder.glob("step-*")}
            self.whole = [step for step in self.whole if step in kept]

    @precondition(lambda self: self.whole)
    @rule()
    def damage(self):
        path = self.folder / f"step-{self.whole.pop():06d}" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])

    @invariant()
    def newest_whole_loads(self):
        found = Store(self.folder).load()
        assert (found.step if found else None) == (self.whole[-1] if self.whole else None)
        assert found is None or is_whole(found)

    def teardown(self):
        shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=12)


@pytest.mark.slow
def test_real_kills_at_random_times(tmp_path: Path):
    """200 writers, each killed with SIGKILL somewhere; the store always loads, never goes back."""
    last, longest, chance = 0, 0.03, random.Random(0)
    for _ in range(200):
        child = start(lambda last=last: [save(Store(tmp_path), last + k) for k in range(1, 999)])
        time.sleep(chance.uniform(0.001, longest))
        os.kill(child, signal.SIGKILL)
        end(child)
        found = Store(tmp_path).load()
        if found is not None:
            assert is_whole(found)
        step = found.step if found else 0
        assert step >= last
        longest = 0.03 if step > last else 1.2 * longest  # on a busy machine, wait longer
        last = step
    assert last > 10
