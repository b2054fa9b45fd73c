"""One process and two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polyscore.checkpoint import load_tensors
from polyscore.errors import PolyscoreError
from polyscore.processes import this_process

SCRIPT = str(Path(__file__).parent / "training_tiny.py")
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """In float64, where rounding is far below any real difference; the batch of 9 is split into 4 and 5."""
    one = start(SCRIPT, tmp_path / "one", tmp_path / "one.result")
    two = start(*LAUNCH, SCRIPT, tmp_path / "two", tmp_path / "two.result")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    reference = load_tensors(tmp_path / "one.result-0.safetensors")
    first, second = (load_tensors(tmp_path / f"two.result-{rank}.safetensors") for rank in range(2))
    for name, value in reference.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_two_processes_with_one_sample(tmp_path):
    found = start(*LAUNCH, SCRIPT, tmp_path / "run", tmp_path / "result", "batch_size=1")
    assert found.returncode != 0
    assert "error: batch_size: expected at least one sample per process (2), found 1" in found.stderr


def test_processes_that_cannot_reach_each_other(monkeypatch):
    this_process()
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(PolyscoreError, match="processes: expected 3 "):
        this_process()


def test_a_launcher_that_started_one_process_only(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.warns(UserWarning, match="started one process only"):
        assert this_process().num_processes == 1
