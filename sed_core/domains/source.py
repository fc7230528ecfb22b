"""Where data files lie, and how we know that they are the ones we mean."""

import hashlib
import os
from pathlib import Path


class DataError(ValueError):
    """Data that is missing or not what it should be, in one sentence that says what to do."""


def in_folder(name: str) -> Path | None:
    """The file of that name in the folder SED_DATA, if there is one."""
    folder = os.environ.get("SED_DATA")
    file = Path(folder).expanduser() / name if folder else None
    return file if file and file.is_file() else None


def looked(name: str) -> str:
    """Half a sentence for an error: where that file was looked for in vain."""
    folder = os.environ.get("SED_DATA")
    return f"SED_DATA ({folder}) holds no {name}" if folder else "SED_DATA is not set"


def read_known(file: Path, sha256: str) -> bytes:
    """The bytes of a file that has the sha256 we know; decode these, not the file again."""
    data = read(file)
    check(hashlib.sha256(data).hexdigest(), sha256, f"the file {file}", "copy it again")
    return data


def read(file: Path) -> bytes:
    """The bytes of a file; one that is not to be read becomes one sentence."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); check its permissions"
        ) from error


def check(got: str, wanted: str, what: str, remedy: str) -> None:
    """Refuse content whose sha256 is another one."""
    if got != wanted:
        raise DataError(
            f"{what} is not the one we know: wanted sha256 {wanted[:12]}..., got {got[:12]}...; "
            f"{remedy}"
        )
