"""Checkpoints on the Hub: the local cache first, the network only where the caller allows it.

A revision is resolved to one commit, and everything is fetched at that commit. The library does not
hash what it downloads, so the manifest is verified here.
"""

import re
import time
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from sed_core.store import MANIFEST, CheckpointError, read_manifest, verify

FILES = (MANIFEST, "config.json", "model.safetensors")
PROBE_SECONDS, OFFLINE_SECONDS = 3.0, 30.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_silence = {"until": 0.0}  # one failed try speaks for the next half minute


def is_repo(text: str) -> bool:
    """Whether `text` is owner/name and nothing that could be read as a path."""
    parts = text.split("/")
    return len(parts) == 2 and all(_NAME.fullmatch(p) and ".." not in p for p in parts)


def find(repo: str, revision: str | None, *, allow_network: bool) -> Path:
    """The folder of a Hub checkpoint; its name is the commit.

    Raises:
        CheckpointError: at once where the cache has it not and the network is not allowed.
    """
    revision = revision or "main"
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise CheckpointError(f"{revision[:80]!r} is no revision; give a commit, a branch or a tag")
    if folder := cached(repo, revision):
        return folder
    if not allow_network:
        raise CheckpointError(
            f"{repo}@{revision} is neither shipped, nor a folder here, nor in the local cache; "
            "allow the network to fetch it (--network), or choose from 'sed-core models'"
        )
    return fetch(repo, revision)


def cached(repo: str, revision: str) -> Path | None:
    """The cached snapshot that holds a whole checkpoint, without a look at the network."""
    paths = [huggingface_hub.try_to_load_from_cache(repo, f, revision=revision) for f in FILES]
    folders = {Path(path).parent if isinstance(path, str) else None for path in paths}
    folder = folders.pop() if len(folders) == 1 else None
    return folder if folder and _COMMIT.fullmatch(folder.name) else None


def fetch(repo: str, revision: str) -> Path:
    """Download a checkpoint at one commit and verify every byte of it."""
    if time.monotonic() < _silence["until"]:
        raise CheckpointError(_unreachable(repo))
    try:
        folder = _download(repo, _commit(repo, revision))
    except CheckpointError:
        raise
    except Exception as fault:  # whatever the library and its transport raise becomes a sentence
        raise CheckpointError(_sentence(fault, repo, revision)) from fault
    verify(folder)
    return folder


def _commit(repo: str, revision: str) -> str:
    """The full commit that a revision names now; a pinned commit must be answered with itself."""
    info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=PROBE_SECONDS)
    commit = info.sha or ""
    pinned = _COMMIT.fullmatch(revision) is not None
    if not _COMMIT.fullmatch(commit) or (pinned and commit != revision):
        raise CheckpointError(f"the Hub answered {commit[:50]!r} for {repo}@{revision}; try later")
    return commit


def _download(repo: str, commit: str) -> Path:
    folder = _download_file(repo, MANIFEST, commit).parent
    for name in sorted({*read_manifest(folder), *FILES}):
        _download_file(repo, name, commit)
    return folder


def _download_file(repo: str, name: str, commit: str) -> Path:
    hub: Any = huggingface_hub  # its own annotations are partial
    path = Path(hub.hf_hub_download(repo, name, revision=commit, etag_timeout=5))
    if path.parent.name != commit:
        raise CheckpointError(f"the Hub sent another commit than {commit} of {repo}; try later")
    return path


def _sentence(fault: BaseException, repo: str, revision: str) -> str:
    """What went wrong at the Hub, in words; the library often hides the cause in a chain."""
    chain = _chain(fault)
    for kind, sentence in (
        (errors.GatedRepoError, "{repo} is gated; accept its terms and run 'hf auth login'"),
        (
            errors.RepositoryNotFoundError,
            "the Hub knows no {repo}, or it is private; check its name",
        ),
        (
            errors.RevisionNotFoundError,
            "{repo} has no revision {revision}; leave it out or mend it",
        ),
        (errors.RemoteEntryNotFoundError, "{repo} is no checkpoint of sed-core; choose another"),
    ):
        if any(isinstance(link, kind) for link in chain):
            return sentence.format(repo=repo, revision=revision)
    for link in chain:
        if code := getattr(getattr(link, "response", None), "status_code", None):
            return f"the Hub is busy (status {code}) for {repo}; try again in a minute"
        if isinstance(link, OSError) and link.errno in (28, 30):
            return f"no room to keep {repo} ({link.strerror}); free some space or set HF_HOME"
    _silence["until"] = time.monotonic() + OFFLINE_SECONDS
    return _unreachable(repo)


def _chain(fault: BaseException) -> list[BaseException]:
    chain = [fault]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 8:
        chain.append(deeper)
    return chain


def _unreachable(repo: str) -> str:
    return (
        f"the Hub can't be reached for {repo}; check the connection, or choose a shipped checkpoint"
    )
