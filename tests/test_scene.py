"""Laws of a scene: step k has k pairs, its chances sum to one, it is small enough to send."""

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from explorer.figures import COLOURS, gif, picture, png, shade, table
from explorer.player import html, payload
from explorer.scene import join, length, place, scene
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, Trace

SIDE, DIM, LATENT = 28, 784, 20


def ring() -> torch.Tensor:
    """A picture like a zero, in grey levels."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distance = ((x - 13.5) ** 2 / 0.55 + (y - 14) ** 2).sqrt()
    level = (255 * (1 - (distance - 7).abs() / 2.2)).clamp(0, 255).round()
    return level.flatten() / 255


def law(index: int, past: int, stop: float, rng: np.random.Generator) -> np.ndarray:
    """A next-index law that likes the neighbours of `index` and knows the order."""
    at = np.arange(DIM)
    near = (at % SIDE - index % SIDE) ** 2 + (at // SIDE - index // SIDE) ** 2
    weight = np.where(at > past, np.exp(-near / 2) * rng.uniform(0.3, 1, DIM) + 1e-5, 0)
    total = max(weight.sum(), 1e-12)
    return np.append(weight / total * (1 - stop), stop)


def decoded(dense: torch.Tensor, *, skip: int = 0, seed: int = 0) -> list[Step[SparseBatch]]:
    """The steps in which a decoder would have drawn one row."""
    rng = np.random.default_rng(seed)
    index, value = SparseBatch.from_dense(dense[None]).pairs(0)
    indices, values, steps = [*index.tolist(), DIM], [*value.tolist(), 0.0], []
    for k in range(skip, len(indices)):
        j, last = indices[k], indices[k - 1] if k else -1
        stop = 0.94 if j == DIM else 0.001
        next_law = law(min(j, DIM - 1), last, stop, rng)
        best = np.argsort(-next_law[:DIM], kind="stable")[:5]
        so_far = torch.zeros(1, DIM)
        so_far[0, indices[: min(k + 1, len(index))]] = torch.tensor(
            values[: min(k + 1, len(index))]
        )
        aux = {
            "index": torch.tensor([j]), "value": torch.tensor([values[k]]),
            "prob": torch.tensor([next_law[j]]), "stop": torch.tensor([stop]),
            "top_index": torch.tensor(best[None]), "top_prob": torch.tensor(next_law[best][None]),
            "mean": torch.tensor([0.95 * values[k]]), "sd": torch.tensor([0.07]),
            "next": torch.tensor(next_law[None]),
        }  # fmt: skip
        x = SparseBatch.from_dense(so_far)
        steps.append(Step("pairs", k + 1, len(indices), 1 - (k + 1) / len(indices), x, None, aux))
    return steps


def sample(dense: torch.Tensor | None = None, *, latent: int = LATENT, seed: int = 0) -> Trace:
    """A whole trace: a walk from noise to a latent, then the pairs of `dense`."""
    rng = torch.Generator().manual_seed(seed)
    noise, goal = torch.randn(1, 8, generator=rng), torch.randn(1, 8, generator=rng) + 1.5
    steps = []
    for i in range(1, latent + 1):
        share = math.sin(math.pi / 2 * i / latent)
        x0 = goal + (1 - share) * torch.randn(1, 8, generator=rng)
        x = share * goal + math.sqrt(max(0, 1 - share**2)) * noise
        steps.append(Step("latent", i, latent, 1 - i / latent, x, x0))
    return Trace((*steps, *decoded(ring() if dense is None else dense, seed=seed)))


def extras(trace: Trace, dense: torch.Tensor | None = None, *, seed: int = 1) -> dict:
    """Guesses on the way and a cloud of training latents, as the app gives them."""
    rng = torch.Generator().manual_seed(seed)
    final = ring() if dense is None else dense
    steps = sum(step.stage == "latent" for step in trace.steps)
    guesses = [
        torch.where(torch.rand(DIM, generator=rng) < i / steps, final, final.roll(2 - i % 5))
        for i in range(1, steps + 1)
    ]
    label = torch.arange(4000) % 10
    centre = torch.stack([torch.cos(label * 0.63), torch.sin(label * 0.63)], 1) * 2.6
    xy = centre + 0.5 * torch.randn(4000, 2, generator=rng)
    project = torch.randn(8, 2, generator=rng) / 3
    cloud = {"xy": xy, "label": label, "project": project, "origin": torch.zeros(2)}
    return {"guesses": torch.stack(guesses), "cloud": cloud}


def fork(trace: Trace, at: int) -> tuple[Trace, dict[str, int]]:
    """Another continuation from pair `at` on: the same ring, but thicker below."""
    kept = [step for step in trace.steps if step.stage == "pairs"][at - 1].x
    dense = ring().roll(1)
    last = int(kept.pairs(0)[0][-1])
    dense[: last + 1] = kept.to_dense()[0, : last + 1]
    steps = decoded(dense, skip=at, seed=5)
    return join(trace, at, Trace(tuple(steps))), {"at": at, "index": int(steps[0].aux["index"])}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return sample()


@pytest.fixture(scope="module")
def made(trace: Trace) -> dict:
    return scene(trace, width=SIDE, height=SIDE, title="A ring", **extras(trace))


def unpack(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def test_step_k_has_exactly_the_first_k_pairs_of_the_sample(made: dict, trace: Trace) -> None:
    index, value = trace.x.pairs(0)
    assert made["pairs"]["index"] == index.tolist()
    assert made["pairs"]["value"] == pytest.approx((255 * value).tolist(), rel=1e-4)
    for k in range(len(index) + 1):
        assert place(made, made["start"] + k) == ("pairs", k)
    assert length(made) == LATENT + 1 + len(index)
    assert place(made, 3) == ("latent", 3)


def test_every_law_sums_to_one_with_stop(made: dict) -> None:
    flat, at = unpack(made["next"]["law"]), 0
    for start, stop in zip(made["next"]["start"], made["next"]["stop"], strict=True):
        tail = flat[at : at + DIM - start]
        at += DIM - start
        assert ((tail / 255) ** 2).sum() + stop == pytest.approx(1, abs=0.02)  # 8 bits of sqrt(p)
    assert at == len(flat)


def test_named_alternatives_never_exceed_one(made: dict) -> None:
    for top, stop in zip(made["next"]["top"], made["next"]["stop"], strict=True):
        assert sum(p for _, p in top) + stop <= 1 + 1e-4


def test_a_scene_of_150_pairs_is_smaller_than_400_kb() -> None:
    dense = torch.zeros(DIM)
    dense[torch.arange(150) * 5 + 3] = 0.5
    long = sample(dense, latent=50)
    made = scene(long, width=SIDE, height=SIDE, recipe={"seed": 1}, **extras(long, dense))
    assert len(made["pairs"]["index"]) == 150
    assert len(json.dumps(made)) < 400_000


def test_the_id_names_the_content(made: dict, trace: Trace) -> None:
    again = scene(trace, width=SIDE, height=SIDE, title="A ring", **extras(trace))
    other = scene(trace, width=SIDE, height=SIDE, title="Another", **extras(trace))
    assert again["id"] == made["id"] != other["id"]
    assert json.loads(json.dumps(made)) == made


def test_a_trace_read_back_from_json_makes_the_same_scene(made: dict, trace: Trace) -> None:
    again = Trace.from_json(trace.to_json())
    assert (
        scene(again, width=SIDE, height=SIDE, title="A ring", **extras(trace))["id"] == made["id"]
    )


def test_a_fork_shares_its_first_pairs_and_says_where_it_leaves(trace: Trace, made: dict) -> None:
    forked, where = fork(trace, 40)
    other = scene(forked, width=SIDE, height=SIDE, fork=where, **extras(trace))
    assert other["fork"] == where
    assert other["pairs"]["index"][:40] == made["pairs"]["index"][:40]
    assert other["pairs"]["index"][40] == where["index"]
    assert other["pairs"]["index"] != made["pairs"]["index"]


def test_zero_guesses_stay_zero_and_small_values_do_not_become_zero(
    made: dict, trace: Trace
) -> None:
    guesses = extras(trace)["guesses"].numpy()
    rows = unpack(made["latent"]["guess"]).reshape(guesses.shape)
    assert ((rows == 0) == (guesses == 0)).all()
    assert made["latent"]["filled"] == (guesses != 0).sum(1).tolist()
    tiny = shade(np.array([0.0, 1e-9, 1.0]), low=1 / 255, top=1.0)
    assert tiny.tolist() == [0, 1, 255]


def test_sparse_and_dense_guesses_make_the_same_scene(trace: Trace) -> None:
    more = extras(trace)
    dense = scene(trace, width=SIDE, height=SIDE, **more)
    more["guesses"] = SparseBatch.from_dense(more["guesses"])
    assert scene(trace, width=SIDE, height=SIDE, **more)["id"] == dense["id"]


def test_the_map_keeps_its_way_inside_its_box(made: dict) -> None:
    for points in (made["map"]["path"], made["map"]["guess"]):
        assert len(points) == LATENT
        assert 0 <= np.min(points) <= np.max(points) <= 65535
    assert len(made["map"]["classes"]) == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: Trace(t.steps[:LATENT]), "needs decoding steps"),
        (lambda t: Trace(tuple(Step(s.stage, s.i, s.n, s.t, s.x) for s in t.steps)), "detail=True"),
    ],
)
def test_a_trace_that_cannot_be_played_is_refused_in_words(trace: Trace, change, words) -> None:
    with pytest.raises(ValueError, match=words):
        scene(change(trace), width=SIDE, height=SIDE)


def test_wrong_sizes_are_refused_in_words(trace: Trace) -> None:
    with pytest.raises(ValueError, match="width x height must be the dimension 784"):
        scene(trace, width=28, height=27)
    with pytest.raises(ValueError, match="one row of 784 values for each of 20 latent steps"):
        scene(trace, width=SIDE, height=SIDE, guesses=torch.zeros(3, DIM))
    with pytest.raises(ValueError, match="cannot keep 9999"):
        join(trace, 9999, trace)


def test_the_smallest_value_is_far_from_the_white_of_an_exact_zero() -> None:
    def luminance(colour: np.ndarray) -> float:
        share = colour / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light = [luminance(row) for row in table()]
    assert table()[0].tolist() == [255, 255, 255]
    assert 1.05 / (light[1] + 0.05) > 1.6  # and its hue is a yellow, the zero has none
    assert np.all(np.diff(light[1:]) < 0.003)  # darker means larger


def test_the_picture_has_grid_lines_on_zeros_and_table_colours_on_values() -> None:
    dense = torch.zeros(DIM)
    dense[5 * SIDE + 7] = 1.0
    image = np.asarray(picture(dense, SIDE, SIDE, zoom=10))
    assert image.shape == (281, 281, 3)
    assert image[5, 5].tolist() == [255, 255, 255]
    assert image[55, 75].tolist() == table()[255].tolist()
    assert image[0, 5].tolist() == [int(COLOURS["grid"][k : k + 2], 16) for k in (1, 3, 5)]


def test_png_and_gif_show_the_steps(made: dict) -> None:
    early = np.asarray(Image.open(io.BytesIO(png(made, made["start"] + 3))))
    late = np.asarray(Image.open(io.BytesIO(png(made, length(made)))))
    assert early.shape == late.shape
    assert (early != late).any()
    moving = Image.open(io.BytesIO(gif(made)))
    assert moving.n_frames > 5
    assert len(gif(made)) < 1_000_000


def test_a_page_stands_alone_and_cannot_be_broken_out_of(made: dict) -> None:
    page = html(made | {"title": "</script><script>alert(1)"}, title="<b>x</b>")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "<b>x</b>" not in page
    assert page.count("</script>") == 2


def test_the_player_takes_one_scene_or_two(made: dict) -> None:
    assert payload(made)["scenes"] == [made]
    with pytest.raises(ValueError, match="one scene or two"):
        payload([])
