"""The released discriminators: names and shapes of the reference's module, and the forward pass after translation."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import save_tensors
from polyscore.errors import PolyscoreError
from polyscore.paths import ScaledLinear
from polyscore.ratios.released import RELEASED, Release, load_released, released_names, translate

TINY = Release((4, 2, 8, 8), (3, 6, 8), "spectrogram", 32, 1, text=(5, 7), fusion="transformer")
PATHS = {"video": ScaledLinear(), "audio": ScaledLinear(0.0015, 0.0195)}

# Written down from the reference's modules: (name, shape) for C = 128, e = 128.
DOCUMENTED = {
    "time_embed.projection.linear_1.weight": (128, 128),
    "time_embed.projection.linear_2.bias": (128,),
    "video_text_embed.weight": (128, 1024),
    "audio_text_embed.weight": (128, 768),
    "feature_extractor.input_blocks.0.0.video_conv.video_conv_spatial.weight": (128, 4, 3, 3),
    "feature_extractor.input_blocks.0.0.video_conv.video_conv_temporal.weight": (128, 128, 3),
    "feature_extractor.input_blocks.0.0.audio_conv.audio_conv.weight": (128, 4, 3, 3),
    "feature_extractor.input_blocks.1.0.video_in_layers.0.GroupNorm.weight": (128,),
    "feature_extractor.input_blocks.1.0.video_in_layers.2.video_conv_spatial.weight": (128, 128, 3, 3),
    "feature_extractor.input_blocks.1.0.audio_in_layers.2.audio_conv.bias": (128,),
    "feature_extractor.input_blocks.1.0.video_out_layers.0.projection.1.weight": (256, 128),
    "feature_extractor.input_blocks.1.0.video_out_layers.3.video_conv.weight": (128, 128, 1, 1, 1),
    "feature_extractor.input_blocks.1.0.audio_out_layers.3.audio_conv.weight": (128, 128, 1, 1),
    "feature_extractor.input_blocks.6.0.video_skip_connection.video_conv.weight": (256, 128, 1, 1, 1),
    "feature_extractor.input_blocks.14.0.audio_in_layers.2.audio_conv.weight": (512, 512, 3, 3),
    "fusion_model.fm_video_in.weight": (256, 512),
    "fusion_model.fm_time_in.weight": (256, 128),
    "fusion_model.fm.cls_emb": (1, 1, 256),
    "fusion_model.fm.pos_emb.emb.weight": (128, 256),
    "fusion_model.fm.attn_layers.layers.0.0.weight": (256,),
    "fusion_model.fm.attn_layers.layers.8.1.to_q.weight": (512, 256),
    "fusion_model.fm.attn_layers.layers.8.1.to_out.bias": (256,),
    "fusion_model.fm.attn_layers.layers.9.1.net.0.0.weight": (1024, 256),
    "fusion_model.fm.attn_layers.layers.9.1.net.2.weight": (256, 1024),
    "fusion_model.fm.norm.weight": (256,),
    "fusion_model.fm.out_layer.weight": (256, 256),
    "last_linear.weight": (1, 256),
}


def theirs(release, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = release.network()
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in released_names(network).values()}, network


def test_documented_names_and_shapes():
    with torch.device("meta"):
        known = dict(released_names(RELEASED["auffusion_videocrafter2_vggsound"].network()).values())
    assert {name: known.get(name) for name in DOCUMENTED} == DOCUMENTED
    assert max(int(name.split(".")[2]) for name in known if "input_blocks" in name) == 14


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_every_tensor_has_one_counterpart(name):
    with torch.device("meta"):
        network = RELEASED[name].network()
    known = released_names(network)
    assert len({theirs for theirs, _ in known.values()}) == len(network.state_dict()) == len(list(network.parameters()))


def test_a_converted_file_loads_and_guides(tmp_path):
    tensors, network = theirs(TINY)
    save_tensors(tensors, tmp_path / "tiny.safetensors")
    ratio = load_released(tmp_path / "tiny.safetensors", TINY, PATHS)
    assert ratio.smoothing == 1e-5
    z = {"video": torch.randn(2, 4, 2, 8, 8), "audio": torch.randn(2, 3, 6, 8)}
    gradient = ratio.gradient(z, {"video": 0.4, "audio": 0.4}, {"video": torch.ones(2, 5), "audio": torch.ones(2, 7)})
    assert gradient["video"].shape == z["video"].shape
    assert all(float(g.abs().sum()) > 0 for g in gradient.values())
    ours = translate(tensors, network)
    weight = tensors["feature_extractor.input_blocks.2.0.video_out_layers.3.video_conv.weight"]
    assert torch.equal(ours["streams.video.blocks.1.out.space.weight"], weight[..., 0])
    raw = load_released(tmp_path / "tiny.safetensors", TINY, PATHS, smoothing=None)
    assert torch.allclose(raw(z, {"video": 0.4, "audio": 0.4}), ratio.logit(z, {"video": 0.4, "audio": 0.4}))


def test_what_does_not_fit_is_named(tmp_path):
    tensors, network = theirs(TINY)
    name = "last_linear.weight"
    with pytest.raises(PolyscoreError, match=r"'last_linear.weight' is missing"):
        translate({k: v for k, v in tensors.items() if k != name}, network)
    with pytest.raises(PolyscoreError, match=r"'last_linear.weight' has shape \(1, 3\), expected \(1, 256\)"):
        translate({**tensors, name: torch.zeros(1, 3)}, network)
    with pytest.raises(PolyscoreError, match="unknown tensor 'extra'"):
        translate({**tensors, "extra": torch.zeros(1)}, network)
    with pytest.raises(PolyscoreError, match="expected one of"):
        load_released(tmp_path / "x.safetensors", "sora", PATHS)
