"""Resumable downloads, pinned by SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from polyscore.errors import DataError, PolyscoreError

__all__ = ["download", "sha256_of"]

BLOCK = 1 << 18
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
Report = Callable[[int, int | None], None]


class _InterruptedError(Exception):
    """The server stopped before the end; the part that came is kept."""


def download(
    url: str,
    path: str | os.PathLike[str],
    sha256: str,
    *,
    progress: bool = True,
    attempts: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Fetch http://, https:// or file:// `url` to `path`; returns at once when the right file is already there.

    What has come so far is kept in `path`.part; a later call (or a retry after a dropped connection) asks the server for the
    rest, and starts again if the server cannot continue. After `attempts` failures without progress it gives up; the pauses
    between them double from `backoff` seconds.

    Raises:
        DataError: another scheme, a refusing server, a connection that keeps failing, a wrong SHA-256 (the bad file is removed),
            or another file already at `path` (it is left alone).
        PolyscoreError: the file cannot be written.
    """
    target = Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise DataError(f"{url}: expected an http://, https:// or file:// address")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise DataError(f"{url}: expected a SHA-256 of 64 hexadecimal digits, found {sha256!r}")
    if _already_there(target, sha256.lower()):
        return target
    part = target.with_name(target.name + ".part")
    resumed = part.exists() and part.stat().st_size > 0
    with _reporter(target.name, progress) as report:
        _fetch_all(url, part, attempts, backoff, timeout, report)
        if resumed and sha256_of(part) != sha256.lower():  # the part may stem from an older version of the file
            part.unlink()
            _fetch_all(url, part, attempts, backoff, timeout, report)
    if (found := sha256_of(part)) != sha256.lower():
        size = part.stat().st_size
        part.unlink()
        raise DataError(f"{url}: expected sha256 {sha256.lower()[:12]}..., found {found[:12]}... ({size} bytes); the bad file was removed")
    try:
        part.replace(target)
    except OSError as error:
        raise PolyscoreError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file in hexadecimal, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _already_there(target: Path, sha256: str) -> bool:
    if target.is_dir():
        raise DataError(f"{target}: expected a file, found a folder")
    if not target.exists():
        return False
    if (found := sha256_of(target)) != sha256:
        raise DataError(f"{target}: expected sha256 {sha256[:12]}..., found {found[:12]}...; remove the file to download it again")
    return True


def _fetch_all(url: str, part: Path, attempts: int, backoff: float, timeout: float, report: Report) -> None:
    """Call `_fetch` until it ends; failures count only while the part does not grow."""
    failures, most = 0, part.stat().st_size if part.exists() else 0
    while True:
        try:
            return _fetch(url, part, timeout, report)
        except (_InterruptedError, urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code not in TRANSIENT:
                raise DataError(f"{url}: the server refused ({error.code} {reason})") from error
            if isinstance(getattr(error, "reason", None), FileNotFoundError | IsADirectoryError | PermissionError):
                raise DataError(f"{url}: cannot be read ({reason})") from error
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > most else failures + 1
            most = max(most, size)
            if failures >= attempts:
                raise DataError(f"{url}: gave up after {failures} failed attempts ({reason}); {size} bytes are kept in {part}") from error
            time.sleep(backoff * 2 ** (failures - 1))


def _fetch(url: str, part: Path, timeout: float, report: Report) -> None:
    """One request: the rest of the part if the server can continue, else the whole file."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            _unsatisfied(error, part, have)
            return
        raise
    with response:
        if url.startswith("file:"):
            have = 0
        elif response.status == 206:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != have:  # not the rest that was asked for: ask for everything
                part.unlink()
                raise _InterruptedError("the server sent another range than asked")
        else:
            have = 0
        _store(response, part, have, report)


def _unsatisfied(error: urllib.error.HTTPError, part: Path, have: int) -> None:
    """The server has nothing after our part: it is whole, or it is not of this file."""
    total = re.match(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
    if total is None or int(total[1]) != have:
        part.unlink()
        raise _InterruptedError("the kept part did not fit the file") from error


def _store(response: Any, part: Path, have: int, report: Report) -> None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length is not None and length.isdigit() else None
    with _writing(part, "ab" if have else "wb") as write:
        while block := response.read(BLOCK):
            write(block)
            have += len(block)
            report(have, total)
    if total is not None and have < total:
        raise _InterruptedError(f"the connection ended after {have} of {total} bytes")


@contextlib.contextmanager
def _writing(part: Path, mode: str) -> Iterator[Callable[[bytes], None]]:
    """A function that appends to the part; only its own errors mean that the file cannot be written."""

    def guarded(action: Callable[..., Any], *values: Any) -> Any:
        try:
            return action(*values)
        except OSError as error:
            raise PolyscoreError(f"cannot write {part}: {error.strerror or error}") from error

    guarded(lambda: part.parent.mkdir(parents=True, exist_ok=True))
    stream: BinaryIO = guarded(part.open, mode)
    try:
        yield lambda block: guarded(stream.write, block)
        guarded(stream.flush)
    finally:
        with contextlib.suppress(OSError):
            stream.close()


def _opener() -> urllib.request.OpenerDirector:
    """http, https and file only, also after a redirect (a redirect to file:// is refused by urllib)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.FileHandler,
    ):
        opener.add_handler(handler())
    return opener


@contextlib.contextmanager
def _reporter(name: str, progress: bool) -> Iterator[Report]:
    """A progress bar on a terminal, or silence."""
    if not progress or not sys.stderr.isatty():
        yield lambda have, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)
