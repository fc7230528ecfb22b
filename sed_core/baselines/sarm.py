"""SARM: gate and value of one pixel after the other, along a fixed path (Lu et al. 2021).

    log p(x) = sum_k  log p(gate_k | x_<k) + gate_k log p(value_k | x_<k)

One masked network (MADE, Germain et al. 2015) gives the gates and value laws of a whole row at once
in training; sampling writes one pixel a step, zeros included. The original reads an inner window
before the rest; here the path is a spiral out of the centre.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, pi
from typing import Any, ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sed_core.baselines.values import DenseValues, dense
from sed_core.chance import Chance, normal, split, uniform
from sed_core.diffusion import Label, Sampling, check_sampling, hide, labels
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.training import Loss

LOWEST_LOG_SD = -5.0
PARTS = 3  # numbers that describe a component of the value law: weight, mean, log sd


@dataclass(frozen=True, kw_only=True)
class SARMConfig:
    """Shape of the masked network and the law of a value."""

    dim: int
    side: int = 0  # of pictures, for the spiral path; 0 for the order of the dimensions
    hidden: int = 512
    components: int = 4  # of the Gaussian mixture that a value follows
    classes: int = 0
    label_dropout: float = 0.1
    path: Literal["spiral", "raster"] = "spiral"
    step: float = 0.0  # quantisation step of the data, in data units; 0 for continuous data
    smallest: float = 1e-6  # smallest non-zero of the training data, in data units

    def __post_init__(self) -> None:
        if self.side and self.side**2 != self.dim:
            raise ValueError(f"{self.dim} dimensions are no picture of side {self.side}")


class SARM(nn.Module):
    """Sparse autoregressive model: exact zeros by gates, at the price of one step a pixel.

    Args:
        values: how data become network units.
        network: shape of the masked network.
    """

    CONFIGS: ClassVar[dict[str, type[Any]]] = {"values": DenseValues, "network": SARMConfig}

    def __init__(self, values: DenseValues, network: SARMConfig):
        super().__init__()
        c = self.config = network
        self.configs = {"values": values, "network": network}
        self.values, self.dim, self.classes = values, c.dim, c.classes
        self.outputs = 1 + PARTS * c.components
        self.label = nn.Embedding(c.classes + 1, c.hidden)  # the last: unknown
        self.enter = nn.Linear(2 * c.dim, c.hidden)  # gates, then values
        self.hidden = nn.Linear(c.hidden, c.hidden)
        self.leave = nn.Linear(c.hidden, c.dim * self.outputs)
        rank = ranks(c)
        degree = torch.arange(c.hidden) % max(1, c.dim - 1)  # last rank that a unit may see
        self.register_buffer("rank", rank, persistent=False)
        self.register_buffer("see", degree[:, None] >= rank.repeat(2), persistent=False)
        self.register_buffer("pass_on", degree[:, None] >= degree, persistent=False)
        self.register_buffer("tell", rank[:, None] > degree, persistent=False)

    # -- loss ------------------------------------------------------------------------------------

    def loss(
        self,
        batch: SparseBatch | Float[Tensor, "B D"],
        *,
        label: Label = None,
        generator: torch.Generator,
    ) -> Loss:
        """-log p(gates) - log p(values of the non-zeros), a sample."""
        x = dense(batch, self.dim).to(self.enter.weight.device)
        gate, value = (x != 0).to(x.dtype), self.values.forward(x)
        known = hide(
            self._labels(label, len(x)), self.classes, self.config.label_dropout, generator
        )
        law = self.law(gate, value, known)
        gates = F.binary_cross_entropy_with_logits(law[..., 0], gate, reduction="none").sum(1)
        values = (mixture_nll(value, law[..., 1:]) * gate).sum(1)
        parts = {"gates": gates.mean(), "values": values.mean()}
        return Loss(parts["gates"] + parts["values"], parts)

    def law(
        self, gate: Float[Tensor, "B D"], value: Float[Tensor, "B D"], label: Int[Tensor, " B"]
    ) -> Float[Tensor, "B D O"]:
        """Gate logit and value mixture of every pixel, given those before it on the path."""
        x = torch.cat([gate, value * gate], 1)
        h = F.linear(x, self.enter.weight * self._mask("see"), self.enter.bias)
        h = self._middle(h + self.label(label))
        tell = self._mask("tell").repeat_interleave(self.outputs, 0)
        out = F.linear(h, self.leave.weight * tell, self.leave.bias)
        return rearrange(out, "b (d o) -> b d o", d=self.dim)

    def _middle(self, h: Float[Tensor, "*B H"]) -> Float[Tensor, "*B H"]:
        """From the sum that enters to the last hidden state."""
        passed = self.hidden.weight * self._mask("pass_on")
        return F.silu(F.linear(F.silu(h), passed, self.hidden.bias))

    # -- sampling --------------------------------------------------------------------------------

    def stream(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Iterator[Step[Float[Tensor, "n D"]]]:
        """One pixel a step along the path; of the options only label and guidance matter."""
        steps, sampler = options.get("steps", 1), options.get("sampler", "ddim")
        guidance = options.get("guidance", 1.0)
        check_sampling(n, steps, sampler, options.get("eta", 0.0), guidance)
        chance, known = split(generator, n), self._labels(options.get("label"), n)
        return self._write(chance, known, guidance)

    def sample(
        self, n: int, *, generator: Chance, **options: Unpack[Sampling]
    ) -> Float[Tensor, "n D"]:
        """n samples in data units; a pixel whose gate is closed is exactly zero."""
        return last(self.stream(n, generator=generator, **options))

    def _write(
        self, chance: list[torch.Generator], known: Tensor, guidance: float
    ) -> Iterator[Step[Tensor]]:
        n, device = len(chance), self.enter.weight.device
        draws = [uniform(chance, self.dim, 2).to(device), normal(chance, self.dim).to(device)]
        sums = self._begin(known, guidance)
        x = torch.zeros(n, self.dim, device=device)
        for k, pixel in enumerate(self.get_buffer("rank").argsort(), start=1):
            drawn = draws[0][:, k - 1], draws[1][:, k - 1]
            x, sums = self._pixel(x, sums, int(pixel), guidance, *drawn)
            yield Step("pixels", k, self.dim, 1 - k / self.dim, x)

    @torch.no_grad()
    def _begin(self, known: Tensor, guidance: float) -> Float[Tensor, "P n H"]:
        """What enters before the first pixel: the class asked for, and "unknown" where needed."""
        unknown = torch.full_like(known, self.classes)
        both = [unknown] if guidance == 0 else [known]
        both += [unknown] if guidance not in (0, 1) else []
        return self.enter.bias + torch.stack([self.label(label) for label in both])

    @torch.no_grad()
    def _pixel(
        self, x: Tensor, sums: Tensor, pixel: int, guidance: float, chosen: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw gate and value of one pixel; only its own rows and columns are touched."""
        rows = slice(pixel * self.outputs, (pixel + 1) * self.outputs)
        told = self.leave.weight[rows] * self._mask("tell")[pixel]
        laws = F.linear(self._middle(sums), told, self.leave.bias[rows])
        logit = laws[0, :, 0]
        if len(laws) == 2:
            logit = laws[1, :, 0] + guidance * (logit - laws[1, :, 0])
        gate = chosen[:, 0] < logit.sigmoid()
        value = self._repair(draw_mixture(laws[0, :, 1:], chosen[:, 1], noise))
        x = x.index_copy(1, torch.tensor([pixel], device=x.device), (value * gate)[:, None])
        column = self.enter.weight[:, [pixel, self.dim + pixel]].T
        column = column * self._mask("see")[:, pixel]
        entered = torch.stack([gate.to(x), self.values.forward(value) * gate], 1)
        return x, sums + entered @ column

    def _repair(self, y: Tensor) -> Tensor:
        """The nearest value that the data could hold, in data units: never zero."""
        c, x = self.config, self.values.inverse(y)
        return ((x / c.step).round() * c.step if c.step else x).clamp_min(c.smallest)

    def _labels(self, label: Label, n: int) -> Int[Tensor, " n"]:
        return labels(label, n, self.classes, self.enter.weight.device)

    def _mask(self, name: str) -> Bool[Tensor, "..."]:
        return self.get_buffer(name)


def ranks(config: SARMConfig) -> Int[Tensor, " D"]:
    """Place on the path of every dimension."""
    if not config.side or config.path == "raster":
        return torch.arange(config.dim)
    side = torch.arange(config.side) - (config.side - 1) / 2
    y, x = torch.meshgrid(side, side, indexing="ij")
    ring = torch.maximum(x.abs(), y.abs()).flatten()
    turn = torch.atan2(y, x).flatten() / (2 * pi) % 1
    return (ring * 2 + turn).argsort().argsort()


def mixture_nll(x: Float[Tensor, "*T"], law: Float[Tensor, "*T O"]) -> Float[Tensor, "*T"]:
    """-log of a mixture of Gaussians; the law holds weights, means and log sds, a third each."""
    weight, mean, log_sd = law.chunk(PARTS, -1)
    log_sd = log_sd.clamp(LOWEST_LOG_SD, 3.0)
    log_prob = -0.5 * ((x[..., None] - mean) / log_sd.exp()) ** 2 - log_sd - 0.5 * log(2 * pi)
    return -(weight.log_softmax(-1) + log_prob).logsumexp(-1)


def draw_mixture(
    law: Float[Tensor, "n O"], chosen: Float[Tensor, " n"], noise: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """A draw of each row's mixture from one uniform and one normal number."""
    weight, mean, log_sd = law.chunk(PARTS, -1)
    part = (weight.softmax(-1).cumsum(-1) < chosen[:, None]).sum(1, keepdim=True)
    part = part.clamp_max(weight.shape[1] - 1)
    sd = log_sd.clamp(LOWEST_LOG_SD, 3.0).exp()
    return (mean.gather(1, part) + sd.gather(1, part) * noise[:, None])[:, 0]
