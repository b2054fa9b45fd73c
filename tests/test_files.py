"""Atomic files: whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polyscore.errors import PolyscoreError
from polyscore.files import atomic, write_text


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a" / "b" / "c.txt", "caf\u00e9\n")
    assert path.read_text(encoding="utf-8") == "caf\u00e9\n"
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_old_content_stays_until_the_end(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, PolyscoreError])
def test_nothing_is_left_when_the_block_raises(tmp_path: Path, error) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_operating_system_error_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(PolyscoreError, match=r"cannot write .*a.txt: No space left on device"), atomic(path):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(PolyscoreError, match=r"cannot write .*folder: Is a directory"):
        write_text(tmp_path / "folder", "x")
    write_text(tmp_path / "file", "x")
    with pytest.raises(PolyscoreError, match=r"cannot write .*below: Not a directory|cannot write .*below: File exists"):
        write_text(tmp_path / "file" / "below", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PolyscoreError, match=r"cannot write .*: Permission denied"):
        write_text(tmp_path / "a.txt", "x")
    tmp_path.chmod(0o700)
