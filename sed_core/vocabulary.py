"""The genes and the cell types that a model of cells was trained on, and their file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sed_core.store import CheckpointError
from sed_core.strict import exactly

LARGEST_FILE = 16 << 20
MOST_GENES, MOST_LABELS, LONGEST_NAME = 1_000_000, 1_000, 256


@dataclass(frozen=True)
class GeneVocabulary:
    """Genes in the order of a model's dimensions; the label column and its names, if it has one.

    Raises:
        ValueError: for names that are empty, longer than 256 characters, unprintable or there
            twice, for more than 1,000,000 genes or 1,000 labels, and for labels without a column.
    """

    genes: tuple[str, ...]
    label: str | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.genes, "gene", MOST_GENES)
        if self.label is None and not self.labels:
            return
        if self.label is None or not self.labels:
            raise ValueError(
                f"a label column and its names belong together, got {self.label!r:.80} and "
                f"{len(self.labels)} names; give both or neither"
            )
        _check((self.label,), "label column", 1)
        _check(self.labels, "label", MOST_LABELS)

    def number(self, label: str | int) -> int:
        """The number of a label given by its name or its number (from 0), as text or not.

        Raises:
            ValueError: listing the labels there are.
        """
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        known = map(str, range(len(self.labels)))
        if not isinstance(label, bool) and str(label) in known:
            return int(label)
        if not self.labels:
            raise ValueError(f"this model knows no labels, got {label!r:.80}; leave it out")
        more = ", ..." if len(self.labels) > 20 else ""
        raise ValueError(
            f"there is no label {label!r:.80}; the model knows {', '.join(self.labels[:20])}{more} "
            f"(0 to {len(self.labels) - 1})"
        )

    def to_json(self) -> bytes:
        """The content of vocabulary.json.

        Raises:
            ValueError: where it would be larger than 16 MB.
        """
        content = {"genes": self.genes, "label": self.label, "labels": self.labels}
        raw = (json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        if len(raw) > LARGEST_FILE:
            raise ValueError(
                f"the names of {len(self.genes):,} genes take {len(raw):,} bytes, at most "
                f"{LARGEST_FILE:,} are kept; choose fewer genes or shorter names"
            )
        return raw

    @classmethod
    def from_json(cls, raw: bytes, where: str = "vocabulary.json") -> "GeneVocabulary":
        """What `to_json` wrote.

        Args:
            where: name of the file in errors.

        Raises:
            CheckpointError: for what it can't have written.
        """
        if len(raw) > LARGEST_FILE:
            raise CheckpointError(f"{where} is larger than {LARGEST_FILE} bytes; fetch it again")
        try:
            content: Any = json.loads(raw)
        except (ValueError, RecursionError):
            raise CheckpointError(f"{where} can't be read as JSON; fetch it again") from None
        label = cast("dict[str, Any]", content).get("label") if isinstance(content, dict) else None
        kinds = {"genes": list, "label": type(None) if label is None else str, "labels": list}
        found = exactly(content, kinds, where)
        for key in ("genes", "labels"):
            if any(type(name) is not str for name in found[key]):
                raise CheckpointError(f"{where} {key} must be a list of names; fetch it again")
        try:
            return cls(tuple(found["genes"]), label, tuple(found["labels"]))
        except ValueError as fault:
            raise CheckpointError(f"{where} can't be used: {fault}; fetch it again") from None


def _check(names: Sequence[str], what: str, most: int) -> None:
    """Refuse names that a reader could trip over."""
    if not 1 <= len(names) <= most:
        raise ValueError(f"there must be 1 to {most:,} {what} names, got {len(names):,}")
    for name in names:
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"a {what} name has 1 to {LONGEST_NAME} printable characters, got {name!r:.80}; "
                "rename it"
            )
    if len(set(names)) < len(names):
        seen = set[str]()
        twin = next(name for name in names if name in seen or seen.add(name))
        raise ValueError(f"the {what} name {twin!r:.80} stands twice; name each one once")
