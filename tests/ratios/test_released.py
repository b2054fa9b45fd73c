"""The released discriminators: names and shapes of the reference's module, and the forward pass after translation."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module, save_tensors
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


def test_states_with_other_orders_of_axes(tmp_path):
    """Videos with channels first and mel before time: the same logits, and gradients in the states' own order."""
    tensors, _ = theirs(TINY)
    save_tensors(tensors, tmp_path / "tiny.safetensors")
    turned = load_released(tmp_path / "tiny.safetensors", TINY, PATHS, axes={"video": (1, 0, 2, 3), "audio": (0, 2, 1)})
    plain, t = load_released(tmp_path / "tiny.safetensors", TINY, PATHS), {"video": 0.4, "audio": 0.4}
    z = {"video": torch.randn(2, 4, 2, 8, 8), "audio": torch.randn(2, 3, 6, 8)}
    own = {"video": z["video"].transpose(1, 2), "audio": z["audio"].transpose(2, 3)}
    assert torch.allclose(turned(own, t), plain(z, t), atol=1e-6)
    gradient, expected = turned.gradient(own, t), plain.gradient(z, t)
    assert torch.allclose(gradient["video"], expected["video"].transpose(1, 2), atol=1e-6)
    assert torch.allclose(gradient["audio"], expected["audio"].transpose(2, 3), atol=1e-6)
    assert float(gradient["audio"].abs().sum()) > 0
    save_module(turned, tmp_path / "ratio")
    assert torch.equal(load_module(tmp_path / "ratio")(own, t), turned(own, t))
    with pytest.raises(PolyscoreError, match=r"axes \[0, 1\] of 'audio', expected an order of 0 to 2"):
        load_released(tmp_path / "tiny.safetensors", TINY, PATHS, axes={"audio": (0, 1)})
    with pytest.raises(PolyscoreError, match="axes of modality 'sound'"):
        load_released(tmp_path / "tiny.safetensors", TINY, PATHS, axes={"sound": (0, 2, 1)})


@pytest.mark.parametrize("name", ["audioldm_animediff_vggsound", "auffusion_videocrafter2_vggsound"])
def test_released_sizes_take_the_latents_of_pipelines(name):
    """AnimateDiff's (4, 16, 32, 32); AudioLDM's (8, 50, 16), or Auffusion's (4, 32, 25) with mel before time."""
    axes = {"video": (1, 0, 2, 3)} | ({"audio": (0, 2, 1)} if name.startswith("auffusion") else {})
    shapes = {"video": (4, 16, 32, 32), "audio": (4, 32, 25) if "audio" in axes else (8, 50, 16)}
    with torch.device("meta"):
        network = RELEASED[name].network(axes)
        z = {modality: torch.zeros(2, *shape) for modality, shape in shapes.items()}
        assert network(z, dict.fromkeys(z, torch.full((2,), 0.5))).shape == (2,)


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
