"""Sounds: mono waveforms (L,) at the modality's rate, values in [-1, 1]."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.media.checks import check_finite, check_suffix, existing, fit_length, save_bytes
from polyscore.media.metadata import STREAMED, add_riff_comment, pack, riff_chunks, riff_comment

__all__ = ["MAX_SECONDS", "READS", "WRITES", "audio_comment", "prepare_wave", "read_audio", "resample", "to_int16", "trim", "write_audio"]

READS = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"})
CONTAINERS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".m4a", ".aac", ".opus"})  # decoded by PyAV
WRITES = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"), ".mp3": ("MP3", "MPEG_LAYER_III")}
MAX_SECONDS = 600.0
SILENCE = 1e-3  # a peak below -60 dB of full scale
RATES = (1_000, 768_000)


def read_audio(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    rate: int | None = None,
    trim_silence: bool = False,
    max_seconds: float = MAX_SECONDS,
) -> Tensor:
    """Read a sound as a mono waveform at `rate` Hz (None: the file's own), channels averaged.

    `shape` is the modality's (L,) or (1, L): longer sounds are cropped at the end, shorter ones padded with silence; None keeps
    the length, as (L,). `trim_silence` first drops what is 40 dB below the peak at either end. Videos give their soundtrack.

    Raises:
        DataError: unreadable, truncated, empty, silent (peak below -60 dB), NaN or infinite samples, longer than `max_seconds`.
    """
    file = existing(path, "audio", READS | CONTAINERS)
    if file.suffix.lower() in CONTAINERS:
        from polyscore.media.video import read_soundtrack

        wave, own = read_soundtrack(file, max_seconds)
    else:
        wave, own = _decode(file, max_seconds)
    return prepare_wave(wave, own, file, shape=shape, rate=rate, trim_silence=trim_silence)


def prepare_wave(
    wave: Tensor, own: int, source: object, *, shape: Sequence[int] | None = None, rate: int | None = None, trim_silence: bool = False
) -> Tensor:
    """Check a decoded (L,) waveform of rate `own`, then trim, resample and fit it to the modality. See `read_audio`."""
    _check_wave(wave, source)
    wave = trim(wave) if trim_silence else wave
    wave = resample(wave, own, rate or own)
    if shape is None:
        return wave
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1) or shape[-1] < 1:
        raise DataError(f"{source}: expected an audio modality of shape (L,) or (1, L), found {tuple(shape)}")
    wave = fit_length(wave, int(shape[-1]))
    if float(wave.abs().max()) < SILENCE:
        raise DataError(f"{source}: expected a sound in the first {int(shape[-1]) / (rate or own):.3g} s, found silence there")
    return wave.reshape(tuple(shape))


def write_audio(path: str | os.PathLike[str], value: Tensor, *, rate: int, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write (L,) or (C, L), C = 1 or 2, clamped to [-1, 1], as 16-bit WAV or FLAC, or as OGG Vorbis or MP3."""
    import soundfile

    suffix = check_suffix(path, "audio", WRITES)
    samples = to_int16(value, path)
    text = None if metadata is None else pack(metadata, path)
    format_, subtype = WRITES[suffix]
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", rate, samples.shape[1], subtype=subtype, format=format_) as file:
            if text is not None and suffix != ".wav":
                file.comment = text
            for start in range(0, len(samples), 65536):  # libvorbis overflows its stack on one long write
                file.write(samples[start : start + 65536])
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected a sound that {suffix} can hold, found {error} (rate {rate} Hz)") from error
    data = buffer.getvalue()
    return save_bytes(path, data if text is None or suffix != ".wav" else add_riff_comment(data, text))


def audio_comment(path: str | os.PathLike[str]) -> str | None:
    """The metadata text of a WAV, FLAC, OGG or MP3 file, or None."""
    import soundfile

    if Path(path).suffix.lower() == ".wav":
        return riff_comment(path)
    try:
        with soundfile.SoundFile(path) as file:
            return str(file.comment)
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: expected a readable audio file, found {error}") from error


def to_int16(value: Tensor, source: object = "audio") -> Any:
    """(L, C) int16 samples of a (L,) or (C, L) waveform; clamped first, so that loud samples cannot wrap around."""
    value = check_finite(value.detach().cpu().float(), source, "samples")
    value = value[None] if value.ndim == 1 else value
    if value.ndim != 2 or value.shape[0] not in (1, 2) or value.shape[1] == 0:
        raise DataError(f"{source}: expected a waveform of shape (L,), (1, L) or (2, L), found {tuple(value.shape)}")
    return (value.clamp(-1, 1) * 32767).round().to(torch.int16).T.contiguous().numpy()


def resample(wave: Tensor, own: int, rate: int) -> Tensor:
    """A (L,) waveform of rate `own` at `rate` Hz (soxr, high quality)."""
    import soxr

    if rate < 1:
        raise DataError(f"rate: expected a sampling rate in Hz, found {rate}")
    return wave if own == rate else torch.from_numpy(soxr.resample(wave.numpy(), own, rate, quality="HQ"))


def trim(wave: Tensor, decibel: float = 40.0) -> Tensor:
    """Drop both ends of a (L,) waveform as far as they stay `decibel` below its peak."""
    loud = (wave.abs() > wave.abs().max() * 10 ** (-decibel / 20)).nonzero()[:, 0]
    return wave[int(loud[0]) : int(loud[-1]) + 1] if len(loud) else wave


def _decode(file: Path, max_seconds: float) -> tuple[Tensor, int]:
    import soundfile

    _check_riff(file)
    try:
        with soundfile.SoundFile(file) as sound, np.errstate(invalid="ignore", over="ignore"):  # NaN is reported below
            _check_header(sound.frames, sound.samplerate, file, max_seconds)
            most = int(max_seconds * sound.samplerate) + 1  # compressed files may hold more than their header says
            blocks = [block.mean(1) for block in sound.blocks(65536, frames=min(sound.frames, most), dtype="float32", always_2d=True)]
            frames, rate = sound.frames, sound.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(f"{file}: expected a readable audio file, found {error}") from error
    wave = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(wave) < frames and file.suffix.lower() != ".mp3":
        raise DataError(f"{file}: expected {frames} samples as its header says, found {len(wave)}: truncated")
    return torch.from_numpy(wave), int(rate)


def _check_riff(file: Path) -> None:
    """A WAV whose data chunk ends beyond the file is truncated (libsndfile would read the rest in silence)."""
    total = file.stat().st_size
    with file.open("rb") as stream:
        for name, start, size in riff_chunks(stream):
            if name == b"data" and size != STREAMED and start + size > total:
                raise DataError(f"{file}: expected {size} bytes of samples as its header says, found {max(0, total - start)}: truncated")


def _check_header(frames: int, rate: int, file: Path, max_seconds: float) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{file}: expected a sampling rate of {RATES[0]} to {RATES[1]} Hz, found {rate}")
    if frames <= 0:
        raise DataError(f"{file}: expected a sound, found no samples")
    if frames / rate > max_seconds:
        raise DataError(f"{file}: expected at most {max_seconds:g} s of sound, found {frames / rate:.0f} s")


def _check_wave(wave: Tensor, source: object) -> None:
    if wave.numel() == 0:
        raise DataError(f"{source}: expected a sound, found no samples")
    peak = float(check_finite(wave, source, "samples").abs().max())
    if peak < SILENCE:
        raise DataError(f"{source}: expected a sound, found silence (peak {peak:.2g} of full scale)")
