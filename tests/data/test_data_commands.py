"""`polyscore data` against a local server and a folder of files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from test_download import DATA, SHA, Server, server

from polyscore.data.loader import FolderData

__all__ = ["server"]


def test_download_goes_on_where_it_stopped(server: Server, run_cli, tmp_path):
    file = tmp_path / "deep" / "set.bin"
    command = ("data", "download", "--out", file, "--sha256", SHA, "--attempts", 1)
    code, _, error = run_cli(*command, "--url", server.url("drops-always"))
    assert code == 2 and "the connection ended after 100000 of 1000003 bytes" in error and "100000 bytes are kept" in error
    assert [p.name for p in file.parent.iterdir()] == ["set.bin.part"]
    code, out, _ = run_cli(*command, "--url", server.url("plain"))
    assert code == 0 and "is right" in out.replace("\n", " ")
    assert server.requests[-1] == ("plain", "bytes=100000-")
    assert file.read_bytes() == DATA and [p.name for p in file.parent.iterdir()] == ["set.bin"]
    asked = len(server.requests)
    assert run_cli(*command, "--url", server.url("plain"))[0] == 0
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("name", "sha", "words"),
    [
        ("lies", SHA, "expected sha256"),
        ("404", SHA, "refused (404"),
        ("plain", "abc", "64 hexadecimal digits"),
        ("plain", "0" * 64, "expected sha256"),
    ],
)
def test_bad_downloads_end_in_one_line(server: Server, run_cli, tmp_path, name, sha, words):
    code, out, error = run_cli("data", "download", "--url", server.url(name), "--out", tmp_path / "x.bin", "--sha256", sha, "--attempts", 1)
    assert (code, out) == (2, "") and error.count("\n") == 1 and words in error
    assert list(tmp_path.iterdir()) == []


def test_a_killed_download_goes_on(server: Server, run_cli, tmp_path):
    """SIGKILL while the bytes come; the next call asks for the rest."""
    program = f"""
import polyscore.data.download as d, time
d.BLOCK = 4096
store = d._store
def slow(response, part, have, report):
    return store(response, part, have, lambda h, t: time.sleep(0.005))
d._store = slow
d.download({server.url("plain")!r}, {str(tmp_path / "x.bin")!r}, {SHA!r}, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    part = tmp_path / "x.bin.part"
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 8192) and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = part.stat().st_size
    assert 0 < kept < len(DATA) and not (tmp_path / "x.bin").exists()
    assert run_cli("data", "download", "--url", server.url("plain"), "--out", tmp_path / "x.bin", "--sha256", SHA)[0] == 0
    assert server.requests[-1] == ("plain", f"bytes={kept}-") and (tmp_path / "x.bin").read_bytes() == DATA


def test_prepare_a_folder(run_cli, tmp_path, seven, three):
    for name, file in (("image/a.png", seven), ("image/b.png", seven), ("speech/a.wav", three)):
        target = tmp_path / "mine" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    (tmp_path / "mine/speech/b.wav").write_bytes(b"noise")
    (tmp_path / "modalities.yaml").write_text(
        f"source: {tmp_path / 'mine'}\nout: {tmp_path / 'ready'}\nmodalities:\n"
        "  image: {kind: image, shape: [1, 28, 28]}\n  speech: {kind: audio, rate: 8000, shape: [8000]}\n"
    )
    code, out, _ = run_cli("data", "prepare", "--config", tmp_path / "modalities.yaml")
    assert code == 0 and "2 samples" in out and "1 files could not be used" in out
    data = FolderData(tmp_path / "ready")
    assert data.names == ["a", "b"] and data.batch([0, 1])["masks"]["speech"].tolist() == [True, False]
    code, _, error = run_cli("data", "prepare", "--config", tmp_path / "modalities.yaml", "--out", tmp_path / "strict", "--strict", "true")
    assert code == 2 and "b.wav" in error and error.count("\n") == 1
    assert not [p for p in (tmp_path / "strict").rglob("*") if p.is_file()]
