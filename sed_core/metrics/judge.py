"""A judge of digits: a small classifier of our own, and the feature space that it sees in."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DigitJudgeConfig:
    """Sizes of the judge: picture side, channels, width of the features, classes."""

    side: int = 28
    channels: int = 32
    features: int = 96
    classes: int = 10


class DigitJudge(nn.Module):
    """Says which class a picture shows; its features tell how far apart two sets of them are."""

    CONFIGS: ClassVar[Mapping[str, type]] = {"judge": DigitJudgeConfig}

    def __init__(self, judge: DigitJudgeConfig | None = None):
        super().__init__()
        self.config = c = judge or DigitJudgeConfig()
        if c.side % 4:
            raise ValueError(f"side must be a multiple of 4, got {c.side}")
        self.stem = nn.Sequential(
            _block(1, c.channels, kernel=5, stride=2),
            _block(c.channels, c.channels),
            _block(c.channels, 2 * c.channels, stride=2),
            _block(2 * c.channels, 2 * c.channels),
            _block(2 * c.channels, 2 * c.channels, stride=2),
        )
        cells = math.ceil(c.side / 8) ** 2
        self.neck = nn.Linear(2 * c.channels * cells, c.features)
        self.head = nn.Linear(c.features, c.classes)

    @property
    def configs(self) -> dict[str, DigitJudgeConfig]:
        """The configuration this judge was built from, by part."""
        return {"judge": self.config}

    def features(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """The layer before the last, one row a picture; pixels lie in [0, 1]."""
        side = self.config.side
        if images.ndim != 2 or images.shape[1] != side * side:
            raise ValueError(
                f"the judge reads rows of {side * side} pixels, got {tuple(images.shape)}; flatten"
            )
        maps = self.stem(rearrange(images, "b (h w) -> b 1 h w", h=side))
        return F.relu(self.neck(rearrange(maps, "b c h w -> b (c h w)")))

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Class logits of each picture."""
        return self.head(self.features(images))


def _block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def new_judge(config: DigitJudgeConfig | None = None, *, seed: int = 0) -> DigitJudge:
    """An untrained judge whose weights depend on the seed only; global chance is left as it was."""
    chance = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        judge = DigitJudge(config)
    for part in judge.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=chance)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
    return judge


# training --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class JudgeProgress:
    """One finished training step, in the words of training.Progress, which no metric may import."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Tensor]
    step: int
    steps: int
    rate: float
    seconds_left: float
    stage: str = "judge"


def train_judge(
    judge: DigitJudge,
    images: UInt8[Tensor, "n D"],
    labels: Int[Tensor, " n"],
    *,
    epochs: int = 7,
    batch: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
) -> Iterator[JudgeProgress]:
    """Teach the judge in place on shifted, turned and scaled pictures; in eval mode at the end."""
    device, chance = next(judge.parameters()).device, torch.Generator().manual_seed(seed)
    steps = max(1, round(epochs * len(images) / batch))
    optimiser = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.02)
    rows, start = _shuffled(len(images), batch, chance), time.perf_counter()
    judge.train()
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = lr * _warm_cosine(step / steps)
        chosen = next(rows)
        x = jitter(images[chosen].float() / 255, judge.config.side, generator=chance)
        loss, correct = _learn(judge, optimiser, x.to(device), labels[chosen].to(device))
        rate = step / (time.perf_counter() - start)
        parts = {"cross_entropy": loss, "accuracy": correct}
        yield JudgeProgress(loss, parts, step, steps, rate, (steps - step) / rate)
    judge.eval().requires_grad_(False)


def _learn(
    judge: DigitJudge, optimiser: torch.optim.Optimizer, x: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """One optimiser step; the loss and the share of right answers, detached."""
    logits = judge(x)
    loss = F.cross_entropy(logits, label)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach(), (logits.detach().argmax(1) == label).float().mean()


def _shuffled(count: int, batch: int, chance: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of rows, every row once an epoch; a short last batch is left out."""
    batch = min(batch, count)
    while True:
        order = torch.randperm(count, generator=chance)
        for first in range(0, count - batch + 1, batch):
            yield order[first : first + batch]


def _warm_cosine(share: float) -> float:
    """Learning rate over the share of training done: a tenth of warm-up, then a cosine to zero."""
    return share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def jitter(
    images: Float[Tensor, "B D"], side: int, *, generator: torch.Generator
) -> Float[Tensor, "B D"]:
    """Pictures turned, scaled, sheared, shifted a little (sd: 6 degrees, 5 %, 0.08, 1 pixel)."""
    turn, slant, grow_x, grow_y, dx, dy = torch.randn(6, len(images), generator=generator)
    turn, slant = turn * math.radians(6), slant * 0.08
    grow_x, grow_y, shift = torch.exp(0.05 * grow_x), torch.exp(0.05 * grow_y), 2 / side
    top = torch.stack([grow_x * turn.cos(), -turn.sin() + slant, dx * shift], dim=-1)
    bottom = torch.stack([turn.sin(), grow_y * turn.cos(), dy * shift], dim=-1)
    x = rearrange(images, "b (h w) -> b 1 h w", h=side)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(x.shape), align_corners=False)
    return rearrange(F.grid_sample(x, grid, align_corners=False), "b 1 h w -> b (h w)")


# reading ---------------------------------------------------------------------------------------


@torch.no_grad()
def read(
    judge: DigitJudge, images: Float[Tensor, "B D"], *, batch: int = 500
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B F"]]:
    """Class probabilities and features of many pictures, a batch at a time, on the CPU."""
    device = next(judge.parameters()).device
    features = torch.cat(
        [judge.features(part.to(device)).cpu() for part in torch.split(images, batch)]
    )
    weight, bias = judge.head.weight.cpu(), judge.head.bias.cpu()
    return torch.softmax(features @ weight.T + bias, dim=1), features
