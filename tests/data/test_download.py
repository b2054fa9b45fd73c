"""Downloads against a local server that supports ranges, ignores them, drops connections and lies."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polyscore.data.download import download, sha256_of
from polyscore.errors import DataError, PolyscoreError

DATA = random.Random(0).randbytes(1_000_003)
SHA = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves DATA at every path; the path names its behaviour."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name, asked = self.path.strip("/"), self.headers.get("Range")
        seen = sum(n == name for n, _ in self.server.requests)
        self.server.requests.append((name, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and "noranges" not in name else 0
        if name in ("404", "500"):
            return self.send_error(int(name))
        if name == "busy" and seen < 2:
            return self.send_error(503)
        if name.startswith("redirect"):
            return self.reply(302, b"", Location="file:///etc/hostname" if name == "redirect-file" else "/plain")
        if start >= len(DATA):
            return self.reply(416, b"", **{"Content-Range": f"bytes */{len(DATA)}"})
        body, claimed = DATA[start:], start
        if name == "lies":
            body = b"x" * len(body)
        if name == "wrongrange" and start:
            claimed, body = 5, DATA[5:]
        length = len(body)
        if "drops" in name and (seen < 3 or "always" in name):
            body = body[: 100_000 if "stuck" not in name else 0]
        if asked and "noranges" not in name:
            return self.reply(206, body, length, **{"Content-Range": f"bytes {claimed}-{len(DATA) - 1}/{len(DATA)}"})
        return self.reply(200, body, length if name != "nolength" else None)

    def reply(self, status: int, body: bytes, length: int | None = 0, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def get(url: str, path: Path, sha: str = SHA) -> Path:
    return download(url, path, sha, progress=False, backoff=0.001, attempts=3, timeout=5)


@pytest.mark.parametrize("name", ["plain", "nolength", "noranges", "busy", "drops", "drops-always", "redirect"])
def test_the_file_arrives(server: Server, tmp_path: Path, name: str) -> None:
    path = get(server.url(name), tmp_path / "deep" / "x.bin")
    assert path.read_bytes() == DATA
    assert [f.name for f in path.parent.iterdir()] == ["x.bin"]


def test_the_right_file_is_not_fetched_again_and_another_is_left_alone(server: Server, tmp_path: Path) -> None:
    path = get(server.url("plain"), tmp_path / "x.bin")
    assert get(server.url("plain"), path) == path
    assert len(server.requests) == 1
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match="remove the file"):
        get(server.url("plain"), path)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["plain", "noranges", "wrongrange"])
def test_a_later_call_resumes(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / "x.bin.part").write_bytes(DATA[:600_000])
    assert get(server.url(name), tmp_path / "x.bin").read_bytes() == DATA
    assert server.requests[0] == (name, "bytes=600000-")
    assert len(server.requests) == (2 if name == "wrongrange" else 1)


def test_a_finished_part_needs_no_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(DATA)
    assert get(server.url("plain"), tmp_path / "x.bin").read_bytes() == DATA


@pytest.mark.parametrize("part", [b"old" * 1000, b"z" * 2_000_000])
def test_a_part_of_another_file_is_dropped(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "x.bin.part").write_bytes(part)
    assert get(server.url("plain"), tmp_path / "x.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "message", "kept"),
    [
        ("lies", r"expected sha256 .*, found .* \(1000003 bytes\); the bad file was removed", None),
        ("404", "refused .404", None),
        ("500", "gave up after 3 failed attempts", None),
        ("drops-always-noranges", "ended after 100000 of 1000003 bytes", 100_000),
        ("drops-always-stuck", "ended after 0 of 1000003 bytes", 0),
        ("redirect-file", "refused .302", None),
    ],
)
def test_bad_servers_end_in_one_line(server: Server, tmp_path: Path, name: str, message: str, kept: int | None) -> None:
    with pytest.raises(DataError, match=message) as error:
        get(server.url(name), tmp_path / "x.bin")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.bin").exists()
    part = tmp_path / "x.bin.part"
    assert (part.stat().st_size if part.exists() else None) == kept


def test_nobody_listens(tmp_path: Path) -> None:
    server = Server()
    server.server_close()
    with pytest.raises(DataError, match="gave up after 3"):
        get(server.url("plain"), tmp_path / "x.bin")


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "a b.bin").write_bytes(DATA)
    (tmp_path / "x.bin.part").write_bytes(b"rest of something")
    assert get((tmp_path / "a b.bin").as_uri(), tmp_path / "x.bin").read_bytes() == DATA
    with pytest.raises(DataError, match="cannot be read"):
        get((tmp_path / "absent").as_uri(), tmp_path / "y.bin")


@pytest.mark.parametrize("url", ["ftp://host/x", "x.bin", "javascript:1", ""])
def test_other_schemes(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an http"):
        get(url, tmp_path / "x.bin")


def test_the_sum_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="64 hexadecimal"):
        get("http://127.0.0.1/x", tmp_path / "x.bin", "abc")


def test_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: object, **kwargs: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(PolyscoreError, match=r"cannot write .*: No space left on device"):
        get(server.url("plain"), tmp_path / "x.bin")


def test_progress_is_shown(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(server.url("plain"), tmp_path / "x.bin", SHA.upper(), progress=True)
    assert capsys.readouterr().out == ""
    assert sha256_of(tmp_path / "x.bin") == SHA
