"""Tokens, vectors and JSON; and what a full disk does to any kind."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from polyscore import media
from polyscore.errors import DataError, PolyscoreError

META = {"seed": 1}


@pytest.mark.parametrize(
    ("kind", "value"),
    [("tokens", torch.tensor([3, 0, 9])), ("vector", torch.tensor([0.25, -1.5])), ("json", torch.arange(6.0).view(2, 3))],
)
def test_round_trip(tmp_path: Path, kind: str, value: torch.Tensor) -> None:
    file = media.write(tmp_path / "x.json", value, kind, META)
    back = media.read(file, kind)
    assert torch.equal(back, value)
    assert back.dtype == value.dtype
    assert media.read_metadata(file) == META


def test_plain_lists_text_and_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "b.txt").write_text("1 2\n")
    (tmp_path / "c.csv").write_text("1,2")
    np.save(tmp_path / "d.npy", np.array([1, 2]))
    for name in ("a.json", "b.txt", "c.csv", "d.npy"):
        assert media.read(tmp_path / name, "tokens", vocabulary=3).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "kind", "options", "message"),
    [
        ("[1, 2", "vector", {}, "expected numbers"),
        ('["a"]', "vector", {}, "list of numbers"),
        ("[[1, 2], [3]]", "json", {}, "list of numbers"),
        ("[NaN]", "vector", {}, "NaN"),
        ("[1e999]", "vector", {}, "infinite"),
        ("[[1]]", "vector", {}, r"found shape \(1, 1\)"),
        ("[1, 2]", "vector", {"shape": (3,)}, r"expected shape \(3,\), found \(2,\)"),
        ("[1, 10]", "tokens", {"vocabulary": 10}, "from 0 to 9, found 10"),
        ("[0.5]", "tokens", {}, "found 0.5"),
        ("[" * 100_000, "json", {}, "expected"),
    ],
)
def test_bad_values_end_in_one_line(tmp_path: Path, text: str, kind: str, options: dict[str, object], message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        media.read(file, kind, **options)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="expected numbers"):
        media.read(tmp_path / "x.npy", "vector")


WRITES: list[tuple[str, Callable[[Path], object]]] = [
    ("x.png", lambda f: media.write(f, torch.rand(3, 64, 64), "image", META)),
    ("x.wav", lambda f: media.write(f, torch.rand(8000), "audio", META, rate=8000)),
    ("x.mp4", lambda f: media.write(f, torch.rand(8, 3, 64, 64), "video", META, fps=8)),
    ("x.json", lambda f: media.write(f, torch.rand(2000), "vector", META)),
]


@pytest.mark.parametrize(("name", "call"), WRITES)
def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[[Path], object]) -> None:
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        whole(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PolyscoreError, match=rf"cannot write .*{name}: No space left on device"):
        call(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "call"), WRITES)
def test_the_system_refuses_in_the_middle_of_a_file(tmp_path: Path, name: str, call: Callable[[Path], object]) -> None:
    """The same with a real failing write: the system stops the file at 4 kB. The older file stays."""
    (tmp_path / name).write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(PolyscoreError, match=f"cannot write .*{name}"):
            call(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [f.name for f in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"older"
