"""Shared blocks: the encoding's formula, the attention of public peers, the cache."""

from math import sqrt

import numpy as np
import pytest
import torch
from small import largest, randomise
from torch import nn

from sed_core.chance import seeded
from sed_core.nn import (
    Block,
    CachedBlock,
    DimensionEncoding,
    MLPUNet,
    dimension_encoding,
    masked_mean,
)

GENES = 27_000


def reference(width: int, base: float = 20_000.0, dtype: type = np.float64) -> torch.Tensor:
    """The encoding of dimensions 0..26,999 in numpy, with angles of the given type."""
    angle = np.arange(GENES, dtype=dtype)[:, None] * (
        dtype(base) ** (-np.arange(0, width, 2, dtype=dtype) / dtype(width))
    )
    both = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(GENES, width)
    return torch.from_numpy(both.astype(np.float64))


# Dimension Encoding -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 128])
def test_encoding_is_its_formula_in_double_precision(width: int) -> None:
    ours = dimension_encoding(torch.arange(GENES), width)
    assert largest(ours, reference(width)) <= 1e-6
    assert largest(reference(width, dtype=np.float32), reference(width)) > 1e-3  # why float64


@pytest.mark.parametrize(("width", "step"), [(64, 1.43273), (128, 1.89232), (256, 2.58255)])
def test_encoding_has_the_measured_geometry(width: int, step: float) -> None:
    table = dimension_encoding(torch.arange(GENES), width).double()
    assert largest(table.norm(dim=1), torch.full((GENES,), sqrt(width / 2))) < 1e-5
    assert largest(table.diff(dim=0).norm(dim=1), torch.full((GENES - 1,), step)) < 1e-4
    if width == 64:  # the narrowest is the hardest
        assert len(table.bfloat16().view(torch.int16).unique(dim=0)) == GENES
        assert largest(dimension_encoding(torch.arange(GENES), width, 10_000.0), table) > 0.1


def test_tables_and_formula_agree() -> None:
    index = torch.tensor([[0, 3], [9, 1]])
    assert torch.equal(DimensionEncoding(10, 8, 20_000.0)(index), dimension_encoding(index, 8))
    dim = 1_000_003
    large = DimensionEncoding(dim, 64, 20_000.0)
    assert sum(table.shape[0] for table in large.buffers()) < 3_000  # neither table grows much
    index = torch.cat([torch.randint(dim, (5_000,), generator=seeded(0)), torch.tensor([dim - 1])])
    assert largest(large(index), dimension_encoding(index, 64)) < 5e-7
    assert not large.state_dict()


# attention --------------------------------------------------------------------------------------


def as_torch_layer(block: Block, width: int, heads: int) -> nn.TransformerEncoderLayer:
    """torch's own pre-norm layer with a block's weights."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )
    names = {
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.out": "self_attn.out_proj",
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "up": "linear1",
        "down": "linear2",
    }
    state = {}
    for name, value in block.state_dict().items():
        ours = next(ours for ours in names if name.startswith(ours))
        state[name.replace(ours, names[ours])] = value
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("kind", ["plain", "padded", "causal"])
def test_block_equals_torch(kind: str) -> None:
    width, heads = 16, 4
    block = randomise(Block(width, heads), 1)
    layer = as_torch_layer(block, width, heads)
    x = torch.randn(3, 7, width, generator=seeded(0))
    valid = torch.arange(7) < torch.tensor([[7], [4], [1]])
    if kind == "plain":
        ours, theirs = block(x), layer(x)
    elif kind == "padded":
        ours, theirs = block(x, valid=valid), layer(x, src_key_padding_mask=~valid)
        ours, theirs = ours[valid], theirs[valid]
    else:
        past = nn.Transformer.generate_square_subsequent_mask(7)
        ours, theirs = block(x, causal=True), layer(x, src_mask=past)
    assert largest(ours, theirs) < 1e-5  # float32 sums in another order


def test_block_equals_gpt2_of_transformers() -> None:
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    width, heads = 16, 4
    config = GPT2Config(
        n_embd=width, n_head=heads, activation_function="gelu", attn_pdrop=0, resid_pdrop=0
    )
    config._attn_implementation = "eager"
    block, peer = randomise(Block(width, heads), 2), GPT2Block(config, layer_idx=0).eval()
    pairs = {
        "ln_1": block.attention_norm,
        "attn.c_attn": block.attention.qkv,
        "attn.c_proj": block.attention.out,
        "ln_2": block.mlp_norm,
        "mlp.c_fc": block.up,
        "mlp.c_proj": block.down,
    }
    with torch.no_grad():
        for name, ours in pairs.items():
            theirs = peer.get_submodule(name)
            turned = ours.weight if isinstance(ours, nn.LayerNorm) else ours.weight.T
            theirs.weight.copy_(turned)
            theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 6, width, generator=seeded(0))
    past = torch.full((6, 6), float("-inf")).triu(1)[None, None]
    found = peer(x, attention_mask=past)
    found = found[0] if isinstance(found, tuple) else found
    assert largest(block(x, causal=True), found) < 1e-5


def test_an_untrained_block_is_the_identity() -> None:
    x = torch.randn(2, 5, 8, generator=seeded(0))
    assert torch.equal(Block(8, 2)(x), x)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("rows", "size"), [(3, 2), (3, 64), (60, 8)])  # 2 has to grow twice
def test_a_block_fed_by_tokens_equals_the_causal_block(rows: int, size: int, shifted: bool) -> None:
    block = randomise(Block(16, 4), 3)
    x = torch.randn(rows, 7, 16, generator=seeded(0))
    shift = torch.randn(rows, 1, 16, generator=seeded(1)) if shifted else None
    cached = CachedBlock(block, shift, rows, size)
    with torch.no_grad():
        for n in range(7):
            found = cached.advance(x[:, n])
            assert largest(found, block(x, shift=shift, causal=True)[:, n]) < 1e-5
            if n == 3:
                kept = torch.randperm(rows, generator=seeded(2))[: rows - 1]
                cached.keep(kept)
                x, shift = x[kept], None if shift is None else shift[kept]


# the rest ---------------------------------------------------------------------------------------


def test_masked_mean_by_hand() -> None:
    x = torch.randn(3, 4, 2, generator=seeded(0))
    mask = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])
    empty = torch.tensor([5.0, -5.0])
    found = masked_mean(x, mask, empty)
    assert largest(found[0], (x[0, 0] + x[0, 1]) / 2) < 1e-6
    assert torch.equal(found[1], empty)
    assert largest(found[2], x[2].mean(0)) < 1e-6


def test_u_net_adds_every_stored_level() -> None:
    """Cutting one level's stored output changes the result: no skip is idle."""
    net = randomise(MLPUNet(6, 3, (12, 8, 4), 5), 0)
    x, c = torch.randn(2, 6, generator=seeded(0)), torch.randn(2, 5, generator=seeded(1))
    whole = net(x, c)
    assert whole.shape == (2, 3)
    stored = []
    for block in net.down:
        stored.append(block(x if not stored else stored[-1], c))
    by_hand = net.up[0](stored[2], c) + stored[1]
    by_hand = net.out(net.up[1](by_hand, c) + stored[0])
    assert largest(whole, by_hand) < 1e-6
