"""Diffusers autoencoders without a pipeline, and a user's own module, as codecs with latent statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import image_vae
from torch import Tensor, nn

from polyscore import media
from polyscore.adapters.autoencoders import DiffusersCodec, load_autoencoder
from polyscore.adapters.codecs import PipelineCodec
from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import ForeignCodec, Identity, Standardised
from polyscore.composer import Composer
from polyscore.data.folder import prepare_folder
from polyscore.data.loader import FolderData
from polyscore.errors import CheckpointError, DataError, PolyscoreError
from polyscore.networks.mlp import JointDenoiser
from polyscore.recipes.own.codec import fit_statistics
from polyscore.spec import register


def tiny_vae() -> Any:
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
    return diffusers.AutoencoderTiny(**blocks, num_decoder_blocks=(1, 1), latent_channels=4)


def deep_vae() -> Any:
    both = {"block_types": "ResBlock", "block_out_channels": (8, 16), "layers_per_block": (1, 1), "qkv_multiscales": ((), ())}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()}
    return diffusers.AutoencoderDC(in_channels=3, latent_channels=4, scaling_factor=0.4, **sides)


MODELS: dict[str, Callable[[], Any]] = {"kl": image_vae, "tiny": tiny_vae, "dc": deep_vae}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random autoencoders on disk."""
    found = {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        found[name] = str(tmp_path_factory.mktemp("vae") / name)
        make().save_pretrained(found[name])
    return found


def raw_latent(vae: Any, x: Tensor) -> Tensor:
    """What diffusers itself calls the latent, in the autoencoder's scale."""
    found = vae.encode(2 * x - 1)
    value = found.latent_dist.mode() if hasattr(found, "latent_dist") else getattr(found, "latents", None)
    return (found.latent if value is None else value) * vae.config.scaling_factor


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("copy", [False, True])
def test_a_bare_autoencoder_is_a_codec(folders: dict[str, str], tmp_path: Path, name: str, copy: bool) -> None:
    """Latents and data are diffusers' own, never pixels; saved by name or with its weights, it comes back the same."""
    codec, x = DiffusersCodec.load(folders[name], (3, 16, 16), copy), torch.rand(5, 3, 16, 16)
    vae = load_autoencoder(folders[name])
    assert codec.latent_shape == (4, 8, 8) and codec.encode(x).shape == (5, 4, 8, 8)
    z = raw_latent(vae, x)
    assert torch.allclose(codec.encode(x), z, atol=1e-5)
    back = ((vae.decode(z / vae.config.scaling_factor).sample + 1) / 2).clamp(0, 1)
    assert torch.allclose(codec.decode(z), back, atol=1e-5)
    standard = Standardised(codec).fit_statistics(codec.encode(x))
    assert standard.encode(x).mean(0).abs().max() < 1e-4 and standard.encode(x).var(0).allclose(torch.ones(4, 8, 8), atol=1e-2)
    assert torch.allclose(standard.decode(standard.encode(x)), back, atol=1e-3)
    save_module(standard, tmp_path / "codec")
    stored = json.loads((tmp_path / "codec.json").read_text())["spec"]["codec"]["source"]
    assert (stored == folders[name]) != copy and ((tmp_path / "codec.safetensors").stat().st_size > 10_000) == copy
    loaded = load_module(tmp_path / "codec", Standardised)
    assert torch.equal(loaded.encode(x), standard.encode(x)) and torch.equal(loaded.decode(z), standard.decode(z))


@pytest.mark.parametrize("name", MODELS)
def test_a_bare_autoencoder_is_no_pipeline(name: str) -> None:
    with pytest.raises(PolyscoreError, match=r"expected a pipeline, found Autoencoder.* alone"):
        PipelineCodec(MODELS[name](), (4, 8, 8))
    assert DiffusersCodec(MODELS[name](), (3, 16, 16)).encode(torch.rand(1, 3, 16, 16)).shape == (1, 4, 8, 8)


def test_grey_pictures_share_three_channels(folders: dict[str, str]) -> None:
    grey, colour = (DiffusersCodec.load(folders["tiny"], (c, 16, 16)) for c in (1, 3))
    x = torch.rand(2, 1, 16, 16)
    z = grey.encode(x)
    assert torch.equal(z, colour.encode(x.expand(-1, 3, -1, -1))) and grey.decode(z).shape == x.shape
    assert torch.allclose(grey.decode(z), colour.decode(z).mean(1, keepdim=True))


def test_what_cannot_be_used_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(PolyscoreError, match=r"expected data of shape \(3, 17, 16\)"):
        DiffusersCodec.load(folders["kl"], (3, 17, 16))
    with pytest.raises(PolyscoreError, match="expected to encode and decode data of shape"):
        DiffusersCodec.load(folders["kl"], (5, 16, 16))
    with pytest.raises(PolyscoreError, match=r"expected a diffusers autoencoder.*ForeignCodec"):
        DiffusersCodec(nn.Linear(3, 3), (3, 16, 16))
    with pytest.raises(CheckpointError, match=r"with config\.json, found none"):
        DiffusersCodec.load(str(tmp_path), (3, 16, 16))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(CheckpointError, match="found 'UNet2DModel'"):
        DiffusersCodec.load(str(tmp_path), (3, 16, 16))
    with pytest.raises(CheckpointError, match=r"expected an autoencoder with weights 0000, found"):
        DiffusersCodec(folders["kl"], (3, 16, 16), "0000")


@register
class HalvesForTest(nn.Module):
    """A user's module: half of a vector is its latent."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(size, size // 2), nn.Linear(size // 2, size)

    def encode(self, x: Tensor) -> tuple[Tensor, str]:
        return self.down(x), "more"

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z)


def test_a_users_module_is_a_codec_and_is_saved_with_its_weights(tmp_path: Path) -> None:
    codec, x = Standardised(ForeignCodec(HalvesForTest(6), (6,))), torch.randn(40, 6) * 5
    codec.fit_statistics(codec.codec.encode(x))
    assert codec.latent_shape == (3,) and codec.encode(x).var(0).allclose(torch.ones(3), atol=1e-4)
    composer = Composer({"mine": codec}, JointDenoiser({"mine": (3,), "other": (2,)}, width=8, depth=1, hidden=8, embed=8))
    composer.save(tmp_path)
    loaded = Composer.load(tmp_path)
    assert torch.equal(loaded.encode({"mine": x})["mine"], codec.encode(x)) and loaded.sample(2, steps=2)["mine"].shape == (2, 6)


def test_modules_that_are_no_autoencoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolyscoreError, match="Linear: expected a module with encode and decode, found no encode"):
        ForeignCodec(nn.Linear(3, 3), (3,))

    class Unknown(nn.Module):
        def encode(self, x: Tensor) -> Any:
            return {"z": x}

        def decode(self, z: Tensor) -> Tensor:
            return z

    with pytest.raises(PolyscoreError, match="expected a tensor, or an output with latent_dist, latents or latent, found dict"):
        ForeignCodec(Unknown(), (3,))
    Unknown.encode = lambda self, x: x  # type: ignore[method-assign, assignment]
    with pytest.raises(CheckpointError, match="cannot store a Unknown: expected a class registered with polyscore"):
        save_module(ForeignCodec(Unknown(), (3,)), tmp_path / "codec")


def test_constant_dimensions_keep_their_scale_and_one_sample_is_too_few() -> None:
    codec = Standardised(Identity((2,))).fit_statistics(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
    assert codec.scale.tolist() == pytest.approx([2**0.5, 1.0]) and codec.shift.tolist() == [2.0, 7.0]
    with pytest.raises(DataError, match="at least 2 samples, found 1"):
        codec.fit_statistics(torch.zeros(1, 2))


def test_the_command_fits_the_statistics_of_a_pretrained_autoencoder(folders: dict[str, str], run_cli: Any, tmp_path: Path) -> None:
    """prepare, codec --pretrained, a trained codec, joint, sample given the picture."""
    for k in range(12):
        if k != 4:
            media.write(tmp_path / "files" / "image" / f"{k}.png", torch.rand(3, 16, 16), "image")
        media.write(tmp_path / "files" / "table" / f"{k}.json", torch.randn(3), "vector")
    specs: dict[str, dict[str, Any]] = {"image": {"kind": "image", "shape": [3, 16, 16]}, "table": {"kind": "vector", "shape": [3]}}
    ready, parts, model = prepare_folder(tmp_path / "files", tmp_path / "ready", specs).folder, tmp_path / "codecs", tmp_path / "model"
    quick = ("--training.steps", 2, "--training.batch_size", 4)
    small = ("--network.width", 8, "--network.depth", 1, "--network.hidden", 8, "--network.embed", 8)
    for command in (
        ("codec", "--modality", "image", "--pretrained", folders["dc"], "--out", parts),
        ("codec", "--modality", "table", "--latent", 2, "--out", parts, *quick),
        ("joint", "--codecs", parts, "--out", model, *small, *quick),
    ):
        code, _, error = run_cli("train", *command, "--data", ready)
        assert code == 0, error
    codec, data = load_module(parts / "image", Standardised), FolderData(ready)
    z = codec.encode(data.values("image", data.mask("image").nonzero()[:, 0].tolist()))
    assert len(z) == 11 and z.mean(0).abs().max() < 1e-3 and z.var(0).allclose(torch.ones(4, 8, 8), atol=1e-2)
    assert not (parts / "run-image").exists()
    picture = tmp_path / "files" / "image" / "0.png"
    code, _, error = run_cli("sample", "--model", model, "--n", 2, "--steps", 2, "--given", f"image={picture}", "--out", tmp_path / "out")
    assert code == 0 and len(list((tmp_path / "out").glob("*_table.json"))) == 2, error
    with pytest.raises(DataError, match=r"expected data of shape \(3,\), found \(3, 16, 16\)"):
        fit_statistics(Standardised(Identity((3,))), data, "image")
