"""Clips cut into pieces of a model's own length: frames at its rate and size, its sample rate, all from the same instant; and captions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from polyscore.data.folder import read_rows
from polyscore.errors import DataError
from polyscore.media.audio import resample
from polyscore.media.video import READS, read_frames, read_seconds, read_soundtrack

__all__ = ["CAPTIONS", "CLIPS", "clip_files", "clips_of", "read_captions", "seconds_of"]

CLIPS = tuple(sorted(READS))
CAPTIONS = ("captions.json", "captions.jsonl", "captions.csv", "captions.txt")
"""Tables of captions that may lie beside the clips."""


def clip_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The video files in a folder and its subfolders, by name.

    Raises:
        DataError: no such folder, or no video in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: expected a folder of clips ({', '.join(CLIPS)}), found none")
    found = sorted(f for f in root.rglob("*") if f.suffix.lower() in READS)
    if not found:
        raise DataError(f"{folder}: expected clips ({', '.join(CLIPS)}), found none")
    return found


def seconds_of(shapes: Mapping[str, Sequence[int]], media: Mapping[str, Mapping[str, Any]]) -> float:
    """How long a piece is: as the longest video, without one as the shortest sound.

    Raises:
        DataError: pictures only, which have no length.
    """
    videos = [shapes[name][0] / float(m["fps"]) for name, m in media.items() if m["kind"] == "video"]
    sounds = [shapes[name][0] / int(m["rate"]) for name, m in media.items() if m["kind"] == "audio"]
    if not videos and not sounds:
        raise DataError(f"clips: expected a video or a sound among {sorted(media)}, found pictures only, which have no length")
    return max(videos) if videos else min(sounds)


def clips_of(
    file: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]], media: Mapping[str, Mapping[str, Any]], most: int = 8
) -> list[dict[str, Tensor]]:
    """Pieces of one clip, {modality: data}, one after the other without overlap; at least one.

    By the kind in `media`: "video" (F, C, H, W) and "audio" (L,) from the start of the piece, "image" (C, H, W) from its middle.
    A clip shorter than a piece is continued with its last frame and silence; what is left after the last whole piece is dropped.

    Raises:
        DataError: unreadable, without a picture, or without a sound where one is needed.
    """
    seconds, kinds = seconds_of(shapes, media), {name: str(m["kind"]) for name, m in media.items()}
    track = read_soundtrack(Path(file)) if "audio" in kinds.values() else None
    length = read_seconds(file) if track is None else len(track[0]) / track[1]
    pieces = max(1, min(most, int(length / seconds + 1e-6)))
    found: list[dict[str, Tensor]] = [{} for _ in range(pieces)]
    for name, kind in kinds.items():
        shape = shapes[name]
        if kind == "audio" and track is not None:
            rate, count = int(media[name]["rate"]), int(shape[0])
            whole, starts = resample(*track, rate), [round(k * seconds * rate) for k in range(pieces)]
            parts = [functional.pad(part := whole[s : s + count], (0, count - len(part))) for s in starts]
        elif kind == "video":
            fps, count = float(media[name]["fps"]), int(shape[0])
            starts = [round(k * seconds * fps) for k in range(pieces)]
            frames, _ = read_frames(file, shape=(starts[-1] + count, *shape[1:]), fps=fps)
            parts = [frames[s : s + count] for s in starts]
        else:
            parts = list(read_frames(file, shape=(2 * pieces, *shape), fps=2 / seconds)[0][1::2])
        for piece, part in zip(found, parts, strict=True):
            piece[name] = part
    return found


def read_captions(
    folder: str | os.PathLike[str], names: Sequence[str], modalities: Sequence[str], table: str | os.PathLike[str] | None = None
) -> dict[str, list[str]] | None:
    """Captions {modality: one a clip} of clips by their names, from a table; None where the folder has no table.

    captions.json {"dog.mp4": text, or {modality: text}}; captions.jsonl and captions.csv with a column name and either caption or one a
    modality; captions.txt with lines of name, tabulator, caption. A name is the clip's path in the folder, with or without its suffix.

    Raises:
        DataError: an unreadable table, or a clip without a caption for a modality.
    """
    lying = [Path(folder) / name for name in CAPTIONS if (Path(folder) / name).is_file()]
    if table is None and not lying:
        return None
    file = Path(table) if table is not None else lying[0]
    known = _captions(file)
    found: dict[str, list[str]] = {name: [] for name in modalities}
    for clip in names:
        own = known.get(clip, known.get(Path(clip).with_suffix("").as_posix()))
        for modality, texts in found.items():
            text = own.get(modality, own.get("caption")) if own is not None else None
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{file}: expected a caption of the clip {clip!r} for {modality!r}, found {text!r}")
            texts.append(text.strip())
    return found


def _captions(file: Path) -> dict[str, Mapping[str, Any]]:
    """{name: {"caption" or modality: text}}."""
    kind = file.suffix.lower()
    if kind not in (".json", ".jsonl", ".csv", ".txt") or not file.is_file():
        raise DataError(
            f"{file}: expected a table of captions (.json, .jsonl, .csv, .txt), found {'another' if file.exists() else 'no'} file"
        )
    if kind == ".json":
        table = _json(file)
        return {name: value if isinstance(value, Mapping) else {"caption": value} for name, value in table.items()}
    if kind == ".txt":
        lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if any(len(line) != 2 for line in lines):
            raise DataError(f"{file}: expected lines of a clip's name, a tabulator and its caption, found one without a tabulator")
        return {name.strip(): {"caption": text} for name, text in lines}
    rows = read_rows(file)
    if any("name" not in row for row in rows):
        raise DataError(f"{file}: expected a column name, and a column caption or one for each modality")
    return {str(row["name"]): row for row in rows}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected JSON, found {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file}: expected an object of captions by clip, found {type(found).__name__}")
    return found
