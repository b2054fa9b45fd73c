"""Videos: exact lengths, sound in step with the picture, metadata, bad files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from polyscore import media
from polyscore.errors import DataError

META = {"seed": 3, "configuration": {"text": "x" * 20_000}}


def ramp(count: int, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    """Frame k is grey of value k / count."""
    return (torch.arange(count) / count).view(-1, 1, 1, 1).expand(count, channels, height, width)


def tone(length: int, rate: int) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * 220 * torch.arange(length) / rate)


@pytest.mark.parametrize(("count", "fps", "rate"), [(10, 10, 8000), (33, 25, 16000), (16, 30000 / 1001, 44100), (1, 5, 8000)])
def test_lengths_are_exact(tmp_path: Path, count: int, fps: float, rate: int) -> None:
    length = round(count / fps * rate)
    wave = tone(length, rate)
    file = media.write_video(tmp_path / "x.mp4", ramp(count), fps=fps, waveform=wave, rate=rate, metadata=META)
    video = media.read_video(file)
    assert video.frames.shape == (count, 3, 32, 32)
    assert (video.frames - ramp(count)).abs().max() < 0.03
    assert video.waveform is not None
    assert (video.waveform.shape, video.rate) == ((length,), rate)
    assert (video.waveform - wave).abs().mean() < 0.03  # in step: a shift by one AAC block would give 0.3
    assert video.fps == pytest.approx(fps, rel=1e-4)
    assert media.read_metadata(file) == META


def test_without_sound_and_odd_sides(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.mp4", ramp(4, 27, 31, 1), "video", fps=8)
    video = media.read_video(file)
    assert video.waveform is None
    assert video.frames.shape == (4, 3, 28, 32)
    with pytest.raises(DataError, match="soundtrack"):
        media.read(file, "audio")
    with pytest.raises(DataError, match="no polyscore metadata"):
        media.read_metadata(file)


def test_frames_at_another_rate_size_and_count(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.mp4", ramp(20), "video", fps=10, waveform=tone(16000, 8000), rate=8000)
    half = media.read(file, "video", shape=(10, 1, 16, 16), fps=5)
    assert half.shape == (10, 1, 16, 16)
    assert (half - ramp(20, 16, 16, 1)[::2]).abs().max() < 0.03
    double = media.read(file, "video", shape=(50, 1, 16, 16), fps=20)
    assert (double[:40] - ramp(20, 16, 16, 1).repeat_interleave(2, 0)).abs().max() < 0.03
    assert (double[40:] - double[39]).abs().max() == 0
    first = media.read(file, "video", shape=(3, 3, 32, 32))
    assert (first - ramp(20)[:3]).abs().max() < 0.03


def test_soundtrack_as_audio(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.mp4", ramp(10), "video", fps=10, waveform=tone(44100, 44100), rate=44100)
    wave = media.read(file, "audio", rate=8000, shape=(8000,))
    assert (wave - tone(8000, 8000))[200:-200].abs().mean() < 0.03
    video = media.read_video(file, rate=8000, length=5000)
    assert video.waveform is not None
    assert video.waveform.shape == (5000,)


def test_sound_is_cut_or_continued_to_the_picture(tmp_path: Path) -> None:
    for length in (3000, 20000):
        file = media.write(tmp_path / "x.mp4", ramp(10), "video", fps=10, waveform=tone(length, 8000), rate=8000)
        assert media.read(file, "audio").shape == (8000,)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        media.write(tmp_path / name, ramp(10), "video", META, fps=10, waveform=tone(8000, 8000), rate=8000)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_bad_videos_end_in_one_line(tmp_path: Path) -> None:
    good = media.write(tmp_path / "good.mp4", ramp(30), "video", fps=10, waveform=tone(24000, 8000), rate=8000).read_bytes()
    files = {
        "noise.mp4": (b"not a video", "readable video or sound"),
        "half.mp4": (good[: len(good) // 2], "readable video or sound"),
        "x.avi": (b"", "empty"),
    }
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words) as error:
            media.read(tmp_path / name, "video")
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="at most 1 s of video, found 3 s"):
        media.read(tmp_path / "good.mp4", "video", max_seconds=1)
    with pytest.raises(DataError, match="at most 1 s of sound"):
        media.read(tmp_path / "good.mp4", "audio", max_seconds=1)
    with pytest.raises(DataError, match="million values"):
        media.read(tmp_path / "good.mp4", "video", shape=(1000, 3, 1000, 1000))


def test_bad_values_write_nothing(tmp_path: Path) -> None:
    cases = [
        (torch.zeros(2, 2, 8, 8), {"fps": 5}, "found"),
        (torch.zeros(2, 3, 8, 8), {"fps": 0}, "positive fps"),
        (torch.full((2, 3, 8, 8), math.nan), {"fps": 5}, "NaN"),
        (torch.zeros(2, 3, 8, 8), {"fps": 5, "waveform": torch.zeros(100)}, "rate None"),
    ]
    for frames, options, message in cases:
        with pytest.raises(DataError, match=message):
            media.write(tmp_path / "x.mp4", frames, "video", **options)
    assert list(tmp_path.iterdir()) == []
