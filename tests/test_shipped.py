"""The weights that come with the package."""

from __future__ import annotations

import time

import pytest
import torch

from polyscore.checkpoint import load_module
from polyscore.composer import SHIPPED, WEIGHTS, Composer
from polyscore.data.digits import load_sklearn_digits
from polyscore.media import read_metadata, write_image
from polyscore.metrics.judges import Judge, predict
from polyscore.report.demo import run_demo

pytestmark = pytest.mark.skipif(not (WEIGHTS / "digits" / "composer.json").exists(), reason="the weights are not here yet")


def test_they_are_small_and_say_what_made_them():
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".safetensors"}
    assert sum(p.stat().st_size for p in files) < 15_000_000
    for name in SHIPPED:
        composer = Composer.load(name)
        assert composer.meta.get("recipe") and composer.meta.get("dataset") and composer.defaults.get("steps")


def test_handwriting_by_other_hands_is_spoken():
    """A floor far below what is measured: scikit-learn's 8 x 8 digits are not MNIST's."""
    composer, data = Composer.load("digits"), load_sklearn_digits("test")
    judge = load_module(WEIGHTS / "judges/digits/speech", Judge)
    spoken = composer.sample(60, {"image": data.x[:60]}, seed=0)["speech"]
    assert float((predict(judge, spoken)[0] == data.labels[:60]).double().mean()) >= 0.6


def test_a_sample_and_its_repetition(run_cli, tmp_path):
    picture = write_image(tmp_path / "given.png", 1 - load_sklearn_digits("test").x[3])
    assert run_cli("sample", "--given", f"image={picture}", "--n", 2, "--out", tmp_path / "one")[0] == 0
    assert read_metadata(tmp_path / "one/0000_speech.wav")["run"]["model"] == "digits"
    assert run_cli("sample", "--from", tmp_path / "one/0001_speech.wav", "--out", tmp_path / "two")[0] == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert run_cli("inspect", "digits")[0] == 0


@pytest.mark.slow
def test_the_demo_takes_less_than_a_minute(tmp_path):
    """In seconds of processor time on one thread, so that a busy machine does not fail it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    page = run_demo(tmp_path)
    torch.set_num_threads(threads)
    assert page.stat().st_size < 5_000_000
    assert time.process_time() - began < 60
