"""Parameters <-> URL <-> recipe: what is written is read back, what does not belong is named."""

import math
import string
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer import controls
from explorer.controls import DEFAULTS, KEYS, Params, read, stamp

MODELS = ["sed-mnist", "sed-fashion"]
SHA = "ab" * 32


def hundredths(largest):
    return st.integers(0, round(largest * 100)).map(lambda n: n / 100)


PARAMS = st.builds(
    Params,
    model=st.sampled_from(MODELS),
    label=st.none() | st.integers(0, 9),
    guidance=hundredths(controls.LARGEST_GUIDANCE),
    steps=st.sampled_from(controls.STEPS),
    sampler=st.sampled_from(controls.SAMPLERS),
    eta=hundredths(1),
    temperature=hundredths(controls.LARGEST_TEMPERATURE),
    seed=st.integers(0, controls.LARGEST_SEED),
)


@given(PARAMS)
def test_a_link_says_everything(params):
    link = urlsplit(params.link("http://localhost:8501/decode", SHA))
    query = dict(parse_qsl(link.query))
    assert read(query, MODELS) == (params, [])
    assert query["sha"] == SHA[:8] and link.path == "/decode"


@given(PARAMS, PARAMS)
def test_the_stamp_names_the_parameters_and_the_model(one, other):
    assert (stamp(one, SHA) == stamp(other, SHA)) == (one == other)
    assert stamp(one, SHA) != stamp(one, "cd" * 32)
    assert len(stamp(one, SHA)) == 8 and set(stamp(one, SHA)) <= set(string.hexdigits.lower())


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("seed", "abc"),
        ("seed", "-1"),
        ("seed", "1.5"),
        ("seed", "nan"),
        ("seed", str(2**40)),
        ("seed", "٣"),
        ("seed", ""),
        ("guidance", "99"),
        ("guidance", "nan"),
        ("guidance", "inf"),
        ("guidance", "-1"),
        ("guidance", "1e400"),
        ("eta", "2"),
        ("temperature", "x" * 5000),
        ("steps", "7"),
        ("steps", "50.0"),
        ("label", "ten"),
        ("label", "10"),
        ("sampler", "DDIM; rm"),
        ("model", "../../etc/passwd"),
        ("model", ""),
    ],
)
def test_what_does_not_belong_is_named_and_left_at_its_default(key, bad):
    params, ignored = read({key: bad, "unknown": "1"}, MODELS)
    assert params == DEFAULTS
    assert ignored == [f"{key}={bad[:40]}"]


@given(st.dictionaries(st.sampled_from(KEYS), st.text(max_size=60)))
def test_no_text_in_a_link_makes_trouble(values):
    params, ignored = read(values, MODELS)
    assert read(params.query(), MODELS) == (params, [])
    assert all(
        math.isfinite(number) for number in (params.guidance, params.eta, params.temperature)
    )
    assert len(ignored) <= len(values)


def test_good_values_survive_beside_bad_ones():
    params, ignored = read({"seed": "abc", "label": "any", "steps": "20"}, MODELS)
    assert params == replace(DEFAULTS, label=None, steps=20)
    assert ignored == ["seed=abc"]


@given(PARAMS)
def test_the_command_line_says_the_same(params):
    words = params.command().split()
    said = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[:3] == ["sed-core", "sample", params.model]
    assert int(said["--seed"]) == params.seed and float(said["--guidance"]) == params.guidance
    assert said.get("--label") == (None if params.label is None else str(params.label))
