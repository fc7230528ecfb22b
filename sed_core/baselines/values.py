"""Data units <-> the units that a dense network works in; unlike SED's, zeros take part."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from sed_core.countsdiff import check_counts
from sed_core.sparse import SparseBatch


@dataclass(frozen=True, kw_only=True)
class DenseValues:
    """y = (g(x) - mean) / sd with g(x) = x, or log(1 + x / unit) where a unit is given."""

    mean: float = 0.5
    sd: float = 0.5
    unit: float = 0.0  # 0 for linear
    smallest: float = 0.0  # of the data; samples are clipped to it
    largest: float = 1.0  # of the data; samples are clipped to it

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Network units."""
        return ((x / self.unit).log1p() if self.unit else x).sub(self.mean) / self.sd

    def inverse(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Data units, inside the data's range."""
        x = y * self.sd + self.mean
        x = self.unit * x.clamp_max(80.0).expm1() if self.unit else x
        return x.clamp(self.smallest, self.largest)

    @property
    def bound(self) -> float:
        """Largest absolute value in network units where the data is linear and bounded, else 0."""
        if self.unit:
            return 0.0
        return max(abs(self.smallest - self.mean), abs(self.largest - self.mean)) / self.sd

    @staticmethod
    def of_energies(x: SparseBatch) -> "DenseValues":
        """Logarithmic values for long tails: unit and scale from training data."""
        values = x.value[x.mask]
        unit = values.median().item()
        logs = (values / unit).log1p().double()
        cells = len(x) * x.dim
        mean = logs.sum().item() / cells
        sd = (logs.square().sum().item() / cells - mean**2) ** 0.5
        largest = values.max().item()
        numbers = {"mean": mean, "sd": sd, "unit": unit, "largest": largest}
        return DenseValues(**{name: round(value, 6) for name, value in numbers.items()})

    @staticmethod
    def of_counts(x: Int64[Tensor, "n D"]) -> "DenseValues":
        """log(1 + x), with mean 0 and sd 1 over all entries of the training rows."""
        logs = x.double().log1p()
        mean, sd = round(logs.mean().item(), 6), round(logs.std().item(), 6)
        return DenseValues(mean=mean, sd=sd or 1.0, unit=1.0, largest=float(x.max()))


def dense(batch: SparseBatch | Shaped[Tensor, "B D"], dim: int) -> Shaped[Tensor, "B D"]:
    """The rows with all their zeros.

    Raises:
        ValueError: for data of another number of dimensions.
    """
    x = batch.to_dense() if isinstance(batch, SparseBatch) else batch
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"this model is for rows of {dim} dimensions, got {tuple(x.shape)}")
    return x


def whole(batch: SparseBatch | Shaped[Tensor, "B D"], dim: int) -> Int64[Tensor, "B D"]:
    """The rows as whole numbers, zeros included.

    Raises:
        ValueError: for data of another number of dimensions, and for what is no count.
    """
    x = dense(batch, dim)
    check_counts(x)
    return x.long()


def fold(x: Float[Tensor, "B CD"], side: int) -> Tensor:
    """Rows as pictures of one channel; as they are where there is no side."""
    return rearrange(x, "b (c i j) -> b c i j", i=side, j=side) if side else x
