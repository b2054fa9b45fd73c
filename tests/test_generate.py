"""From files to files, and again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from polyscore.cli import main
from polyscore.composer import Composer
from polyscore.errors import PolyscoreError
from polyscore.generate import fingerprint, generate, repeat
from polyscore.media import read_image, read_metadata, write_image


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_files_hold_what_the_composer_samples(tiny_model, tmp_path, three):
    files = generate(tiny_model, tmp_path, 3, {"speech": three}, seed=2, batch_size=2)
    assert [p.name for p in files] == ["0000_image.png", "0001_image.png", "0002_image.png"]
    composer = Composer.load(tiny_model)
    made = composer.sample(3, {"speech": composer.read("speech", three)}, seed=2)
    for row, file in enumerate(files):
        assert (read_image(file) - made["image"][row]).abs().max() <= 0.5 / 255 + 1e-4


def test_metadata_says_what_made_a_file(tiny_model, tmp_path, seven):
    file = generate(tiny_model, tmp_path, 1, {"image": seven}, seed=8, options={"steps": 2, "guidance": 0.5})[0]
    found = read_metadata(file)
    run = found["run"]
    assert run["model"] == str(tiny_model) and run["weights"] == fingerprint(Composer.load(tiny_model))
    assert (run["seed"], run["n"], run["batch_size"], run["polyscore"]) == (8, 1, 64, "0.1.0")
    assert run["options"] == {"steps": 2, "guidance": 0.5} and run["given"]["image"]["shape"] == [1, 4]


def test_an_interrupted_run_goes_on(tiny_model, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    generate(tiny_model, whole, 5, seed=1, batch_size=2)
    generate(tiny_model, cut, 5, seed=1, batch_size=2)
    (cut / "0002_image.png").unlink()
    write_image(cut / "0004_image.png", torch.zeros(1, 4, 4))
    before = {p.name: p.stat().st_mtime_ns for p in cut.iterdir()}
    seen = []
    generate(tiny_model, cut, 5, seed=1, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert contents(cut) == contents(whole)
    assert {name for name, time in before.items() if (cut / name).stat().st_mtime_ns == time} == {
        f"000{i}_{name}" for i in (0, 1) for name in ("image.png", "speech.wav")
    }
    assert seen == [(done, 12) for done in range(5, 13)]
    generate(tiny_model, cut, 5, seed=2, batch_size=2)
    assert not set(contents(cut).values()) & set(contents(whole).values())


def test_repeating_needs_the_same_weights(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = generate(model, tmp_path / "one", 1)[0]
    repeat(file, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    composer = Composer.load(model)
    next(composer.codecs["image"].parameters()).data += 1
    composer.save(model)
    with pytest.raises(PolyscoreError, match=r"made by weights .*, found weights .* now"):
        repeat(file, tmp_path / "three")
    shutil.rmtree(model)
    with pytest.raises(PolyscoreError, match="expected a folder with composer"):
        repeat(file, tmp_path / "three")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("change", [{"n": "3"}, {"given": {"image": {}}}, {"given": {"image": 3}}, {"options": None}, {"seed": None}])
def test_damaged_metadata(tiny_model, tmp_path, change):
    run = read_metadata(generate(tiny_model, tmp_path / "one", 1)[0])["run"]
    file = write_image(tmp_path / "changed.png", torch.zeros(1, 4, 4), metadata={"run": run | change})
    with pytest.raises(PolyscoreError, match=r"changed\.png: expected"):
        repeat(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_a_picture(tiny_model, tmp_path, seven, capsys):
    """`--seen image=left` generates the picture, too, follows what is seen of it, and can be repeated."""
    out = tmp_path / "half"
    command = ["sample", "--model", str(tiny_model), "--out", str(out), "--n", "2", "--given", f"image={seven}", "--seen", "image=left"]
    assert main(command) == 0
    assert sorted(p.name for p in out.iterdir()) == [f"000{i}_{name}" for i in (0, 1) for name in ("image.png", "speech.wav")]
    run = read_metadata(out / "0000_image.png")["run"]
    assert run["given"] == {} and run["partly"]["image"]["shape"] == [1, 1, 28, 28]
    repeat(out / "0001_speech.wav", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(out)
    assert main([*command[:-1], "image=middle"]) == 2 and "expected left, right" in capsys.readouterr().err
    assert main([*command[:-1], "speech=left"]) == 2 and "seen modality 'speech'" in capsys.readouterr().err


def test_files_of_others_are_not_repeated(tmp_path):
    (tmp_path / "plain.json").write_text(json.dumps({"values": [1, 2]}))
    with pytest.raises(PolyscoreError, match="no polyscore metadata"):
        repeat(tmp_path / "plain.json", tmp_path / "out")
    file = write_image(tmp_path / "other.png", torch.zeros(1, 4, 4), metadata={"run": 3})
    with pytest.raises(PolyscoreError, match="found none of its metadata"):
        repeat(file, tmp_path / "out")


def test_impossible_numbers(tiny_model, tmp_path):
    for wrong, message in (({"n": 0}, "n is 0"), ({"batch_size": 0}, "batch_size is 0")):
        with pytest.raises(PolyscoreError, match=message):
            generate(tiny_model, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
