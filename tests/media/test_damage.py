"""Damaged files of every kind: either they still read, or one DataError line says why not. Nothing else may come out."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from polyscore import media
from polyscore.errors import DataError

IMAGE = ("image", {"shape": (1, 8, 8)})
AUDIO = ("audio", {"shape": (800,), "rate": 8000})
CASES = [(s, *IMAGE) for s in ("png", "jpg", "webp")] + [(s, *AUDIO) for s in ("wav", "flac", "ogg", "mp3", "mp4")]
CASES += [("mp4", "video", {"shape": (4, 1, 8, 8)}), ("json", "vector", {"shape": (6,)})]


def whole(path: Path) -> bytes:
    wave = 0.5 * torch.sin(2 * math.pi * 220 * torch.arange(4000) / 8000)
    values = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    kind = {"png": "image", "jpg": "image", "webp": "image", "mp4": "video", "json": "vector"}.get(path.suffix[1:], "audio")
    value = {"image": values[0], "video": values, "vector": values[0, 0, 0, :6], "audio": wave}[kind]
    options = {"video": {"fps": 8, "waveform": wave, "rate": 8000}, "audio": {"rate": 8000}}.get(kind, {})
    return media.write(path, value, kind, {"seed": 1}, **options).read_bytes()


def damage(data: bytes, stream: random.Random) -> bytes:
    """A few bytes changed, mostly in the header, and sometimes the end cut off."""
    damaged = bytearray(data)
    for _ in range(stream.choice([1, 3, 10])):
        damaged[stream.randrange(min(len(data), stream.choice([60, 400, len(data)])))] = stream.randrange(256)
    return bytes(damaged[: stream.randrange(len(data)) if stream.random() < 0.3 else None])


@pytest.mark.parametrize(("suffix", "kind", "options"), CASES)
def test_damaged_files(tmp_path: Path, suffix: str, kind: str, options: dict[str, object]) -> None:
    file = tmp_path / f"x.{suffix}"
    data, stream = whole(file), random.Random(suffix + kind)
    for _ in range(60):
        file.write_bytes(damage(data, stream))
        for call in (lambda: media.read(file, kind, **options), lambda: media.read_metadata(file)):
            try:
                result = call()
            except DataError as error:
                assert "\n" not in str(error)
                assert str(file) in str(error)
            else:
                assert isinstance(result, dict) or torch.isfinite(result).all()
