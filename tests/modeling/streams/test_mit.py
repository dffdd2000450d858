"""MiT: sizes, its attention by loop, equality with an independent implementation."""

import re

import pytest
import torch
from torch import Tensor

from smmcl.modeling.streams.base import build_stream
from smmcl.modeling.streams.mit import NAMES as MIT
from smmcl.modeling.streams.mit import SIZES, ReducedAttention


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers 5 or 4 in our names, key and value in one matrix."""
    rules = [
        (r"^encoder\.patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
        (r"^encoder\.block\.(\d)\.", r"stages.\1.blocks."),
        (r"^encoder\.layer_norm\.(\d)\.", r"stages.\1.layer_norm."),
        (r"\.patch_embeddings\.proj\.", ".embed.0."),
        (r"\.patch_embeddings\.layer_norm\.", ".embed.1."),
        (r"\.(layernorm_before|layer_norm_1)\.", ".norm1."),
        (r"\.(layernorm_after|layer_norm_2)\.", ".norm2."),
        (r"\.attention\.(q_proj|self\.query)\.", ".attention.query."),
        (r"\.attention\.(k_proj|self\.key)\.", ".attention.key."),
        (r"\.attention\.(v_proj|self\.value)\.", ".attention.value."),
        (r"\.attention\.(o_proj|output\.dense)\.", ".attention.project."),
        (r"\.(sequence_reduction\.sequence_reduction|self\.sr)\.", ".reduce.0."),
        (r"\.(sequence_reduction|self)\.layer_norm\.", ".reduce.1."),
        (r"\.layer_norm\.", ".norm."),
        (r"\.mlp\.(fc|dense)1\.", ".mlp.expand."),
        (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
        (r"\.mlp\.(fc|dense)2\.", ".mlp.reduce."),
    ]
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for name in [name for name in renamed if ".attention.key." in name]:
        pair = renamed.pop(name), renamed.pop(name.replace(".key.", ".value."))
        renamed[name.replace(".key.", ".key_value.")] = torch.cat(pair)
    return renamed


# Encoder sizes in the SegFormer paper, Table 1.
MILLIONS = {
    "mit_b0": 3.4,
    "mit_b1": 13.1,
    "mit_b2": 24.2,
    "mit_b3": 44.0,
    "mit_b4": 60.8,
    "mit_b5": 81.4,
}


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
def test_parameter_counts(name: str, millions: float) -> None:
    with torch.device("meta"):
        stream = build_stream(name)
    count = sum(parameter.numel() for parameter in stream.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


def test_eps_is_smaller_in_blocks_and_stages() -> None:
    stage = build_stream("mit_b0").stages[0]
    block = stage.blocks[0]
    assert [norm.eps for norm in (block.norm1, block.norm2, stage.norm)] == [1e-6] * 3
    assert [norm.eps for norm in (stage.embed[1], block.attention.reduce[1])] == [1e-5] * 2


def test_reduced_attention_equals_a_loop_over_heads_and_places() -> None:
    torch.manual_seed(0)
    attention = ReducedAttention(4, num_heads=2, reduction=2).double()
    feature = torch.randn(2, 6, 4, 4).double()  # (N, H, W, C)
    coarse = attention.reduce(feature.permute(0, 3, 1, 2)).flatten(2).mT  # (2, 6, 4)
    keys, values = attention.key_value(coarse).split(4, dim=2)
    queries = attention.query(feature)
    attended = torch.zeros_like(feature)
    for n, i, j in ((n, i, j) for n in range(2) for i in range(6) for j in range(4)):
        for head in (slice(0, 2), slice(2, 4)):
            scores = keys[n, :, head] @ queries[n, i, j, head] / 2**0.5
            attended[n, i, j, head] = scores.softmax(0) @ values[n, :, head]
    torch.testing.assert_close(attention(feature), attention.project(attended))


def test_segformer_names_are_all_of_ours() -> None:
    linear = ["attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2"]
    names = []
    for m in (1, 2, 3, 4):
        names += [f"patch_embed{m}.proj", f"patch_embed{m}.norm", f"norm{m}"]
        parts = linear + ["norm1", "norm2"] + (["attn.sr", "attn.norm"] if m < 4 else [])
        names += [f"block{m}.{i}.{part}" for i in (0, 1) for part in parts]
    names = {MIT.to_ours(f"{name}.{kind}") for name in names for kind in ("weight", "bias")}
    with torch.device("meta"):
        assert names == set(build_stream("mit_b0").state_dict())


@pytest.mark.parametrize("name", SIZES)
def test_equals_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    stream = build_stream(name).eval()
    config = transformers.SegformerConfig(
        depths=list(SIZES[name]["depths"]), hidden_sizes=list(SIZES[name]["widths"])
    )
    other = transformers.SegformerModel(config).eval()
    with torch.no_grad():
        for parameter in other.parameters():  # away from zeros and ones, where slips would hide
            parameter.add_(0.02 * torch.randn_like(parameter))
    # In blocks and stages SegFormer's own code has an eps of 1e-6, transformers 1e-5 everywhere.
    for norm in (m for m in stream.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.eps = 1e-5
    stream.load_state_dict(from_transformers(other.state_dict()))
    stream, other, image = stream.double(), other.double(), torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        expected = other(image, output_hidden_states=True).hidden_states
        for ours, theirs in zip(stream(image), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
