"""Ctrl-C and SIGKILL on the command line: what was finished is kept, and the same command goes on to the same result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from polyscore.checkpoint import load_tensors
from polyscore.composer import Composer
from polyscore.training.state import Folder


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own handler, also where the tests were started in the background, which ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of data with a few pictures of noise."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "digits").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 28, 28), np.uint8)
    np.savez(folder / "digits/mnist.npz", train_images=pixels, train_labels=np.arange(24, dtype=np.uint8) % 10)
    return folder


def command(digits, out, steps=8):
    fields = {"steps": steps, "batch_size": 4, "checkpoint_every": 2, "log_every": 1}
    options = [word for name, value in fields.items() for word in (f"--training.{name}", str(value))]
    return ["train", "digits-image-codec", "--data", str(digits), "--out", str(out), *options]


def test_interrupted_training_resumes_to_the_same_weights(run_cli, digits, tmp_path, monkeypatch):
    assert run_cli(*command(digits, tmp_path / "whole"))[0] == 0
    write_log, calls = Folder.write_log, []

    def interrupt(self, entry):
        calls.append(entry)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        write_log(self, entry)

    monkeypatch.setattr(Folder, "write_log", interrupt)
    code, _, error = run_cli(*command(digits, tmp_path / "cut"))
    line = error.strip().splitlines()[-1]
    assert code == 130 and line.startswith("polyscore: error: ") and "was saved; run the same command again to resume" in line
    assert not (tmp_path / "cut/image.json").exists()
    assert run_cli(*command(digits, tmp_path / "cut"))[0] == 0
    one, two = (load_tensors(tmp_path / name / "image.safetensors") for name in ("whole", "cut"))
    assert all(one[name].equal(two[name]) for name in one)


def test_interrupted_sampling_keeps_whole_files(run_cli, tiny_model, tmp_path, monkeypatch):
    arguments = ("sample", "--model", tiny_model, "--n", 4, "--batch_size", 2)
    run_cli(*arguments, "--out", tmp_path / "whole")
    write, calls = Composer.write, []

    def interrupt(self, *values):
        calls.append(values)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return write(self, *values)

    monkeypatch.setattr(Composer, "write", interrupt)
    code, out, error = run_cli(*arguments, "--out", tmp_path / "cut")
    assert (code, out) == (130, "") and error.count("\n") == 1 and "interrupted" in error
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    kept = {p.name: p.read_bytes() for p in (tmp_path / "cut").iterdir()}
    assert len(kept) == 5 and kept.items() <= whole.items()
    assert run_cli(*arguments, "--out", tmp_path / "cut")[0] == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "cut").iterdir()} == whole


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_weights(run_cli, digits, tmp_path):
    assert run_cli(*command(digits, tmp_path / "whole", 24))[0] == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "polyscore", *command(digits, tmp_path / "cut", 24)], env=environment)
    log, end = tmp_path / "cut/run-image/log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 7) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert run_cli(*command(digits, tmp_path / "cut", 24))[0] == 0
    one, two = (load_tensors(tmp_path / name / "image.safetensors") for name in ("whole", "cut"))
    assert all(one[name].equal(two[name]) for name in one)
