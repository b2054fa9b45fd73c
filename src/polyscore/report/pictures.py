"""Tensors as data URLs: pictures, spectrograms and sounds that live inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from torch import Tensor

from polyscore.codecs.mel import LogMel
from polyscore.media.audio import to_int16
from polyscore.media.image import to_picture

__all__ = ["picture_url", "sound_url", "spectrogram", "spectrogram_url"]

# Colours of a spectrogram from silence to its loudest, and of ink on a digit's tile.
HEAT = ((20, 18, 30), (58, 33, 92), (129, 46, 112), (212, 72, 84), (247, 143, 79), (253, 231, 170))
INK = ((20, 18, 30), (243, 239, 230))
RANGE = 5.0  # natural logarithm: 43 dB


def picture_url(image: Tensor) -> str:
    """A (1 or 3, H, W) picture in [0, 1] as a PNG; grey ones are drawn in the page's ink on its dark tile."""
    if image.shape[0] == 3:
        return _png(np.asarray(to_picture(image)))
    return _png(_coloured(image[0].detach().cpu().clamp(0, 1).numpy(), INK))


def spectrogram(wave: Tensor, rate: int, bands: int = 64) -> Tensor:
    """Log-mel levels of (L,) in [0, 1], (bands, frames); 1 is the loudest of this sound, 0 is 43 dB below it."""
    window = max(64, rate * 48 // 1000)
    mel = LogMel(samples=len(wave), rate=rate, n_fft=window, hop=max(16, rate // 80), n_mels=bands, floor=1e-4, mean=0.0, std=1.0)
    levels = mel.encode(wave.detach().cpu().float()[None])[0]
    return ((levels - levels.max()) / RANGE + 1).clamp(0, 1)


def spectrogram_url(wave: Tensor, rate: int) -> str:
    """The spectrogram of (L,) as a PNG, low frequencies at the bottom."""
    return _png(_coloured(spectrogram(wave, rate).flip(0).numpy(), HEAT))


def sound_url(wave: Tensor, rate: int) -> str:
    """A (L,) waveform as a 16-bit WAV."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(wave), rate, subtype="PCM_16", format="WAV")
    return _url("audio/wav", buffer.getvalue())


def _coloured(values: np.ndarray, stops: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Values (H, W) in [0, 1] as 8-bit RGB, linear between the stops."""
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(values, places, [stop[c] for stop in stops]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return _url("image/png", buffer.getvalue())


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
