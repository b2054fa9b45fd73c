"""The command line in several processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from polyscore import processes
from polyscore.generate import generate
from polyscore.media import read_audio, read_metadata

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "-m", "polyscore", "sample"]


def launch(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*LAUNCH, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=180)


@pytest.mark.slow
def test_two_processes_sample_as_one(tiny_model, tmp_path, seven):
    """`accelerate launch --num_processes 2` on CPUs; 5 samples in batches of 3 are shared as 1 + 2 and 1 + 1."""
    options = ["--model", tiny_model, "--n", 5, "--batch_size", 3, "--given", f"image={seven}", "--seed", 4]
    done = launch(*options, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"5 files in {tmp_path / 'two'}"]
    one = generate(tiny_model, tmp_path / "one", 5, {"image": seven}, 4, 3)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in one)
    for file in one:
        other = tmp_path / "two" / file.name
        assert read_metadata(file) == read_metadata(other)
        assert (read_audio(file) - read_audio(other)).abs().max() < 1e-3


@pytest.mark.slow
def test_two_processes_fail_as_one(tiny_model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = launch("--model", tiny_model, "--out", tmp_path / "file" / "out")
    assert done.returncode != 0
    lines = {line for line in done.stderr.splitlines() if line.startswith("polyscore: error")}
    assert len(lines) == 1 and "cannot write" in lines.pop()


def test_only_a_lonely_process_starts_others(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    processes.start_the_others(["sample", "--n", "3"])
    assert started == []
    for name in ("MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "1")

    class Parent:
        def __init__(self, command):
            self.command = command

        def parent(self):
            return self

        def cmdline(self):
            return self.command.split()

    import psutil

    for command, count in (
        ("python accelerate launch --num_processes 3 -m polyscore", "3"),
        ("accelerate launch --num-processes=2 x", "2"),
    ):
        monkeypatch.setattr(psutil, "Process", lambda command=command: Parent(command))
        monkeypatch.setenv("MASTER_ADDR", "1")
        monkeypatch.setenv("MASTER_PORT", "1")
        processes.start_the_others(["sample", "--n", "3"])
        found = started.pop()
        assert found[found.index("--nproc_per_node") + 1] == count
        assert found[-4:] == ["polyscore", "sample", "--n", "3"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.start_the_others(["sample"])
    assert started == []


def test_one_process_shares_with_itself():
    value = {"a": torch.ones(2)}
    assert processes.share(value) is value
