"""From a folder of one's own files to a trained Composer, by commands, with modalities missing."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import pytest
import torch

from polyscore import media
from polyscore.checkpoint import load_module
from polyscore.codecs import RAE, VAE, Chain, LogMel, Standardised
from polyscore.composer import Composer
from polyscore.data.folder import prepare_folder
from polyscore.data.loader import FolderData, missing
from polyscore.errors import DataError, PolyscoreError
from polyscore.networks.mixture import JointMixture
from polyscore.networks.mlp import JointDenoiser, JointTransformer
from polyscore.ratios.contrastive import Contextual
from polyscore.recipes.latents import Mixture, Network
from polyscore.recipes.own.build import build_codec, conv_size, mel_size
from polyscore.recipes.own.codec import train_own_codec
from polyscore.recipes.own.joint import encode_folder, train_own_joint
from polyscore.training import TrainConfig

QUICK = TrainConfig(steps=3, batch_size=8, warmup=1, log_every=3)
STEPS = ("--training.batch_size", 16, "--training.warmup", 5, "--training.ema", 0.9, "--training.steps")
SPECS = {
    "image": {"kind": "image", "shape": [1, 8, 8]},
    "sound": {"kind": "audio", "rate": 4000, "shape": [256]},
    "table": {"kind": "vector", "shape": [3]},
}


def is_bright(k: int) -> bool:
    return k % 2 == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """120 things: bright pictures, high tones and large first numbers go together; some pictures, sounds and numbers are missing."""
    root = tmp_path_factory.mktemp("own") / "files"
    draw = torch.Generator().manual_seed(0)
    for k in range(120):
        jitter = torch.rand(3, generator=draw)
        if k % 7:
            shade = 0.8 if is_bright(k) else 0.2
            media.write(root / "image" / f"{k:03d}.png", shade + 0.2 * (torch.rand(1, 8, 8, generator=draw) - 0.5), "image")
        if k % 5 or not k % 7:
            pitch = (900 if is_bright(k) else 200) * (1 + 0.05 * float(jitter[0]))
            media.write(
                root / "sound" / f"{k:03d}.wav", 0.5 * torch.sin(2 * math.pi * pitch * torch.arange(256) / 4000), "audio", rate=4000
            )
        if k % 4:
            first = 60000.0 if is_bright(k) else 20000.0
            numbers = torch.tensor([first + 2000 * float(jitter[1]), 7.0, float(jitter[2])])
            media.write(root / "table" / f"{k:03d}.json", numbers, "vector")
    return root


@pytest.fixture(scope="module")
def prepared(files):
    return prepare_folder(files, files.parent / "ready", SPECS).folder


@pytest.fixture(scope="module")
def codecs(prepared):
    """Briefly trained autoencoders of the three modalities."""
    folder = prepared.parent / "codecs"
    for name in SPECS:
        steps = 30 if name == "sound" else 60
        train_own_codec(prepared, name, folder, latent=4, config=replace(QUICK, steps=steps, batch_size=16, lr=5e-3), progress=False)
    return folder


def done(found):
    code, _, error = found
    assert code == 0, error


def test_from_files_to_answers_by_commands(files, run_cli, tmp_path):
    """prepare, two codecs, a joint score, sample: bright pictures get large numbers, dark ones small, and the other way round."""
    ready, parts, model = tmp_path / "ready", tmp_path / "codecs", tmp_path / "model"
    specs = {name: SPECS[name] for name in ("image", "table")}
    done(run_cli("data", "prepare", "--source", files, "--out", ready, "--modalities", json.dumps(specs)))
    image = ("--likelihood", "bernoulli", "--latent", 4, *STEPS, 80)
    done(run_cli("train", "codec", "--data", ready, "--modality", "image", "--out", parts, *image))
    done(run_cli("train", "codec", "--data", ready, "--modality", "table", "--out", parts, "--kind", "rae", "--latent", 2, *STEPS, 80))
    small = ("--network.width", 48, "--network.depth", 2, "--network.hidden", 64, "--network.embed", 32, "--training.lr", 0.005)
    done(run_cli("train", "joint", "--data", ready, "--codecs", parts, "--out", model, *small, *STEPS, 200, "--training.batch_size", 32))
    loaded = Composer.load(model)
    assert loaded.meta["samples"] == {"image": 102, "table": 90} and loaded.media["table"] == {"kind": "vector"}
    for name, bright in (("001", False), ("002", True)):
        out = tmp_path / name
        done(run_cli("sample", "--model", model, "--out", out, "--n", 8, "--given", f"image={files / 'image' / (name + '.png')}"))
        made = torch.stack([media.read(out / f"{i:04d}_table.json", "vector") for i in range(8)])
        assert ((made[:, 0] > 40000) == bright).sum() >= 7 and (made[:, 1] - 7).abs().max() < 1, made
    done(run_cli("sample", "--model", model, "--out", tmp_path / "back", "--n", 4, "--given", f"table={files / 'table' / '002.json'}"))
    shades = [float(media.read(tmp_path / "back" / f"{i:04d}_image.png", "image").mean()) for i in range(4)]
    assert sorted(shades)[1] > 0.6, shades


def test_each_kind_gets_its_network(prepared, codecs):
    image, sound, table = (load_module(codecs / name) for name in SPECS)
    assert isinstance(image, VAE) and isinstance(sound, Chain) and isinstance(table, Chain)
    assert isinstance(sound.stages[0], LogMel) and isinstance(table.stages[0], Standardised)
    data = FolderData(prepared)
    for name, codec in zip(SPECS, (image, sound, table), strict=True):
        rows = data.mask(name).nonzero()[:, 0].tolist()
        x = data.values(name, rows)
        mean, deviation = codec.posterior(x)
        assert codec.decode(mean).shape == x.shape
        assert mean.mean(0).abs().max() < 1e-3
        assert (mean.var(0) + deviation.square().mean(0)).allclose(torch.ones(4), atol=1e-3)
    mel = sound.stages[0].encode(data.values("sound", data.mask("sound").nonzero()[:, 0].tolist()))
    assert abs(float(mel.mean())) < 1e-2 and float(mel.std()) == pytest.approx(1, abs=1e-2)
    assert table._meta["likelihood"] == "gaussian" and sound._meta["likelihood"] == "laplace" and table._meta["samples"] == 90


@pytest.mark.parametrize(
    ("spec", "likelihood", "shape"),
    [
        ({"kind": "image", "shape": [3, 30, 27]}, "gaussian", (3, 30, 27)),
        ({"kind": "image", "shape": [1, 28, 28]}, "bernoulli", (1, 28, 28)),
        ({"kind": "video", "shape": [4, 1, 16, 16]}, "gaussian", (4, 1, 16, 16)),
        ({"kind": "audio", "shape": [1, 1000], "rate": 8000}, "laplace", (1, 1000)),
        ({"kind": "json", "shape": [3, 2]}, "categorical", (3, 2)),
        ({"kind": "vector", "shape": [1]}, "laplace", (1,)),
    ],
)
@pytest.mark.parametrize("kind", ["vae", "rae"])
def test_any_shape_is_encoded_and_decoded(spec, likelihood, shape, kind):
    x = torch.rand(3, *shape)
    parts = build_codec(spec, x, kind, likelihood)
    z = parts.codec.encode(x)
    assert isinstance(parts.core, VAE if kind == "vae" else RAE)
    assert z.shape == (3, *parts.codec.latent_shape) and parts.codec.decode(z).shape == x.shape
    if likelihood == "categorical":
        assert parts.codec.decode(z).sum(1).allclose(torch.ones(3, 2))


def test_sizes_of_maps_and_spectrograms():
    assert conv_size(28, 28) == (2, (32, 64)) and conv_size(32, 32) == (2, (32, 64, 96)) and conv_size(7, 9) == (1, (32,))
    assert mel_size(8000, 8000) == (125, 376)
    hop, _ = mel_size(1000, 8000)
    assert math.ceil(1000 / hop) % 16 == 0


def test_an_eleventh_modality_retrains_nothing(tmp_path, run_cli):
    """Ten codecs and a joint score; then an eleventh codec and a new joint score: the ten keep every byte."""
    names = [f"v{i}" for i in range(11)]
    draw = torch.Generator().manual_seed(0)
    for k in range(24):
        for i, name in enumerate(names):
            if (k + i) % 6:
                media.write(tmp_path / "files" / name / f"{k}.json", k % 2 + 0.1 * torch.randn(3, generator=draw), "vector")
    parts, quick = tmp_path / "codecs", ("--training.steps", 2, "--training.batch_size", 4)
    small = ("--network.width", 8, "--network.depth", 1, "--network.hidden", 8, "--network.embed", 8, *quick)
    for count in (10, 11):
        specs = {name: {"kind": "vector", "shape": [3]} for name in names[:count]}
        ready = prepare_folder(tmp_path / "files", tmp_path / f"ready{count}", specs).folder
        before = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in parts.rglob("*.*") if f.is_file()} if count == 11 else {}
        for name in names[:10] if count == 10 else ():
            train_own_codec(ready, name, parts, latent=2, config=QUICK, progress=False)
        if count == 11:
            done(run_cli("train", "codec", "--data", ready, "--modality", "v10", "--out", parts, "--latent", 2, *quick))
        after = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in parts.rglob("*.*") if f.is_file()}
        assert {name: after[name] for name in before if name.startswith("v")} == {n: d for n, d in before.items() if n.startswith("v")}
        done(run_cli("train", "joint", "--data", ready, "--codecs", parts, "--out", tmp_path / f"model{count}", *small))
        assert len(Composer.load(tmp_path / f"model{count}").modalities) == count
    assert {f"{name}.{suffix}" for name in names for suffix in ("json", "safetensors")} == {f.name for f in parts.iterdir() if f.is_file()}
    first, second = tmp_path / "model10", tmp_path / "model11"
    assert all((first / f"{name}.safetensors").read_bytes() == (second / f"{name}.safetensors").read_bytes() for name in names[:10])


def test_masks_are_told_the_other_way_round(prepared, codecs):
    data = FolderData(prepared)
    parts = {name: load_module(codecs / name) for name in SPECS}
    found = encode_folder(parts, data, list(SPECS), list(SPECS))
    assert len(found.tuples["image"]) == sum(bool(k % 7) or bool(k % 5) or bool(k % 4) or not k % 7 for k in range(120))
    for name, gone in found.gone.items():
        assert torch.equal(gone, ~data.mask(name.removesuffix("_missing")))
        assert not found.tuples[name.removesuffix("_missing")][gone].any()
    assert missing({"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}).keys() == {"b_missing"}


def test_networks_and_the_closed_form(prepared, codecs, tmp_path):
    tiny = {"width": 8, "depth": 1, "hidden": 8, "embed": 8}
    common = {"config": QUICK, "encoders": TrainConfig(steps=60, batch_size=1, lr=5e-3, warmup=1, ema=0.9), "progress": False}
    told = train_own_joint(prepared, codecs, tmp_path / "told", contrastive=6, network=Network(**tiny, heads=2), **common)
    assert isinstance(told.denoiser, Contextual) and isinstance(told.denoiser.network, JointTransformer)
    closed = train_own_joint(prepared, codecs, tmp_path / "closed", closed=True, mixture=Mixture(2, 1, 8), **common)
    assert isinstance(Composer.load(tmp_path / "closed").denoiser, JointMixture) and closed.defaults == {"steps": 8}
    data = FolderData(prepared)
    given = data.values("sound", [1, 2, 3, 4])  # dark, bright, dark, bright
    made = closed.sample(4, {"sound": given})["table"][:, 0]
    assert made[[1, 3]].min() > made[[0, 2]].max()
    pair = train_own_joint(prepared, codecs, tmp_path / "pair", ["image", "sound"], network=Network(**tiny), **common)
    assert pair.modalities == ("image", "sound") and isinstance(pair.denoiser, JointDenoiser)


def test_tokens_need_no_codec(tmp_path):
    for k in range(20):
        if k != 3:
            media.write(tmp_path / "files" / "word" / f"{k}.json", torch.full((2,), k % 2), "tokens")
        for name in "ab":
            media.write(tmp_path / "files" / name / f"{k}.json", k % 2 + 0.1 * torch.randn(2), "vector")
    specs = {name: {"kind": "vector", "shape": [2]} for name in "ab"} | {"word": {"kind": "tokens", "shape": [2], "vocabulary": 3}}
    ready = prepare_folder(tmp_path / "files", tmp_path / "ready", specs).folder
    for name in "ab":
        train_own_codec(ready, name, tmp_path / "codecs", latent=2, config=QUICK, progress=False)
    with pytest.raises(DataError, match="tokens need no codec"):
        train_own_codec(ready, "word", tmp_path / "codecs", config=QUICK, progress=False)
    small = {"network": Network(8, 1, 8, 8), "config": QUICK, "encoders": QUICK, "progress": False}
    model = train_own_joint(ready, tmp_path / "codecs", tmp_path / "model", contrastive=4, **small)
    assert Composer.load(tmp_path / "model").sample(3)["word"].shape == (3, 2) and set(model.codecs) == {"a", "b"}
    closed = train_own_joint(ready, tmp_path / "codecs", tmp_path / "closed", closed=True, mixture=Mixture(1, 1, 4), **small)
    assert int(closed.sample(3)["word"].max()) < 3


def test_wrong_data_ends_in_one_line(prepared, codecs, run_cli, tmp_path):
    def failed(words, *arguments):
        code, _, error = run_cli("train", *arguments)
        assert code == 2 and error.count("\n") == 1 and words in error, error

    own = ("codec", "--data", prepared, "--out", tmp_path)
    failed("expected a prepared data set", "codec", "--data", tmp_path, "--modality", "image")
    failed("expected one of the modalities image, sound, table, found 'smell'", *own, "--modality", "smell")
    failed("expected numbers from 0 to 1 for the bernoulli likelihood", *own, "--modality", "table", "--likelihood", "bernoulli")
    failed("sum to 1", *own, "--modality", "image", "--likelihood", "categorical")
    failed("expected gaussian or laplace for sounds", *own, "--modality", "sound", "--likelihood", "bernoulli")
    failed("latent: expected at least 1, found 0", *own, "--modality", "image", "--latent", 0)
    failed("expected a pretrained autoencoder", *own, "--modality", "image", "--copy", "true")
    failed("expected pictures for a pretrained autoencoder, found audio", *own, "--modality", "sound", "--pretrained", tmp_path)
    failed("image.json: cannot be read", "joint", "--data", prepared, "--codecs", tmp_path / "none", "--out", tmp_path)
    failed("two or more of the modalities", "joint", "--data", prepared, "--codecs", codecs, "--modalities", '["image"]', "--out", tmp_path)
    other = prepare_folder(prepared.parent / "files", tmp_path / "other", SPECS | {"image": {"kind": "image", "shape": [1, 4, 4]}}).folder
    failed("expected a codec of data of shape (1, 4, 4), found (1, 8, 8)", "joint", "--data", other, "--codecs", codecs, "--out", tmp_path)
    with pytest.raises(PolyscoreError, match="200 groups, expected at most one for each"):
        train_own_joint(prepared, codecs, tmp_path / "c", closed=True, mixture=Mixture(200), config=QUICK, encoders=QUICK, progress=False)
