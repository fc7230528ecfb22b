"""What changes a result, declared once: parameters <-> widgets <-> URL <-> recipe.

The widgets bind themselves to the URL (one key a parameter); `Params` is what they say. Values
that do not belong are refused by `read`, whether they come from a link or from a widget.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from explorer.kinds import MNIST, Kind

STOPS = {0.0: "0 off", 1.0: "1", 2.0: "2", 4.0: "4", 8.0: "8"}
STEPS = (5, 10, 20, 50, 100)
SAMPLERS = ("ddim", "ddpm")
CLASSES = 10
LARGEST_GUIDANCE, LARGEST_TEMPERATURE, LARGEST_SEED = 20.0, 2.0, 2**31 - 1


@dataclass(frozen=True)
class Params:
    """Everything that changes a result; `label` is a class or None for any."""

    model: str = "sed-mnist"
    label: int | None = 3
    guidance: float = 2.0
    steps: int = 50
    sampler: str = "ddim"
    eta: float = 0.0
    temperature: float = 1.0
    seed: int = 7

    def query(self) -> dict[str, str]:
        """Every parameter as the URL writes it."""
        return {key: write(value) for key, value in asdict(self).items()}

    def link(self, page: str, sha: str) -> str:
        """A link that says everything, so that it means the same when a default changes."""
        return f"{page}?{urlencode({**self.query(), 'sha': sha[:8]})}"

    def command(self, out: str = "sample.npz") -> str:
        """The same sample from the command line."""
        label = "" if self.label is None else f" --label {self.label}"
        eta = f" --eta {self.eta:g}" if self.sampler == "ddim" else ""
        return (
            f"sed-core sample {self.model}{label} --guidance {self.guidance:g} "
            f"--steps {self.steps} --sampler {self.sampler}{eta} "
            f"--temperature {self.temperature:g} --seed {self.seed} --out {out}"
        )


DEFAULTS = Params()
KEYS = tuple(field.name for field in fields(Params))


def stamp(params: Params, sha: str) -> str:
    """First 8 hex digits of the sha256 of parameters and model: the name of a result."""
    return named({**asdict(params), "sha": sha})


def named(said: Mapping[str, Any]) -> str:
    """First 8 hex digits of the sha256 of everything that makes a result."""
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read(
    values: Mapping[str, Any], models: Sequence[str], kinds: Mapping[str, Kind] | None = None
) -> tuple[Params, list[str]]:
    """Parameters from what a URL or a panel says; what does not belong is named and left out.

    Args:
        kinds: what each model was trained on; its classes bound the label.
    """
    kept, ignored = {}, []
    for key in KEYS:
        if key not in values:
            continue
        try:
            kept[key] = _read(key, str(values[key]), models)
        except (ValueError, OverflowError):
            ignored.append(f"{key}={str(values[key])[:40]}")
    params = Params(**kept)
    classes = len((kinds or {}).get(params.model, MNIST).classes)
    if params.label is not None and params.label >= classes:
        ignored += [f"label={params.label}"] if "label" in kept else []
        params = replace(params, label=None)
    return params, ignored


def _read(key: str, text: str, models: Sequence[str]) -> Any:
    readers: dict[str, Callable[[str], Any]] = {
        "model": lambda text: one_of(text, models),
        "label": lambda text: None if text == "any" else whole(text, CLASSES - 1),
        "guidance": lambda text: number(text, LARGEST_GUIDANCE),
        "steps": lambda text: int(one_of(text, [str(steps) for steps in STEPS])),
        "sampler": lambda text: one_of(text, SAMPLERS),
        "eta": lambda text: number(text, 1.0),
        "temperature": lambda text: number(text, LARGEST_TEMPERATURE),
        "seed": lambda text: whole(text, LARGEST_SEED),
    }
    return readers[key](text)


def one_of(text: str, known: Sequence[str]) -> str:
    """A text that is one of those known; ValueError for another."""
    if text not in known:
        raise ValueError(f"expected one of {', '.join(known)}, got {text!r}")
    return text


def whole(text: str, largest: int) -> int:
    """A text as a whole number up to `largest`; ValueError for what is none."""
    if not (text.isascii() and text.isdigit() and int(text) <= largest):
        raise ValueError(f"expected a whole number from 0 to {largest}, got {text!r}")
    return int(text)


def number(text: str, largest: float) -> float:
    """A text as a number up to `largest`; ValueError for what is none."""
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= largest):
        raise ValueError(f"expected a number from 0 to {largest:g}, got {text!r}")
    return round(value, 4)


def write(value: Any) -> str:
    """A parameter as the URL writes it."""
    if value is None:
        return "any"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- widgets -------------------------------------------------------------------------------------


def refuse_bad_link(kinds: Mapping[str, Kind]) -> list[str]:
    """Take values that do not belong out of the URL before a widget reads them; say which.

    Args:
        kinds: the models that can be asked for, and what each was trained on.
    """
    given = {key: st.query_params[key] for key in KEYS if key in st.query_params}
    _, ignored = read(given, list(kinds), kinds)
    for note in ignored:
        del st.query_params[note.split("=")[0]]
    if ignored:
        st.session_state["ignored"] = ignored
    return st.session_state.get("ignored", [])


def panel(kinds: Mapping[str, Kind]) -> Params:
    """Draw the controls and return what they say."""
    with st.container(gap="small"):
        top = st.container()
        with st.expander("More settings", key="more"):
            _more(list(kinds))
    with top:
        _few(kinds.get(st.session_state["model"], MNIST))
    said = {key: st.session_state.get(key) for key in KEYS if _said(key)}
    return read(said, list(kinds), kinds)[0]


def _said(key: str) -> bool:
    return st.session_state.get(key) is not None


def _few(kind: Kind) -> None:
    """The four controls a newcomer needs."""
    choose_class(kind)
    guidance_stops()
    steps()
    seed()


def mirror(
    prefix: str,
    change: Callable[..., None],
    field: str,
    value: Any,
    take: Callable[[Any], Any] = lambda value: value,
) -> dict[str, Any]:
    """Key and callback of a widget that shows a field and writes it back by `change`."""
    key = f"{prefix}{field}"
    st.session_state[key] = value

    def changed() -> None:
        if st.session_state[key] is not None:
            change(**{field: take(st.session_state[key])})

    return {"key": key, "on_change": changed}


def choose_class(kind: Kind) -> None:
    """Pick a class by its name; the URL and the recipe hold its number.

    A widget bound to the URL would write the name there, so this one is bound by hand.
    """
    options = ["any", *map(str, range(len(kind.classes)))]
    state = st.session_state
    label = state.setdefault("label", st.query_params.get("label", write(DEFAULTS.label)))
    state["label"] = state["label_choice"] = label if label in options else "any"
    names = dict(zip(options, ["any", *kind.classes], strict=True))
    help_words = "The class the model is asked for; any: it may draw what it likes."
    if kind is MNIST:
        st.segmented_control("Digit", options, required=True, key="label_choice", wrap=True,
                             on_change=_take_class, help=help_words)  # fmt: skip
    else:
        st.selectbox("Class", options, format_func=names.__getitem__, key="label_choice",
                     on_change=_take_class, help=help_words)  # fmt: skip
    if state["label"] != write(DEFAULTS.label):
        st.query_params["label"] = state["label"]
    elif "label" in st.query_params:
        del st.query_params["label"]


def guidance_stops() -> None:
    """Named stops of the guidance; any other value stands in `guidance_field`."""
    guidance = st.session_state.get("guidance", DEFAULTS.guidance)
    st.session_state["guidance_stop"] = guidance if guidance in STOPS else None
    st.segmented_control(
        "Guidance",
        list(STOPS),
        format_func=STOPS.__getitem__,
        key="guidance_stop",
        on_change=_take_stop,
        help="How strongly to push towards the class. 0 ignores it, 1 follows it, more exaggerates "
        "it (clearer, less varied). Any other value: More settings.",
        wrap=True,
    )


def steps() -> None:
    """Steps of the sampler."""
    st.segmented_control(
        "Steps",
        STEPS,
        default=DEFAULTS.steps,
        required=True,
        key="steps",
        help="How many times the network cleans the noise before the pairs are written.",
        wrap=True,
        bind="query-params",
    )


def seed() -> None:
    """Where chance starts, and dice for another start."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(
            "Seed",
            0,
            LARGEST_SEED,
            DEFAULTS.seed,
            1,
            key="seed",
            bind="query-params",
            help="The same seed and settings give the same sample, here and on any machine.",
        )
        st.button("New seed", icon=":material/casino:", on_click=_roll, key="dice")


def guidance_field() -> None:
    """The guidance as a number."""
    st.number_input(
        "Guidance, exactly",
        0.0,
        LARGEST_GUIDANCE,
        DEFAULTS.guidance,
        0.5,
        key="guidance",
        bind="query-params",
    )


def sampler() -> None:
    """How a step is taken."""
    st.segmented_control(
        "Sampler",
        SAMPLERS,
        default=DEFAULTS.sampler,
        required=True,
        key="sampler",
        help="DDIM walks straight; DDPM adds fresh noise at each step.",
        bind="query-params",
    )


def _more(models: Sequence[str]) -> None:
    """The controls a second look needs."""
    guidance_field()
    st.number_input(
        "Temperature of the pairs",
        0.0,
        LARGEST_TEMPERATURE,
        DEFAULTS.temperature,
        0.1,
        key="temperature",
        help="0 always takes the most probable next pixel; 1 draws as the model has learned.",
        bind="query-params",
    )
    sampler()
    st.number_input(
        "Eta (noise in DDIM steps)",
        0.0,
        1.0,
        DEFAULTS.eta,
        0.1,
        key="eta",
        bind="query-params",
        help="0: the start noise decides all; 1: as much fresh noise as DDPM, which ignores this.",
    )
    default = models.index(DEFAULTS.model) if DEFAULTS.model in models else 0
    st.selectbox("Model", models, index=default, key="model", bind="query-params")
    st.button("Reset all settings", on_click=_reset, key="reset")


def choose_model(name: str) -> None:
    """Select a model from another page; call it in a callback."""
    st.session_state["model"] = name


def _take_class() -> None:
    st.session_state["label"] = st.session_state["label_choice"]


def _take_stop() -> None:
    if st.session_state["guidance_stop"] is not None:
        st.session_state["guidance"] = st.session_state["guidance_stop"]


def _roll() -> None:
    st.session_state["seed"] = secrets.randbelow(10_000)


def _reset() -> None:
    for key in KEYS:
        value = getattr(DEFAULTS, key)
        st.session_state[key] = write(value) if key == "label" else value
