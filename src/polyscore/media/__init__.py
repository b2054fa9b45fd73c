"""Ordinary files as modality tensors, and back, with seed and configuration inside every written file."""

from __future__ import annotations

from polyscore.media.api import KINDS, read, read_metadata, write
from polyscore.media.audio import read_audio, write_audio
from polyscore.media.image import as_digit, read_image, write_image
from polyscore.media.values import read_values, write_values
from polyscore.media.video import Video, read_video, write_video

__all__ = [
    "KINDS",
    "Video",
    "as_digit",
    "read",
    "read_audio",
    "read_image",
    "read_metadata",
    "read_values",
    "read_video",
    "write",
    "write_audio",
    "write_image",
    "write_values",
    "write_video",
]
