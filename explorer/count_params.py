"""What changes a result of the page Counts: parameters <-> widgets <-> URL <-> recipe.

One `Params` in the visitor's session is what counts; widgets (`explorer.count_panel`) show it and
write it back, and the URL says what is not as usual. Keys of the URL are the names of the fields.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args
from urllib.parse import urlencode

import streamlit as st

from explorer import controls
from explorer.controls import named, one_of, whole, write
from explorer.eraser import unpack
from sed_core.births import Attrition, BirthLaw
from sed_core.imputation import Method
from sed_core.thinning import SURVIVAL, Spacing

VIEWS = {"watch": "Watch", "bench": "Toy bench", "fill": "Fill in"}
DATA = {"digit": "Digit", "ten": "Ten counts"}
STEPS = (10, 25, 50, 100, 200)
OWN = "own"  # the schedule that a model comes with
ATTRITIONS, BIRTHS = get_args(Attrition), get_args(BirthLaw)
SPACINGS, METHODS = get_args(Spacing), get_args(Method)
SIZES, DRAWS = (1_000, 4_000), (4, 8, 16)
SOURCES = {"sample": "A sample of the model", "test": "A test digit"}
HAND = "hand"
KINDS = {
    HAND: "by hand", "scattered": "scattered 50 %", "left": "left half", "lower": "lower half",
    "middle": "middle", "all": "all", "nothing": "nothing",
}  # fmt: skip
KNOWN = {"unknown": "unknown", "class": "told"}
DIM, TEST_DIGITS = 784, 10_000
LARGEST_STRENGTH, MOST_ROUNDS, LONGEST_JUMP = 50.0, 5, 50
WITHOUT_STRENGTH = ("none", "max")


@dataclass(frozen=True)
class Params:
    """Everything that changes a result of one of the three views; `label` None is any digit."""

    view: str = "watch"
    data: str = "digit"
    label: int | None = 3
    guidance: float = 2.0
    steps: int = 50
    seed: int = 7
    schedule: str = OWN
    spacing: str = "t"
    attrition: str = "none"
    strength: float = 0.02
    births: str = "stochastic"
    model: str = ""  # the first that there is
    n: int = 1_000
    source: str = "sample"
    number: int = 7  # seed of the digit to erase, or its place among the test digits
    kind: str = "lower"
    mask: str = ""
    draws: int = 8
    method: str = "conditional"
    rounds: int = 1
    jump: int = 10
    known: str = "unknown"

    @property
    def subject(self) -> str:
        """Which data the view is about: a digit, or ten counts."""
        return {"bench": "ten", "fill": "digit"}.get(self.view, self.data)

    def said(self) -> dict[str, Any]:
        """The parameters that matter here: a result is the same whatever the others are."""
        keys = {*EVERYWHERE, *OF_VIEW[self.view]}
        if self.view == "watch" and self.subject == "digit":
            keys |= {"label", "guidance"}
        if self.view == "fill" and self.source == "sample":
            keys.add("label")
        if self.kind == HAND and self.view == "fill":
            keys.add("mask")
        if self.method == "replace" and self.view == "fill":
            keys |= {"rounds", "jump"}
        if self.attrition not in WITHOUT_STRENGTH:
            keys.add("strength")
        return {key: value for key, value in asdict(self).items() if key in keys}

    def stamp(self, sha: str) -> str:
        """The name of a result."""
        return named({**self.said(), "sha": sha})

    def link(self, page: str, sha: str) -> str:
        """A link that says everything, so that it means the same when a default changes."""
        said = {key: write(value) for key, value in self.said().items()}
        return f"{page}?{urlencode({**said, 'sha': sha[:8]})}"

    def command(self) -> str:
        """The same result from the command line, as far as it has a command."""
        if self.view == "fill":
            return self._impute()
        names = [self.model] if self.view == "watch" else ["counts-toy", "gauss-toy", "masked-toy"]
        return "\n".join(self._sample(name) for name in names)

    def _sample(self, name: str) -> str:
        words = [f"sed-core sample {name}"]
        if self.view == "bench":
            words.append(f"--samples {self.n}")
        elif self.subject == "digit":
            words += [] if self.label is None else [f"--label {self.label}"]
            words.append(f"--guidance {self.guidance:g}")
        words.append(f"--steps {self.steps} --seed {self.seed}")
        if name == self.model:
            words.append(self._way())
        return " ".join([*words, f"--out {name}.npz"])

    def _impute(self) -> str:
        words = [f"sed-core impute {self.model} rows.npz --draws {self.draws}"]
        words.append(f"--steps {self.steps} --seed {self.seed} {self._way()}")
        if self.method == "replace":
            words.append(f"--method replace --rounds {self.rounds} --jump {self.jump}")
        if self.known == "class" and self.label is not None:
            words.append(f"--label {self.label}")
        return " ".join([*words, "--out filled.npz"])

    def _way(self) -> str:
        """How CountsDiff goes from nothing to counts."""
        schedule = "" if self.schedule == OWN else f"--schedule {self.schedule} "
        strength = "" if self.attrition in WITHOUT_STRENGTH else f" --strength {self.strength:g}"
        return (
            f"{schedule}--spacing {self.spacing} --attrition {self.attrition}{strength} "
            f"--births {self.births}"
        )


EVERYWHERE = ("view", "steps", "seed", "schedule", "spacing", "attrition", "births", "model")
OF_VIEW: Mapping[str, tuple[str, ...]] = {
    "watch": ("data",),
    "bench": ("n",),
    "fill": ("source", "number", "kind", "draws", "method", "known"),
}
DEFAULTS = Params()
KEYS = tuple(field.name for field in fields(Params))
Models = Mapping[str, Sequence[str]]  # names of the models of each data


# -- what a link says ------------------------------------------------------------------------------


def read(
    values: Mapping[str, str], models: Models, sources: Sequence[str] = tuple(SOURCES)
) -> tuple[Params, list[str]]:
    """Parameters from what a link says; what does not belong is named and left out."""
    kept, ignored = {}, []
    for key in (key for key in KEYS if key in values):
        try:
            kept[key] = _read(key, values[key], models, sources)
        except (ValueError, OverflowError):
            ignored.append(f"{key}={values[key][:40]}")
    params = Params(**kept)
    for key in _contradictions(params):
        ignored.append(f"{key}={values.get(key, '')[:40]}")
        params = replace(params, **{key: getattr(DEFAULTS, key)})
    return _with_model(params, models), ignored


def _read(key: str, text: str, models: Models, sources: Sequence[str]) -> Any:
    known = [name for names in models.values() for name in names]
    choices: dict[str, Sequence[str]] = {
        "view": [*VIEWS], "data": [*DATA], "schedule": [OWN, *SURVIVAL], "spacing": SPACINGS,
        "attrition": ATTRITIONS, "births": BIRTHS, "model": known, "source": sources,
        "kind": [*KINDS], "method": METHODS, "known": [*KNOWN],
    }  # fmt: skip
    numbers = {"steps": STEPS, "n": SIZES, "draws": DRAWS}
    readers: dict[str, Callable[[str], Any]] = {
        "label": lambda text: None if text == "any" else whole(text, 9),
        "guidance": lambda text: float(one_of(text, [f"{stop:g}" for stop in controls.STOPS])),
        "seed": lambda text: whole(text, controls.LARGEST_SEED),
        "number": lambda text: whole(text, controls.LARGEST_SEED),
        "strength": lambda text: controls.number(text, LARGEST_STRENGTH),
        "rounds": lambda text: _from_one(text, MOST_ROUNDS),
        "jump": lambda text: _from_one(text, LONGEST_JUMP),
        "mask": _mask,
    }
    if key in choices:
        return one_of(text, choices[key])
    if key in numbers:
        return int(one_of(text, [str(number) for number in numbers[key]]))
    return readers[key](text)


def _contradictions(params: Params) -> list[str]:
    """Keys whose values are fine by themselves, but not beside the others."""
    wrong = []
    if params.strength > largest_strength(params.attrition):
        wrong.append("strength")
    if params.source == "test" and params.number >= TEST_DIGITS:
        wrong.append("number")
    if params.kind == HAND and not params.mask:
        wrong.append("kind")
    return wrong


def _from_one(text: str, largest: int) -> int:
    if whole(text, largest) < 1:
        raise ValueError(f"expected a whole number from 1 to {largest}, got {text!r}")
    return int(text)


def _mask(text: str) -> str:
    unpack(text, DIM)
    return text


def _with_model(params: Params, models: Models) -> Params:
    """The model asked for where it is one of the view's data, else the first of those."""
    there = list(models.get(params.subject, ()))
    fitting = params.model if params.model in there else next(iter(there), "")
    return replace(params, model=fitting)


def largest_strength(attrition: str) -> float:
    """The most that the strength of a kind of attrition can mean."""
    return 1.0 if attrition in ("rescaled", "capped") else LARGEST_STRENGTH


# -- the session and the URL -----------------------------------------------------------------------


def asked(models: Models, sources: Sequence[str]) -> Params:
    """What this visitor asks for; at first what the link says.

    Args:
        sources: of the digit to erase a part of, as far as they are on this machine.
    """
    state = st.session_state
    if "counts_params" not in state:
        given = {key: st.query_params[key] for key in KEYS if key in st.query_params}
        state["counts_params"], state["counts_ignored"] = read(given, models, sources)
    state["counts_params"] = _with_model(state["counts_params"], models)
    return state["counts_params"]


def ignored() -> list[str]:
    """What the link said that this page can't mean."""
    return st.session_state.get("counts_ignored", [])


def change(**values: Any) -> None:
    """Ask for something else."""
    params = replace(st.session_state["counts_params"], **values)
    if params.strength > largest_strength(params.attrition):
        params = replace(params, strength=DEFAULTS.strength)
    if params.source == "test" and params.number >= TEST_DIGITS:
        params = replace(params, number=DEFAULTS.number)
    st.session_state["counts_params"] = params


def write_url(params: Params, models: Models) -> None:
    """Say in the URL what is not as usual and matters here."""
    said, query = params.said(), st.query_params
    for key in KEYS:
        default = _with_model(replace(params, model=""), models).model if key == "model" else None
        usual = key not in said or said[key] == (default or getattr(DEFAULTS, key))
        if not usual:
            query[key] = write(said[key])
        elif key in query:
            del query[key]
