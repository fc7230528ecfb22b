"""What a visitor reads when something fails: one sentence; the log keeps the rest."""

import logging
import secrets
from types import TracebackType

LOG = logging.getLogger("explorer")
OURS = ("sed_core", "explorer")


def sentence(error: BaseException) -> str:
    """What to show for an error: its own words where they are ours, else a code of the log."""
    if isinstance(error, ValueError) and _raised_by_us(error.__traceback__):
        return str(error)
    code = secrets.token_hex(3)
    LOG.error("fault %s", code, exc_info=error)
    return f"Something went wrong here. The server's log tells more under code {code}; try again."


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether the innermost frame of a traceback lies in our own packages."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").split(".")[0] in OURS
