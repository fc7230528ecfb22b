"""Checkpoints: what was saved comes back; every kind of damage is one sentence, in little time."""

import http.server
import io
import json
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from sed_core import hub, remote, weights
from sed_core.chance import seeded, split
from sed_core.hub import CheckpointError
from sed_core.metrics.judge import DigitJudge, DigitJudgeConfig
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.store import MANIFEST, read_manifest, write_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "draft_width": 16}


def small_sed(seed: int = 0) -> SED:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = DenoiserConfig(latent=4, widths=(16, 8), condition=8, classes=3)
        return SED(SAVAEConfig(dim=16, latent=4, **SMALL), denoiser).eval()


def write(model: torch.nn.Module, folder: Path, **options) -> Path:
    hub.save(model, folder, metrics={"x": 1}, card="# Small\n", recipe="none", **options)
    return folder


def reseal(folder: Path, **files: bytes) -> None:
    """Replace files (dots written as two underscores) and make the manifest agree."""
    names = {name.replace("__", "."): content for name, content in files.items()}
    kept = {n: (folder / n).read_bytes() for n in read_manifest(folder)}
    write_folder(folder, {**kept, **names})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(small_sed(), tmp_path_factory.mktemp("made") / "small")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A fresh copy of a small checkpoint, to be spoilt."""
    here = tmp_path / "small"
    here.mkdir()
    for path in made.iterdir():
        (here / path.name).write_bytes(path.read_bytes())
    return here


def refused(folder: Path | str, match: str, **options) -> str:
    with pytest.raises(CheckpointError, match=match) as fault:
        hub.load(folder, **options)
    said = str(fault.value)
    assert "\n" not in said and len(said) < 400, said
    return said


# -- what was saved comes back ---------------------------------------------------------------------


def test_samples_are_equal_after_save_and_load(tmp_path: Path):
    model = small_sed()
    again = hub.load(write(model, tmp_path / "a", dtype="float32"))
    one, two = (m.sample(3, steps=4, label=1, generator=seeded(5)) for m in (model, again))
    assert torch.equal(one.index, two.index) and torch.equal(one.value, two.value)
    assert again.configs == model.configs


def test_half_precision_is_near_and_loads_as_float32(tmp_path: Path):
    model = small_sed()
    whole, half = write(model, tmp_path / "a", dtype="float32"), write(model, tmp_path / "b")
    assert (half / hub.WEIGHTS).stat().st_size < 0.75 * (whole / hub.WEIGHTS).stat().st_size
    for name, part in hub.load(half).state_dict().items():
        assert part.dtype == model.state_dict()[name].dtype
        torch.testing.assert_close(part, model.state_dict()[name], rtol=1e-3, atol=1e-3)
    stored = tensors_of((half / hub.WEIGHTS).read_bytes())
    assert stored["latent_sd"].dtype == torch.float32  # a buffer, not a parameter


@pytest.fixture
def every_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models for tests have small matrices only."""
    monkeypatch.setattr(weights, "SMALL", 0)


def test_small_matrices_stay_in_half_precision(tmp_path: Path):
    with torch.random.fork_rng():
        judge = DigitJudge(DigitJudgeConfig()).eval()
    stored = tensors_of((write(judge, tmp_path / "a", dtype="int8") / hub.WEIGHTS).read_bytes())
    kept = {part.dtype for part in stored.values() if 0 < part.numel() < weights.SMALL}
    large = {part.dtype for part in stored.values() if part.numel() >= weights.SMALL}
    assert large == {torch.int8} and torch.int8 not in kept


def test_eight_bits_are_within_half_a_step_of_each_row(tmp_path: Path, every_matrix: None):
    model = small_sed()
    folder = write(model, tmp_path / "a", dtype="int8")
    whole = write(model, tmp_path / "b", dtype="float32")
    assert (folder / hub.WEIGHTS).stat().st_size < 0.5 * (whole / hub.WEIGHTS).stat().st_size
    again = hub.load(folder).state_dict()
    for name, part in model.state_dict().items():
        assert again[name].dtype == part.dtype
        if name.endswith("weight") and part.dim() == 2:
            step = part.abs().amax(1, keepdim=True) / 127
            assert ((again[name] - part).abs() <= 0.501 * step).all(), name
    assert torch.equal(again["latent_sd"], model.state_dict()["latent_sd"])


@pytest.mark.parametrize(
    "bend",
    [
        lambda t, name: t.pop(name + "/step"),
        lambda t, name: t.update({name + "/step": t[name + "/step"][:-1].clone()}),
        lambda t, name: t.update({name + "/step": t[name + "/step"].double()}),
        lambda t, name: t.update({"stranger/step": torch.ones(3)}),
        lambda t, name: t.update({"latent_sd/step": torch.ones(3)}),
        lambda t, name: t.update({"latent_sd": t["latent_sd"].to(torch.int8)}),
    ],
)
def test_eight_bits_without_one_step_a_row_are_refused(tmp_path: Path, every_matrix: None, bend):
    folder = write(small_sed(), tmp_path / "a", dtype="int8")
    tensors = tensors_of((folder / hub.WEIGHTS).read_bytes())
    bend(tensors, next(name for name in tensors if name + "/step" in tensors))
    reseal(folder, model__safetensors=bytes_of(tensors))
    refused(folder, "in eight bits without one step a row")


def test_a_judge_comes_back_too(tmp_path: Path):
    judge = DigitJudge(DigitJudgeConfig(channels=4, features=8)).eval()
    again = hub.load(write(judge, tmp_path / "judge", dtype="float32"))
    pictures = torch.rand(2, 784, generator=seeded(0))
    assert torch.equal(again(pictures), judge(pictures))


def test_a_loaded_model_is_frozen_and_leaves_global_chance_alone(folder: Path):
    before = torch.get_rng_state()
    model = hub.load(folder, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_a_file_that_changes_later_changes_no_model(folder: Path):
    model = hub.load(folder)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    file = folder / hub.WEIGHTS
    file.write_bytes(b"\0" * file.stat().st_size)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


def test_latents_travel_with_the_model(tmp_path: Path):
    cloud = {"xy": torch.rand(5, 2, generator=seeded(0)).half(), "label": torch.arange(5).byte()}
    folder = write(small_sed(), tmp_path / "a", latents=cloud)
    found = hub.latents(folder)
    assert found["xy"].dtype == torch.float32 and torch.equal(found["label"], cloud["label"])
    with pytest.raises(CheckpointError, match=r"latents\.safetensors"):
        hub.latents(write(small_sed(), tmp_path / "b"))


def test_figures_and_card_are_revised(folder: Path):
    metrics = hub.figures(folder) | {"figures": {"a": 1}}
    hub.revise(folder, metrics=metrics, card="# New\n")
    assert hub.figures(folder) == {"x": 1, "recipe": "none", "figures": {"a": 1}}
    assert (folder / hub.README).read_text() == "# New\n"
    hub.load(folder)


def test_unfit_models_are_not_saved(tmp_path: Path):
    model = small_sed()
    with torch.no_grad():
        next(model.parameters())[0] = 1e6  # no half-precision number
    with pytest.raises(CheckpointError, match="infinity"):
        write(model, tmp_path / "a")
    with pytest.raises(ValueError, match="Linear"):
        write(torch.nn.Linear(1, 1), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_devices():
    with pytest.raises(ValueError, match="auto, cpu or cuda"):
        hub.load("nothing", device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="none; use cpu"):
            hub.load("nothing", device="cuda")


# -- damaged weights -------------------------------------------------------------------------------


def zipped() -> bytes:
    """What torch writes: a zip with a pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n.")
    return file.getvalue()


def header_bomb() -> bytes:
    table = {f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(20_000)}
    raw = json.dumps(table).encode()
    return struct.pack("<Q", len(raw)) + raw


def changed(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        tensors = tensors_of(content)
        change(tensors)
        return bytes_of(tensors)

    return apply


WEIGHT_FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda c: b"", "no safetensors"),
    "eight bytes": (lambda c: c[:8], "no safetensors"),
    "header only": (lambda c: c[: 8 + int.from_bytes(c[:8], "little")], "no sound safetensors"),
    "cut": (lambda c: c[:-1], "no sound safetensors"),
    "longer": (lambda c: c + b"\0", "no sound safetensors"),
    "huge header": (lambda c: struct.pack("<Q", 1 << 62) + c[8:], "no safetensors"),
    "header bomb": (lambda c: header_bomb(), "no safetensors|declares"),
    "header of lists": (lambda c: struct.pack("<Q", 2) + b"[]", "header"),
    "deep header": (lambda c: struct.pack("<Q", 9000) + b"[" * 9000, "header"),
    "LFS pointer": (lambda c: b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
    "web page": (lambda c: b"\n<!DOCTYPE html><html>", "web page"),
    "pickle": (lambda c: b"\x80\x04cos\nsystem\n.", "only safetensors"),
    "torch zip": (lambda c: zipped(), "only safetensors"),
    "NaN": (changed(lambda t: t["latent_mean"].fill_(float("nan"))), "NaN or infinity"),
    "infinity": (changed(lambda t: t["latent_mean"].fill_(float("inf"))), "NaN or infinity"),
    "missing": (changed(lambda t: t.pop("latent_mean")), "lacks latent_mean"),
    "unknown": (changed(lambda t: t.update(extra=torch.zeros(1))), "'extra'"),
    "other shape": (changed(lambda t: t.update(latent_mean=torch.zeros(5))), "shape"),
    "other type": (changed(lambda t: t.update(latent_mean=torch.zeros(4).long())), "int64"),
}


@pytest.mark.parametrize("name", WEIGHT_FAULTS)
def test_damaged_weights_are_one_sentence(folder: Path, name: str):
    """With a manifest that agrees, so that each check is met and not only the hash."""
    damage, match = WEIGHT_FAULTS[name]
    reseal(folder, model__safetensors=damage((folder / hub.WEIGHTS).read_bytes()))
    started = time.monotonic()
    refused(folder, match)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_cut_weights_are_refused_by_size(folder: Path, size: int):
    path = folder / hub.WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    refused(folder, r"bytes, its manifest says|bytes where its manifest says")


def test_every_flipped_byte_is_refused(folder: Path):
    path = folder / hub.WEIGHTS
    content = path.read_bytes()
    places = range(0, len(content), max(1, len(content) // 100))
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 0x10
        path.write_bytes(altered)
        refused(folder, ".")
    path.write_bytes(content)
    hub.load(folder)


@pytest.mark.parametrize("name", [hub.CONFIG, hub.WEIGHTS, MANIFEST])
def test_missing_and_strange_files(folder: Path, name: str):
    for content, match in ((b"version https://git-lfs", "git lfs pull"), (b"<html>", "web page")):
        (folder / name).write_bytes(content)
        refused(folder, match)
    (folder / name).unlink()
    refused(folder, "fetch|see 'sed-core models'")


def test_a_folder_of_pickles_says_so(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(zipped())
    refused(tmp_path, "pickle; only safetensors")


def test_memory_and_time_of_a_huge_configuration(folder: Path):
    """A configuration of absurd size is refused before anything of that size exists."""
    import resource

    for part, key, value in (
        ("savae", "decoder_layers", 1_000_000),
        ("savae", "dim", 1_000_000),
        ("savae", "width", 1_000_000),
        ("denoiser", "widths", [1_000_000] * 4),
        ("savae", "dim", 10**9),
    ):
        config = json.loads((folder / hub.CONFIG).read_bytes())
        config["configs"][part][key] = value
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        spoilt = folder.with_name(f"spoilt-{part}-{key}-{time.monotonic_ns()}")
        files = {n: (folder / n).read_bytes() for n in read_manifest(folder)}
        write_folder(spoilt, {**files, hub.CONFIG: json.dumps(config).encode()})
        refused(spoilt, "config|model|whole number")
        assert time.monotonic() - started < 3
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 50_000, f"{key} took {grown} kB"


# -- bad configurations ----------------------------------------------------------------------------


def with_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / hub.CONFIG).read_bytes())
    change(config)
    reseal(folder, config__json=json.dumps(config).encode())


CONFIG_FAULTS: dict[str, tuple[Callable[[dict], object], str]] = {
    "newer format": (lambda c: c.update(format_version=2), "update sed-core"),
    "format as text": (lambda c: c.update(format_version="1"), "format_version"),
    "format true": (lambda c: c.update(format_version=True), "format_version"),
    "unknown family": (lambda c: c.update(family="GAN"), "family 'GAN'"),
    "family as list": (lambda c: c.update(family=["SED"]), "family"),
    "other family": (lambda c: c.update(family="DigitJudge"), "lacks judge"),
    "unknown key": (lambda c: c.update(note=1), "unknown note"),
    "no configs": (lambda c: c.pop("configs"), "lacks configs"),
    "missing part": (lambda c: c["configs"].pop("denoiser"), "lacks denoiser"),
    "unknown option": (lambda c: c["configs"]["savae"].update(beams=3), "unknown beams"),
    "missing option": (lambda c: c["configs"]["savae"].pop("dim"), "lacks dim"),
    "text for number": (lambda c: c["configs"]["savae"].update(dim="16"), "dim must be"),
    "float for int": (lambda c: c["configs"]["savae"].update(dim=16.0), "dim must be"),
    "true for int": (lambda c: c["configs"]["savae"].update(dim=True), "dim must be"),
    "number for bool": (lambda c: c["configs"]["savae"].update(signed=1), "signed must be"),
    "NaN": (lambda c: c["configs"]["savae"].update(beta=float("nan")), "finite"),
    "unknown choice": (lambda c: c["configs"]["savae"].update(mask="some"), "one of 'none'"),
    "scalar for list": (lambda c: c["configs"]["denoiser"].update(widths=8), "list of whole"),
    "list of text": (lambda c: c["configs"]["denoiser"].update(widths=["8"]), "list of whole"),
    "impossible": (lambda c: c["configs"]["savae"].update(heads=3), "no possible model"),
    "no heads": (lambda c: c["configs"]["savae"].update(heads=0), "no possible model"),
    "negative": (lambda c: c["configs"]["savae"].update(draft_width=-4), "no possible model"),
    "disagreeing": (lambda c: c["configs"]["denoiser"].update(latent=8), "no possible model"),
    "of another shape": (lambda c: c["configs"]["savae"].update(dim=17), "not of one model"),
    "of more layers": (lambda c: c["configs"]["savae"].update(decoder_layers=2), "not of one"),
}


@pytest.mark.parametrize("name", CONFIG_FAULTS)
def test_bad_configurations_are_one_sentence(folder: Path, name: str):
    change, match = CONFIG_FAULTS[name]
    with_config(folder, change)
    refused(folder, match)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 9_000, b" " * 70_000]
)
def test_configurations_that_are_no_json(folder: Path, content: bytes):
    reseal(folder, config__json=content)
    refused(folder, "config.json")


def test_an_altered_configuration_is_refused_even_if_it_fits(folder: Path):
    config = json.loads((folder / hub.CONFIG).read_bytes())
    config["configs"]["savae"]["value_mean"] = 0.25
    (folder / hub.CONFIG).write_text(json.dumps(config))
    refused(folder, "altered|bytes")


# -- references ------------------------------------------------------------------------------------

REFS = [
    "", " ", ".hidden", "..", "../..", "/", "/nowhere/at/all", "~", "~root", "\0", "a\0b", "a\nb",
    "ä", "名", "nope", "NOPE", "a" * 300, "con", "C:\\x", "\\\\host\\share", "file:///etc/passwd",
    "a/b/c", "a//b", "/b", "a/", "./a/b", "a/../b", "a/..", "../a", "a/.b", "-a/b", "a/-b",
    "a b/c", "a/b c", "a/b?x=1", "a/b#c", "a/b%2e%2e", "https://host/a/b", "hf:a/b", "hf://a/b",
    "a@b", "@", "@main", "a/b@", "a/b@..", "a/b@../../x", "a/b@x/y", "a/b@-x", "a/b@x y",
    "a/b@x\n", "a/b@" + "f" * 70, "a/b@refs/pr/1", "a/b@main@x", "x.bin", "x.pt", "a/b.ckpt",
    "model.pkl", "x/model.safetensors", "$HOME", "`id`", "{0}",
]  # fmt: skip


@pytest.mark.parametrize("ref", REFS, ids=ascii)
def test_strange_references_are_one_sentence_and_touch_nothing(
    ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    started = time.monotonic()
    refused(ref, ".", allow_network=False)
    assert time.monotonic() - started < 1
    assert not list(tmp_path.iterdir())


def test_two_revisions_and_a_bad_one():
    refused("a/b@main", "two revisions", revision="other")
    refused("a/b", "no revision", revision="../../x")


@pytest.fixture
def shop(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped checkpoints with two cards, one of them without files."""
    card = (
        'family = "SED"\ndomain = "digits"\ndata = "mnist"\ntitle = "T"\nstory = "S"\nzeros = 0.8\n'
        'licence = "Apache-2.0"\ndata_licence = "none"\njudge = ""\n'
    )
    (tmp_path / "cards.toml").write_text(f"[small]\n{card}\n[gone]\n{card}")
    monkeypatch.setenv("SED_CHECKPOINTS", str(tmp_path))
    return tmp_path


def test_shipped_checkpoints(shop: Path):
    small, gone = hub.shipped()
    assert (small.name, gone.name, small.zeros) == ("small", "gone", 0.8)
    assert small.size == (shop / "small" / hub.WEIGHTS).stat().st_size and gone.size == 0
    assert small.metrics() == {"x": 1, "recipe": "none"} and gone.metrics() == {}
    assert hub.resolve("small") == hub.Source("small", shop / "small", None)
    assert isinstance(hub.load("small"), SED)
    refused("gone", "its folder is missing")
    refused("other", r"shipped name \(small, gone\)")


@pytest.mark.parametrize(
    "text", ["x = ", "[small]\nfamily = 3", "[small]\nfamily = 'SED'", "small = 1"]
)
def test_bad_cards_are_one_sentence(shop: Path, text: str):
    (shop / "cards.toml").write_text(text)
    with pytest.raises(CheckpointError, match=r"cards\.toml"):
        hub.shipped()


def test_every_card_of_ours_loads():
    """The shipped checkpoints themselves: strict, whole, of the family that the card says."""
    for card in hub.shipped():
        if card.folder.is_dir():
            assert type(hub.load(card.name)).__name__ == card.family
            assert card.size <= 8 << 20, "shipped weights are 8 MB at most"
    assert sum(card.size for card in hub.shipped()) <= 30 << 20, "all of them 30 MB at most"


# -- the Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache of our own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setitem(remote._silence, "until", 0.0)
    return folder


def test_a_cached_checkpoint_needs_no_network(cache: Path, made: Path):
    repo = cache / "models--owner--name"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for path in made.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    for ref in ("owner/name", f"owner/name@{COMMIT}", "owner/name@main"):
        assert hub.resolve(ref) == hub.Source("owner/name", snapshot, COMMIT)
    assert isinstance(hub.load("owner/name"), SED)
    refused("owner/name@v2", "nor in the local cache")
    (snapshot / hub.WEIGHTS).unlink()
    refused("owner/name", "nor in the local cache")


class FakeHub(http.server.BaseHTTPRequestHandler):
    """A Hub that misbehaves in the way its repository is called."""

    content: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        type(self).asked.append(self.path)
        kind = self.path.split("/owner/")[1].split("/")[0]
        if self.path.startswith("/api/"):
            self.info(kind)
        else:
            self.file(kind, self.path.rpartition("/")[2])

    def info(self, kind: str) -> None:
        status, code = {
            "missing": (404, "RepoNotFound"),
            "private": (401, "RepoNotFound"),
            "gated": (403, "GatedRepo"),
            "norevision": (404, "RevisionNotFound"),
            "busy": (429, ""),
            "broken": (503, ""),
        }.get(kind, (200, ""))
        commit = {"liar": "f" * 40, "rude": "../../x"}.get(kind, COMMIT)
        body = json.dumps({"id": f"owner/{kind}", "sha": commit, "siblings": []}).encode()
        self.send(status, body, {"X-Error-Code": code} if code else {})

    def file(self, kind: str, name: str) -> None:
        body = self.content.get(name, b"")
        if not body or (kind == "nofile" and name == MANIFEST):
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if kind == "altered" and name == hub.WEIGHTS:
            body = body[:-1] + bytes([body[-1] ^ 1])
        commit = "f" * 40 if kind == "othercommit" else COMMIT
        etag = f'"{abs(hash((name, kind))):x}"'
        return self.send(200, body, {"X-Repo-Commit": commit, "ETag": etag})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def fake(made: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    FakeHub.content = {path.name: path.read_bytes() for path in made.iterdir()}
    FakeHub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield FakeHub
    server.shutdown()
    server.server_close()


def test_a_hub_checkpoint_is_fetched_once_and_pinned(fake: type[FakeHub], cache: Path):
    refused("owner/good", "--network")
    assert not fake.asked
    source = hub.resolve("owner/good", allow_network=True)
    assert source.commit == COMMIT and isinstance(hub.load("owner/good", allow_network=True), SED)
    asked = len(fake.asked)
    assert hub.resolve(f"owner/good@{COMMIT}", allow_network=True) == source
    assert len(fake.asked) == asked


HUB_FAULTS = {
    "missing": "knows no owner/missing",
    "private": "private",
    "gated": "gated",
    "norevision": "no revision",
    "busy": "busy .status 429",
    "broken": "busy .status 503",
    "rude": "answered '../../x'",
    "nofile": "no checkpoint of sed-core",
    "othercommit": "another commit",
    "altered": "altered",
}


@pytest.mark.parametrize("kind", HUB_FAULTS)
def test_a_hub_that_misbehaves_is_one_sentence(fake: type[FakeHub], cache: Path, kind: str):
    started = time.monotonic()
    refused(f"owner/{kind}", HUB_FAULTS[kind], allow_network=True)
    assert time.monotonic() - started < 10


def test_a_pinned_commit_must_be_answered_with_itself(fake: type[FakeHub], cache: Path):
    refused(f"owner/liar@{COMMIT}", "answered 'ffff", allow_network=True)


def test_a_hub_that_is_gone_is_told_fast_and_remembered(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    refused("owner/name", "can't be reached", allow_network=True)
    assert time.monotonic() - started < 5
    started = time.monotonic()
    refused("owner/other", "can't be reached", allow_network=True)
    assert time.monotonic() - started < 0.5


def test_loading_beside_sampling_changes_no_sample(folder: Path):
    """Two threads load while a third samples: the samples of a seed stay what they are."""
    model = hub.load(folder)
    wanted = model.sample(4, steps=4, generator=split(seeded(3), 4)).to_dense()
    threads = [threading.Thread(target=hub.load, args=(folder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    got = [model.sample(4, steps=4, generator=split(seeded(3), 4)).to_dense() for _ in range(3)]
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, wanted) for one in got)
