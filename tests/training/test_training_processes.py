"""One process and two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_tiny import run_double

from polyscore.checkpoint import load_tensors
from polyscore.errors import PolyscoreError
from polyscore.processes import this_process

SCRIPT = str(Path(__file__).parent / "training_tiny.py")
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", SCRIPT]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """In float64, where rounding is far below any real difference; the batch of 9 is split into 4 and 5, a batch of 1 is refused."""
    command = [sys.executable, *LAUNCH, str(tmp_path / "two"), str(tmp_path / "result")]
    two = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("error: batch_size: expected at least one sample per process (2), found 1") == 2, two.stderr
    first, second = (load_tensors(tmp_path / f"result-{rank}.safetensors") for rank in range(2))
    for name, value in run_double(tmp_path / "one").module.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-10, atol=1e-12)


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
