"""What can go wrong ends in one clear line and exit code 2, with nothing half-written."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import struct
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from polyscore.checkpoint import save_tensors
from tiny import tiny_composer


@pytest.fixture
def fails(run_cli, tmp_path):
    """Run `sample` into a new folder; one line with these words must come, and no file."""

    def check(*arguments, words=(), out="out", command="sample"):
        code, shown, error = run_cli(command, *arguments, "--out", tmp_path / out)
        assert (code, shown) == (2, ""), error
        assert error.startswith("polyscore: error: ") and error.count("\n") == 1 and "Traceback" not in error
        for word in words:
            assert str(word) in error, error
        assert not [p for p in (tmp_path / out).rglob("*") if p.is_file()]

    return check


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@contextlib.contextmanager
def full_disk(limit):
    """No file can grow beyond `limit` bytes: the write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["image", "speech", "denoiser"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign bytes", "missing"])
def test_damaged_weights(fails, model, part, damage):
    file = model / f"{part}.safetensors"
    data = file.read_bytes()
    content = {"truncated": data[: len(data) // 2], "empty": b"", "foreign bytes": b"\x80\x04" + bytes(100)}
    file.unlink() if damage == "missing" else file.write_bytes(content[damage])
    fails("--model", model, words=[file, "cannot be read" if damage == "missing" else "truncated or changed"])


def forget_hash(file):
    header = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps(header | {"sha256": None}))


def test_weights_of_another_model(fails, model):
    file = model / "denoiser.safetensors"
    shutil.copy(model / "image.safetensors", file)
    forget_hash(file)
    fails("--model", model, words=[file, "is missing"])
    file.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    fails("--model", model, words=[file, "not a safetensors file"])


def test_weights_of_another_shape(fails, model):
    file = model / "image.safetensors"
    from polyscore.checkpoint import load_tensors

    tensors = load_tensors(file)
    save_tensors(tensors | {"shift": torch.zeros(5)}, file)
    forget_hash(file)
    fails("--model", model, words=[file, "'shift' has shape (5,), expected (4,)"])
    save_tensors(tensors | {"more": torch.zeros(5)}, file)
    fails("--model", model, words=[file, "unknown tensor 'more'"])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', "\x00\xff", '{"format": 1, "spec": {"class": "os.system"}}'])
@pytest.mark.parametrize("file", ["composer.json", "image.json", "denoiser.json"])
def test_wrong_json(fails, model, file, content):
    (model / file).write_text(content, encoding="latin-1")
    fails("--model", model, words=[] if "spec" in content else [model / file])


@pytest.mark.parametrize("options", [{"steps": "many"}, {"steps": -1}, {"solver": "best"}, {"colour": 3}, {"guidance": "strong"}])
def test_wrong_defaults_of_a_model(fails, model, options):
    header = json.loads((model / "composer.json").read_text())
    (model / "composer.json").write_text(json.dumps(header | {"defaults": options}))
    fails("--model", model)


def test_wrong_options(fails, tiny_model):
    for option, value in (("--steps", 0), ("--steps", -3), ("--n", 0), ("--n", -1), ("--batch_size", 0), ("--guidance", "nan")):
        fails("--model", tiny_model, option, value, words=[option.removeprefix("--")])


def test_a_modality_the_model_does_not_have(fails, tiny_model, seven):
    fails("--model", tiny_model, "--given", f"text={seven}", words=["'text'", "the model has image, speech"])


def test_sounds_that_cannot_be_used(fails, tiny_model, tmp_path, three):
    def given(name, content):
        (tmp_path / name).write_bytes(content)
        return "--model", tiny_model, "--given", f"speech={tmp_path / name}"

    sound = three.read_bytes()
    fails(*given("noise.wav", bytes(range(256)) * 40), words=["noise.wav", "expected a readable audio file"])
    fails(*given("short.wav", sound[: len(sound) // 2]), words=["short.wav", "truncated"])
    fails(*given("empty.wav", b""), words=["empty.wav", "an empty file"])
    with wave.open(str(tmp_path / "silent.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    fails("--model", tiny_model, "--given", f"speech={tmp_path / 'silent.wav'}", words=["silent.wav", "found silence"])
    size = 36000 * 8000 * 2
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16))
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
    fails("--model", tiny_model, "--given", f"speech={tmp_path / 'long.wav'}", words=["long.wav", "found 36000 s"])
    fails("--model", tiny_model, "--given", "speech=/nowhere.wav", words=["/nowhere.wav", "found nothing there"])


def test_pictures_that_cannot_be_used(fails, tiny_model, tmp_path, seven, three):
    def given(name, *words):
        fails("--model", tiny_model, "--given", f"image={tmp_path / name}", words=[name, *words])

    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    given("dot.png", "at least 2 x 2 pixels")
    Image.new("1", (10000, 10000)).save(tmp_path / "huge.png")
    given("huge.png", "at most 64 megapixels", "(100)")
    frames = [Image.fromarray(np.full((8, 8), 40 * i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    given("moving.gif", "an animation of 3 frames")
    (tmp_path / "half.png").write_bytes(seven.read_bytes()[:80])
    given("half.png", "readable image")
    Image.new("L", (40, 40), 200).save(tmp_path / "blank.png")
    given("blank.png")
    (tmp_path / "sound.png").write_bytes(three.read_bytes())
    given("sound.png", "readable image")
    (tmp_path / "folder.png").mkdir()
    given("folder.png", "a folder")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_latent_that_is_not_finite(fails, tmp_path, seven, value):
    composer = tiny_composer()
    next(composer.denoiser.parameters()).data[0, 0] = value
    fails("--model", composer.save(tmp_path / "one"), words=["not finite"])
    composer = tiny_composer()
    composer.codecs["image"].shift.fill_(value)
    composer.save(tmp_path / "two")
    fails("--model", tmp_path / "two", "--given", f"image={seven}", words=["'image'", "NaN or infinit"])
    fails("--model", tmp_path / "two", words=["NaN or infinit"])


@pytest.mark.parametrize("limit", [0, 100])
def test_a_full_disk(fails, tiny_model, limit):
    with full_disk(limit):
        fails("--model", tiny_model, words=["cannot write", "0000_image.png"])


def test_a_disk_that_fills_up_keeps_whole_files_only(run_cli, tiny_model, tmp_path):
    """Pictures fit, sounds do not; once there is room, the same command finishes."""
    command = ("sample", "--model", tiny_model, "--n", 1, "--out", tmp_path / "out")
    with full_disk(4000):
        code, _, error = run_cli(*command)
    assert code == 2 and error.count("\n") == 1 and "cannot write" in error and "0000_speech.wav" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0000_image.png"]
    assert run_cli(*command)[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_full_disk_while_preparing_data(run_cli, tmp_path):
    (tmp_path / "mine/image").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (9, 9), np.uint8)).save(tmp_path / f"mine/image/{i}.png")
    command = ("data", "prepare", "--source", tmp_path / "mine", "--out", tmp_path / "ready")
    command += ("--modalities", '{"image": {"kind": "image", "shape": [1, 9, 9]}}')
    with full_disk(50):
        code, _, error = run_cli(*command)
    assert code == 2 and error.count("\n") == 1 and "cannot write" in error
    assert not [p for p in (tmp_path / "ready").rglob("*") if p.is_file()]
    assert run_cli(*command)[:2] == (0, f"3 samples in {tmp_path / 'ready'}\n")


def test_a_full_disk_while_training(run_cli, tmp_path):
    (tmp_path / "data/digits").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 28, 28), np.uint8)
    np.savez(tmp_path / "data/digits/mnist.npz", train_images=pixels, train_labels=np.arange(8, dtype=np.uint8))
    command = ("train", "digits-image-codec", "--data", tmp_path / "data", "--out", tmp_path / "codecs")
    command += ("--training.steps", 2, "--training.batch_size", 4)
    with full_disk(20_000):
        code, _, error = run_cli(*command)
    assert code == 2 and "cannot write" in error and "Traceback" not in error
    assert not [p for p in (tmp_path / "codecs").rglob("*") if p.suffix in (".safetensors", ".json")]
    assert run_cli(*command)[:2] == (0, f"saved {tmp_path / 'codecs'}/image\n")
    assert run_cli("inspect", tmp_path / "codecs/image.json")[0] == 0


def test_a_folder_that_cannot_be_written(fails, run_cli, tiny_model, tmp_path):
    (tmp_path / "taken").write_text("a file")
    code, _, error = run_cli("sample", "--model", tiny_model, "--out", tmp_path / "taken")
    assert code == 2 and error.count("\n") == 1 and "cannot write" in error
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_latent_without_dimensions(run_cli, tmp_path):
    (tmp_path / "digits").mkdir()
    np.savez(tmp_path / "digits/mnist.npz", train_images=np.zeros((4, 28, 28), np.uint8), train_labels=np.zeros(4, np.uint8))
    for latent in (0, -3):
        code, _, error = run_cli("train", "digits-image-codec", "--latent", latent, "--data", tmp_path, "--out", tmp_path / "out")
        assert code == 2 and f"latent: expected at least one dimension, found {latent}" in error
    assert not (tmp_path / "out").exists()
