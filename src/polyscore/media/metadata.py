"""One JSON object inside every written file: {"polyscore": metadata}.

PNG: iTXt chunk "polyscore". JPEG and WebP: EXIF ImageDescription. WAV: LIST INFO chunk, field ICMT, after the samples
(libsndfile drops long comments, so the chunk is written here). FLAC, OGG, MP3: comment tag. MP4: comment tag. JSON: the key itself.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from polyscore.errors import DataError

__all__ = ["KEY", "add_riff_comment", "pack", "riff_chunks", "riff_comment", "unpack"]

KEY = "polyscore"
LIMIT = 500_000  # characters; Pillow refuses text chunks above 1 MiB
STREAMED = 0xFFFFFFFF  # chunk size of a WAV written to a pipe: "until the end"


def pack(metadata: Mapping[str, Any], target: object) -> str:
    """Metadata as one line of ASCII JSON. DataError if it is not JSON-able or longer than 500 000 characters."""
    try:
        text = json.dumps({KEY: dict(metadata)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{target}: expected metadata that JSON can hold, found {error}") from error
    if len(text) > LIMIT:
        raise DataError(f"{target}: expected metadata of at most {LIMIT} characters, found {len(text)}")
    return text


def unpack(text: str | None, source: object) -> dict[str, Any]:
    """The metadata in a text that `pack` wrote. DataError if the text is not one of ours."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get(KEY), dict):
        raise DataError(f"{source}: expected a file that polyscore wrote, found no polyscore metadata in it")
    found: dict[str, Any] = value[KEY]
    return found


def riff_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, size) of every chunk of a RIFF/WAVE file; nothing for other files. Sizes are the header's claim."""
    stream.seek(0)
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    position = 12
    while len(header := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        yield name, position + 8, size
        if size == STREAMED:
            return
        position += 8 + size + size % 2
        stream.seek(position)


def riff_comment(path: str | os.PathLike[str]) -> str | None:
    """The ICMT text of the last LIST INFO chunk of a WAV file, or None."""
    comment = None
    with Path(path).open("rb") as stream:
        for name, start, size in riff_chunks(stream):
            if name == b"LIST" and size < 2 * LIMIT:
                stream.seek(start)
                comment = _info_field(stream.read(size), b"ICMT") or comment
    return comment


def _info_field(body: bytes, field: bytes) -> str | None:
    position = 4 if body[:4] == b"INFO" else len(body)
    while position + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, position)
        if name == field:
            return body[position + 8 : position + 8 + size].rstrip(b"\0").decode("utf-8", "replace")
        position += 8 + size + size % 2
    return None


def add_riff_comment(wav: bytes, text: str) -> bytes:
    """A WAV file with a LIST INFO chunk (one ICMT field) appended, and its RIFF size corrected."""
    value = text.encode() + b"\0"
    value += b"\0" * (len(value) % 2)
    body = b"INFO" + struct.pack("<4sI", b"ICMT", len(value)) + value
    wav += b"\0" * (len(wav) % 2) + struct.pack("<4sI", b"LIST", len(body)) + body
    return wav[:4] + struct.pack("<I", len(wav) - 8) + wav[8:]
