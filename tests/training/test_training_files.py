"""Full disks, damaged files, SIGKILL."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_tiny import Net, run

from polyscore.errors import CheckpointError, PolyscoreError

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "log.jsonl"}


@pytest.fixture
def started(tmp_path):
    run(tmp_path, steps=20)
    return tmp_path


def resumes(folder):
    return run(folder, steps=40).resumed == 20


def test_no_room_for_the_tensors(started):
    """A file size limit makes the write fail half-way, as a full disk does."""
    before, limits = contents(started), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(PolyscoreError, match=r"cannot write .*step-00000030.safetensors: File too large"):
            run(started, steps=40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(started) == before
    assert resumes(started)


def test_no_room_for_the_pointer(started, monkeypatch):
    before, original = contents(started), Path.write_text

    def write_text(self, *args, **kwargs):
        if self.name.startswith(".latest"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(PolyscoreError, match=r"cannot write .*latest.json: No space left on device"):
        run(started, steps=40)
    monkeypatch.undo()
    assert contents(started) == before
    assert resumes(started)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        run(tmp_path, net=Net(width=512), steps=20)
        before = contents(tmp_path)
        with pytest.raises(PolyscoreError, match=r"cannot write .*: No space left on device"):
            (tmp_path / "ballast").write_bytes(bytes(240_000))
            run(tmp_path, net=Net(width=512), steps=40)
        (tmp_path / "ballast").unlink()
        assert contents(tmp_path) == before
        assert run(tmp_path, net=Net(width=512), steps=40).resumed == 20
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(PolyscoreError, match=r"cannot write .*run/log.jsonl"):
        run(tmp_path / "run", steps=2)


def broken_pointer(text):
    return lambda folder: (folder / "latest.json").write_text(text)


def without(field):
    def damage(folder):
        header = json.loads((folder / "latest.json").read_text())
        del header[field]
        (folder / "latest.json").write_text(json.dumps(header))

    return damage


def truncated(folder):
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])


def flipped(folder):
    (file,) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


def missing(folder):
    (file,) = folder.glob("*.safetensors")
    file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, r"step-00000020.safetensors: truncated or changed: expected sha256 .*\(1000 bytes\)"),
        (flipped, r"step-00000020.safetensors: truncated or changed"),
        (missing, r"step-00000020.safetensors: cannot be read \(No such file"),
        (broken_pointer("{"), r"latest.json: not JSON"),
        (broken_pointer("[]"), r"latest.json: not a training checkpoint \(expected format 1\)"),
        (broken_pointer('{"format": 2}'), r"latest.json: not a training checkpoint"),
        (without("sha256"), r"latest.json: damaged \(KeyError: 'sha256'\)"),
        (without("identity"), r"latest.json: damaged"),
    ],
)
def test_damaged_checkpoints(started, damage, message):
    damage(started)
    before = contents(started)
    with pytest.raises(CheckpointError, match=message):
        run(started, steps=40)
    assert contents(started) == before


def test_a_checkpoint_of_another_module(tmp_path):
    def small(net, batch, draw):
        return net(batch["x"]).square().mean()

    run(tmp_path, net=torch.nn.Sequential(torch.nn.Linear(6, 2)), loss=small, steps=2)
    with pytest.raises(CheckpointError, match=r"tensor '0.bias' has shape \(2,\), expected|tensor '0.weight' has shape|missing|unknown"):
        run(tmp_path, net=torch.nn.Sequential(torch.nn.Linear(6, 3)), loss=small, steps=4)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(tmp_path):
    done = subprocess.run([sys.executable, HERE / "training_kills.py", tmp_path], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 20
    assert set(outcomes.values()) == {"same"}, outcomes
