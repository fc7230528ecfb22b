"""Genes and labels beside a model: what was written comes back, damage is one sentence."""

import json
from pathlib import Path

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from test_hub import reseal

from sed_core import hub, vocabulary
from sed_core.hub import CheckpointError
from sed_core.keep import keep
from sed_core.stages import Run
from sed_core.vocabulary import GeneVocabulary

GENES = ("MALAT1", "HLA-DRA", "α-gène", "AC001,2")
WHOLE = GeneVocabulary(GENES, "cell_type", ("B", "T cells"))

printable = st.text(min_size=1, max_size=20).filter(str.isprintable)
names = st.lists(printable, min_size=1, max_size=20, unique=True).map(tuple)


def model():
    return small.countsdiff(len(GENES), classes=2)


def write(folder: Path, found: GeneVocabulary | None = WHOLE) -> Path:
    hub.save(model(), folder, metrics={}, card="# x\n", recipe="none", vocabulary=found)
    return folder


def refused(folder: Path, match: str, **asked: int) -> None:
    with pytest.raises(CheckpointError, match=match) as fault:
        hub.vocabulary(folder, **asked)
    said = str(fault.value)
    assert "\n" not in said and len(said) < 400, said


@given(names, names, printable)
def test_a_round_trip_changes_nothing(genes: tuple[str, ...], labels: tuple[str, ...], label: str):
    for whole in (GeneVocabulary(genes), GeneVocabulary(genes, label, labels)):
        assert GeneVocabulary.from_json(whole.to_json()) == whole


def test_it_is_the_file_that_was_agreed_on():
    assert json.loads(WHOLE.to_json()) == {
        "genes": list(GENES), "label": "cell_type", "labels": ["B", "T cells"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (((),), "1 to 1,000,000 gene names, got 0"),
        ((("a", "b", "a"),), "'a' stands twice"),
        ((("a", ""),), "got ''"),
        ((("a\nb",),), r"got 'a\\nb'"),
        ((("a" * 257,),), "1 to 256 printable"),
        ((("\ud800",),), "printable"),
        ((("a",), "cell_type"), "belong together"),
        ((("a",), None, ("B",)), "belong together"),
        ((("a",), "cell_type", ("B", "B")), "label name 'B' stands twice"),
        ((("a",), "x", tuple(map(str, range(1001)))), "1 to 1,000 label names"),
    ],
)
def test_names_that_a_reader_could_trip_over_are_refused(given: tuple, match: str):
    with pytest.raises(ValueError, match=match):
        GeneVocabulary(*given)


def test_it_travels_with_the_model(tmp_path: Path):
    folder = write(tmp_path / "a")
    assert hub.vocabulary(folder) == WHOLE == hub.vocabulary(folder, dim=4)
    hub.revise(folder, metrics={"x": 1}, card="# other\n")
    assert hub.vocabulary(folder) == WHOLE
    assert hub.vocabulary(write(tmp_path / "b", None)) is None
    hub.load(folder)  # a model is loaded with its vocabulary beside it


def test_keep_passes_it_on(tmp_path: Path):
    run = Run(tmp_path, 0, hub.place("cpu"))
    keep(model(), "x", {}, run, "sed-core train", vocabulary=WHOLE)
    assert hub.vocabulary(tmp_path / "checkpoint") == WHOLE


def test_genes_of_another_model_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"2 genes, the model has 4 dimensions"):
        write(tmp_path / "a", GeneVocabulary(("a", "b")))
    assert not (tmp_path / "a").exists()
    refused(write(tmp_path / "b"), "4 genes, the model has 5 dimensions", dim=5)


def test_an_altered_file_is_refused(tmp_path: Path):
    folder = write(tmp_path / "a")
    file = folder / hub.VOCABULARY
    file.write_bytes(file.read_bytes().replace(b"MALAT1", b"MALAT2"))
    refused(folder, "was altered")
    file.unlink()
    refused(folder, "missing")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "as JSON"),
        (b"[" * 100_000, "as JSON"),
        (b"[]", "must be an object"),
        (b'{"genes": ["a"], "label": null}', "lacks labels"),
        (b'{"genes": ["a"], "label": null, "labels": [], "x": 1}', "unknown x"),
        (b'{"genes": "abcd", "label": null, "labels": []}', "genes must be"),
        (b'{"genes": ["a", 1], "label": null, "labels": []}', "list of names"),
        (b'{"genes": ["a"], "label": 7, "labels": []}', "label must be"),
        (b'{"genes": ["a", "a"], "label": null, "labels": []}', "twice"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\x80\x04cposix\nsystem", "pickle"),
    ],
)
def test_a_sealed_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, match: str):
    folder = write(tmp_path / "a")
    reseal(folder, vocabulary__json=content)
    refused(folder, match)


def test_an_oversized_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "a")
    size = (folder / hub.VOCABULARY).stat().st_size
    monkeypatch.setattr(hub, "LARGEST_FILE", size)
    assert hub.vocabulary(folder) == WHOLE
    monkeypatch.setattr(hub, "LARGEST_FILE", size - 1)
    (folder / hub.VOCABULARY).unlink()
    refused(folder, f"larger than {size - 1} bytes")


def test_too_many_long_names_are_refused_when_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vocabulary, "LARGEST_FILE", len(WHOLE.to_json()))
    assert GeneVocabulary.from_json(WHOLE.to_json()) == WHOLE
    monkeypatch.setattr(vocabulary, "LARGEST_FILE", len(WHOLE.to_json()) - 1)
    with pytest.raises(ValueError, match=r"at most .* are kept"):
        WHOLE.to_json()
