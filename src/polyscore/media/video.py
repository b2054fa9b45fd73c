"""Videos: frames (F, C, H, W) in [0, 1] with or without a waveform (L,), through PyAV (no ffmpeg binary needed)."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError, PolyscoreError
from polyscore.media.audio import MAX_SECONDS, resample, to_int16
from polyscore.media.checks import check_finite, check_suffix, existing, first_line, fit_length, save_bytes
from polyscore.media.image import Fit, resize
from polyscore.media.metadata import pack

__all__ = ["READS", "WRITES", "Video", "read_frames", "read_seconds", "read_soundtrack", "read_video", "video_comment", "write_video"]

T = TypeVar("T")
READS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
WRITES = frozenset({".mp4"})
MAX_VALUES = 500_000_000  # decoded bytes held at once


@dataclass(frozen=True)
class Video:
    """frames (F, C, H, W) in [0, 1] at `fps` frames a second; waveform (L,) at `rate` Hz, or None when there is no sound."""

    frames: Tensor
    fps: float
    waveform: Tensor | None = None
    rate: int | None = None


def read_video(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    fps: float | None = None,
    rate: int | None = None,
    length: int | None = None,
    fit: Fit = "crop",
    max_seconds: float = MAX_SECONDS,
) -> Video:
    """Read frames and soundtrack.

    `shape` is the modality's (F, C, H, W): frames are taken at k / fps seconds (fps None: the file's own rate), resized with
    antialias, cut at F or continued with the last frame. `rate` and `length` do the same for the waveform (None: the file's own).

    Raises:
        DataError: unreadable, truncated, without a picture, longer than `max_seconds` or too large to hold.
    """
    frames, own_fps = read_frames(path, shape=shape, fps=fps, fit=fit, max_seconds=max_seconds)
    file = Path(path)
    sound = _guarded(file, lambda c: _read_sound(c, file, max_seconds) if c.streams.audio else None)
    if sound is None:
        return Video(frames, own_fps)
    wave, own = sound
    return Video(frames, own_fps, fit_length(resample(wave, own, rate or own), length), rate or own)


def read_frames(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    fps: float | None = None,
    fit: Fit = "crop",
    max_seconds: float = MAX_SECONDS,
) -> tuple[Tensor, float]:
    """The frames of `read_video` and their rate, without decoding the sound."""
    file = existing(path, "video", READS)
    if shape is not None and (len(shape) != 4 or shape[1] not in (1, 3) or math.prod(shape) <= 0):
        raise DataError(f"{file}: expected a video modality of shape (F, 1 or 3, H, W), found {tuple(shape)}")
    return _guarded(file, lambda c: _read_frames(c, file, shape, fps, fit, max_seconds))


def read_soundtrack(path: Path, max_seconds: float = MAX_SECONDS) -> tuple[Tensor, int]:
    """The mono soundtrack (L,) of a video or sound container, and its rate. DataError when it has none."""
    return _guarded(path, lambda container: _read_sound(container, path, max_seconds))


def read_seconds(path: str | os.PathLike[str]) -> float:
    """How long a video lasts, as its container says; 0 where it doesn't."""
    file = existing(path, "video", READS)
    return _guarded(file, lambda container: float(container.duration or 0) / 1e6)


def video_comment(path: str | os.PathLike[str]) -> str | None:
    """The comment tag of a video file, or None."""
    return _guarded(Path(path), lambda container: str(container.metadata.get("comment", "")))


def write_video(
    path: str | os.PathLike[str],
    frames: Tensor,
    *,
    fps: float,
    waveform: Tensor | None = None,
    rate: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write (F, 1 or 3, H, W) in [0, 1] as H.264, with a (L,) waveform as AAC, in MP4.

    The sound is cut or continued with silence to F / fps seconds. H.264 needs even sides: an odd one gets its last row or
    column twice.
    """
    check_suffix(path, "video", WRITES)
    pixels = _pixels(frames, path)
    text = None if metadata is None else pack(metadata, path)
    speed = Fraction(fps).limit_denominator(1001)
    if speed <= 0 or (waveform is not None and not rate):
        raise DataError(f"{path}: expected positive fps, and a rate for the waveform, found fps {fps} and rate {rate}")
    samples = (
        None if waveform is None else fit_length(torch.from_numpy(to_int16(waveform, path)).T, round(len(pixels) / speed * (rate or 0)))
    )
    return save_bytes(path, _encode(pixels, speed, None if samples is None else samples.numpy(), rate or 1000, text, path))


def _encode(pixels: Any, fps: Fraction, samples: Any, rate: int, text: str | None, target: object) -> bytes:
    import av

    buffer = io.BytesIO()
    options = {"movie_timescale": str(max(rate, 1000)), "fflags": "+bitexact"}
    try:
        with av.open(buffer, "w", format="mp4", options=options) as container:
            if text is not None:
                container.metadata["comment"] = text
            picture: Any = container.add_stream("libx264", rate=fps, options={"crf": "12", "threads": "1"})
            picture.height, picture.width, picture.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
            sound: Any = (
                None if samples is None else container.add_stream("aac", rate=rate, layout="mono" if len(samples) == 1 else "stereo")
            )
            for packets in (_video_packets(picture, pixels, fps), _audio_packets(sound, samples, rate)):
                for packet in packets:
                    container.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        raise PolyscoreError(f"{target}: the video cannot be encoded ({error})") from error
    return buffer.getvalue()


def _video_packets(stream: Any, pixels: Any, fps: Fraction) -> Iterator[Any]:
    import av

    for index, image in enumerate(pixels):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, 1 / fps
        yield stream.encode(frame)
    yield stream.encode(None)


def _audio_packets(stream: Any, samples: Any, rate: int) -> Iterator[Any]:
    import av

    if samples is None:
        return
    values = np.ascontiguousarray(samples.astype(np.float32) / 32767)
    frame = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono" if len(values) == 1 else "stereo")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    yield stream.encode(frame)
    yield stream.encode(None)


def _pixels(frames: Tensor, target: object) -> Any:
    """(F, H, W, 3) uint8 with even sides."""
    frames = check_finite(frames.detach().cpu().float(), target, "pixels")
    if frames.ndim != 4 or frames.shape[1] not in (1, 3) or 0 in frames.shape:
        raise DataError(f"{target}: expected a video of shape (F, 1 or 3, H, W), found {tuple(frames.shape)}")
    height, width = frames.shape[2:]
    frames = torch.nn.functional.pad(frames.expand(-1, 3, -1, -1), (0, width % 2, 0, height % 2), mode="replicate")
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _read_frames(
    container: Any, file: Path, shape: Sequence[int] | None, fps: float | None, fit: Fit, max_seconds: float
) -> tuple[Tensor, float]:
    if not container.streams.video:
        raise DataError(f"{file}: expected a video, found no picture in it")
    stream = container.streams.video[0]
    speed = float(fps or stream.average_rate or 25)
    count = int(shape[0]) if shape is not None else None
    size = (int(shape[2]), int(shape[3])) if shape is not None else (stream.height, stream.width)
    grey = shape is not None and shape[1] == 1
    _check_size(container, file, speed, size, count, max_seconds)
    most = min(count or int(max_seconds * speed) + 1, max(1, MAX_VALUES // math.prod(size)))
    images = list(_at_times(container.decode(stream), speed, most, lambda frame: _convert(frame, size, fit, grey)))
    if not images:
        raise DataError(f"{file}: expected a video, found no frames")
    images += [images[-1]] * ((count or 0) - len(images))
    values = torch.from_numpy(np.stack(images)).float() / 255
    return values.permute(0, 3, 1, 2).contiguous(), speed


def _at_times(frames: Iterator[Any], fps: float, most: int, convert: Callable[[Any], Any]) -> Iterator[Any]:
    """The frame on show at each k / fps, k < most, until the video ends; counted from the first frame."""
    shown: Any = None
    made, start, last, step = 0, 0.0, 0.0, 1 / fps
    image = None
    for frame in frames:
        at = float(frame.time) if frame.time is not None else last + step
        start = at if shown is None else start
        while shown is not None and made / fps < at - start - 1e-4 and made < most:
            image = convert(shown) if image is None else image
            yield image
            made += 1
        if made >= most:
            return
        step, last, shown, image = at - last if shown is not None else step, at, frame, None
    while shown is not None and made / fps < last - start + step - 1e-4 and made < most:
        image = convert(shown) if image is None else image
        yield image
        made += 1


def _convert(frame: Any, size: tuple[int, int], fit: Fit, grey: bool) -> Any:
    picture = resize(frame.to_image(), size, fit)
    return np.asarray(picture.convert("L"))[..., None] if grey else np.asarray(picture)


def _check_size(container: Any, file: Path, fps: float, size: tuple[int, int], count: int | None, max_seconds: float) -> None:
    seconds = (container.duration or 0) / 1e6
    if seconds > max_seconds:
        raise DataError(f"{file}: expected at most {max_seconds:g} s of video, found {seconds:.0f} s")
    values = (count or seconds * fps) * math.prod(size) * 3
    if values > MAX_VALUES:
        raise DataError(f"{file}: expected a video of at most {MAX_VALUES / 1e6:g} million values, found {values / 1e6:.0f} (give a shape)")


def _read_sound(container: Any, file: Path, max_seconds: float) -> tuple[Tensor, int]:
    import av

    if not container.streams.audio:
        raise DataError(f"{file}: expected a soundtrack, found none")
    stream = container.streams.audio[0]
    seconds = (container.duration or 0) / 1e6
    if seconds > max_seconds:
        raise DataError(f"{file}: expected at most {max_seconds:g} s of sound, found {seconds:.0f} s")
    mixer = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
    parts: list[Any] = []
    for frame in container.decode(stream):
        parts.extend(part.to_ndarray()[0] for part in mixer.resample(frame))
        if len(parts) % 64 == 0 and sum(map(len, parts)) > max_seconds * stream.rate:
            raise DataError(f"{file}: expected at most {max_seconds:g} s of sound, found more than its header says")
    parts.extend(part.to_ndarray()[0] for part in mixer.resample(None))
    wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if stream.duration:  # AAC comes in blocks of 1024 samples; the container knows where the sound ends
        wave = wave[: round(stream.duration * stream.time_base * stream.rate)]
    return torch.from_numpy(wave), int(stream.rate)


def _guarded(path: Path, use: Callable[[Any], T]) -> T:
    """Open a container, use it, and turn whatever the decoder says into one line."""
    import av

    try:
        with av.open(str(path)) as container:
            return use(container)
    except PolyscoreError:
        raise
    except Exception as error:  # decoders of hostile bytes raise anything
        raise DataError(f"{path}: expected a readable video or sound, found {first_line(error)}") from error
