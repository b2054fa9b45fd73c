"""Sounds: round trips, resampling, metadata, and every bad file ends in one line."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from polyscore import media
from polyscore.errors import DataError

META = {"seed": 7, "configuration": {"steps": 20}, "note": "é" * 3000}


def tone(seconds: float = 1.0, rate: int = 8000, pitch: float = 440.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * pitch * torch.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_round_trip_with_metadata(tmp_path: Path, suffix: str) -> None:
    wave = tone()
    file = media.write(tmp_path / f"x{suffix}", wave, "audio", META, rate=8000)
    back = media.read(file, "audio", rate=8000)
    assert back.shape == wave.shape
    assert (back - wave).abs().mean() < {".wav": 1e-4, ".flac": 1e-4}.get(suffix, 0.03)
    assert media.read_metadata(file) == META


def test_wav_with_metadata_is_an_ordinary_wav(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.wav", tone()[:999], "audio", META, rate=8000)
    assert struct.unpack("<I", file.read_bytes()[4:8])[0] == file.stat().st_size - 8
    samples, rate = soundfile.read(file, dtype="int16")
    assert (len(samples), rate) == (999, 8000)


def test_loud_samples_are_clamped_and_do_not_wrap(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.wav", torch.tensor([3.0, -3.0, 0.5]), "audio", rate=8000)
    samples, _ = soundfile.read(file, dtype="int16")
    assert samples.tolist() == [32767, -32767, 16384]


def test_resampling_keeps_the_pitch(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.wav", tone(rate=44100), "audio", rate=44100)
    back = media.read(file, "audio", rate=8000, shape=(8000,))
    assert int(torch.fft.rfft(back).abs().argmax()) == 440
    assert (back - tone())[100:-100].abs().max() < 0.01


def test_crop_pad_mono_and_trim(tmp_path: Path) -> None:
    stereo = torch.stack([tone(), torch.zeros(8000)])
    file = media.write(tmp_path / "x.wav", stereo, "audio", rate=8000)
    assert media.read(file, "audio", shape=(1, 4000)).shape == (1, 4000)
    padded = media.read(file, "audio", shape=(9000,))
    assert padded[8000:].abs().max() == 0
    assert padded.abs().max() == pytest.approx(0.25, abs=0.01)
    late = torch.cat([torch.zeros(5000), tone(), torch.zeros(3000)])
    file = media.write(tmp_path / "late.wav", late, "audio", rate=8000)
    assert abs(len(media.read(file, "audio", trim_silence=True)) - 8000) < 20


def wav(data: bytes, size: int | None = None, rate: int = 8000, tag: int = 1, bits: int = 16) -> bytes:
    """A mono WAV file whose data chunk claims `size` bytes."""
    size = len(data) if size is None else size
    form = struct.pack("<HHIIHH", tag, 1, rate, rate * bits // 8, bits // 8, bits)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 2**32 - 1))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def floats(*values: float) -> bytes:
    return wav(np.array([0.5, 0.1] * 50 + list(values), np.float32).tobytes(), tag=3, bits=32)


LOUD = (tone() * 32767).to(torch.int16).numpy().tobytes()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("noise.wav", b"not a sound at all", ("readable audio",)),
        ("half.wav", wav(LOUD)[:5000], ("truncated", "16000 bytes", "4956")),
        ("zero.wav", wav(b""), ("no samples",)),
        ("silent.wav", wav(bytes(16000)), ("silence",)),
        ("quiet.wav", wav(np.full(8000, 20, np.int16).tobytes()), ("silence",)),
        ("nan.wav", floats(math.nan), ("1 of 101 NaN or infinite",)),
        ("inf.wav", floats(math.inf, -math.inf), ("2 of 102 NaN or infinite",)),
        ("slow.wav", wav(LOUD, rate=3), ("sampling rate", "found 3")),
        ("empty.wav", b"", ("empty file",)),
        ("picture.png", b"\x89PNG", ("'.png'",)),
        ("noise.flac", b"fLaC but not really", ("readable audio",)),
        ("noise.m4a", b"not a container", ("readable",)),
    ],
)
def test_bad_sounds_end_in_one_line(tmp_path: Path, name: str, data: bytes, words: tuple[str, ...]) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(DataError) as error:
        media.read(file, "audio", rate=8000, shape=(8000,))
    assert "\n" not in str(error.value)
    for word in (str(file), "expected", "found", *words):
        assert word in str(error.value)


def test_ten_hours_are_refused_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10 * 3600 * 8000 * 2
    file = tmp_path / "long.wav"
    file.write_bytes(wav(LOUD, size=size))
    with file.open("r+b") as stream:
        stream.truncate(44 + size)  # sparse: takes no room on the disk
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *a, **k: pytest.fail("samples were read"))
    monkeypatch.setattr(soundfile.SoundFile, "blocks", lambda *a, **k: pytest.fail("samples were read"))
    with pytest.raises(DataError, match=r"long\.wav: expected at most 600 s of sound, found 36000 s"):
        media.read(file, "audio")
    with pytest.raises(DataError, match="at most 5 s"):
        media.read(file, "audio", max_seconds=5)


def test_silence_in_the_part_that_is_used(tmp_path: Path) -> None:
    file = media.write(tmp_path / "late.wav", torch.cat([torch.zeros(8000), tone()]), "audio", rate=8000)
    with pytest.raises(DataError, match="silence there"):
        media.read(file, "audio", shape=(4000,))
    assert media.read(file, "audio", shape=(4000,), trim_silence=True).abs().max() > 0.4


@pytest.mark.parametrize(
    ("value", "message"), [(torch.zeros(3, 4), r"found \(3, 4\)"), (torch.tensor([math.nan]), "NaN"), (torch.zeros(0), "found")]
)
def test_bad_values_write_nothing(tmp_path: Path, value: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        media.write(tmp_path / "x.wav", value, "audio", rate=8000)
    assert list(tmp_path.iterdir()) == []


def test_a_streamed_wav_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(LOUD, size=0xFFFFFFFF))
    assert media.read(tmp_path / "x.wav", "audio").shape == (8000,)


def test_foreign_sounds_have_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(wav(LOUD))
    soundfile.write(tmp_path / "x.flac", np.zeros(100), 8000)
    for name in ("x.wav", "x.flac"):
        with pytest.raises(DataError, match="no polyscore metadata"):
            media.read_metadata(tmp_path / name)
