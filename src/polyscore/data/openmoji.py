"""OpenMoji: every emoji as a colour picture, a line drawing and a vector of tags. CC BY-SA 4.0, https://openmoji.org.

Reads an unpacked copy, such as the npm package `openmoji` or the project's repository:

    data/openmoji.json        hexcode, annotation, tags, group, subgroups, skintone
    color/72x72/1F600.png     or color/svg/1F600.svg
    black/72x72/1F600.png     or black/svg/1F600.svg

SVG files need `pip install resvg-py`.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.data.rows import Rows, at_least, write_rows
from polyscore.errors import DataError

__all__ = ["OpenMoji", "load_openmoji", "write_openmoji"]


@dataclass(frozen=True)
class OpenMoji(Rows):
    """Rows that belong together: image (N, 3, S, S) and drawing (N, 1, S, S) in [0, 1] on white, tags (N, K) of 0 and 1, labels (N,).

    `names` are the hexcodes, `words` the tags of the vector's entries, `groups` what the labels number.
    """

    image: Tensor
    drawing: Tensor
    tags: Tensor
    labels: Tensor
    names: tuple[str, ...]
    words: tuple[str, ...]
    groups: tuple[str, ...]
    present: Mapping[str, Tensor] = field(default_factory=dict)

    columns = ("image", "drawing", "tags")


def load_openmoji(
    folder: str | os.PathLike[str], size: int = 32, words: int = 100, limit: int | None = None, partial: bool = False
) -> OpenMoji:
    """All emoji without skin tones that have both pictures, sorted by hexcode.

    Args:
        folder: an unpacked copy. size: side of the pictures. words: so many of the most frequent tags make the vector.
        limit: the first ones only. partial: also those that lack one of the two pictures, which `masks` tells.

    Raises:
        DataError: no such folder, a damaged table or picture, SVG files without resvg-py, or numbers too small.
    """
    at_least(2, size=size)
    at_least(1, words=words, limit=limit)
    place, enough = Path(folder), any if partial else all
    table = _table(place / "data" / "openmoji.json")
    looks = {str(item["hexcode"]): [_file(place, look, item["hexcode"]) for look in LOOKS] for item in table}
    items = [item for item in table if enough(looks[item["hexcode"]])][:limit]
    if not items:
        raise DataError(f"{place}: expected color/72x72/HEX.png or color/svg/HEX.svg, and black/ like it, found none of the table's emoji")
    files = list(zip(*(looks[item["hexcode"]] for item in items), strict=True))
    colour, black = (torch.stack([torch.zeros(3, size, size) if f is None else _picture(f, size) for f in look]) for look in files)
    seen = (torch.tensor([f is not None for f in look]) for look in files)
    counts = Counter(tag for item in items for tag in item["tags"])
    common = tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:words])
    groups = tuple(sorted({item["group"] for item in items}))
    tags = torch.tensor([[float(word in item["tags"]) for word in common] for item in items])
    labels = torch.tensor([groups.index(item["group"]) for item in items])
    names, present = tuple(item["hexcode"] for item in items), dict(zip(("image", "drawing"), seen, strict=True))
    return OpenMoji(colour, black.mean(1, keepdim=True), tags, labels, names, common, groups, present)


def write_openmoji(data: OpenMoji, out: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> int:
    """Write OUT/image/HEX.png, OUT/drawing/HEX.png, OUT/tags/HEX.json and OUT/labels.csv, as `polyscore data prepare` reads them."""
    kinds = {"image": {"kind": "image"}, "drawing": {"kind": "image"}, "tags": {"kind": "vector"}}
    rows = zip(data.names, data.each(), [data.groups[int(label)] for label in data.labels], strict=True)
    return write_rows(out, kinds, rows, len(data), progress)


LOOKS = ("color", "black")


def _table(file: Path) -> Sequence[Mapping[str, Any]]:
    """The emoji of the table without a skin tone, each with hexcode, group and a list of tags."""
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        plain = [row for row in rows if not row.get("skintone")]
        found = [
            {
                "hexcode": str(row["hexcode"]),
                "group": str(row["group"]),
                "tags": [tag.strip() for tag in str(row["tags"]).split(",") if tag.strip()],
            }
            for row in plain
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: expected OpenMoji's table with hexcode, group and tags ({error})") from error
    return sorted(found, key=lambda row: str(row["hexcode"]))


def _file(place: Path, look: str, code: str) -> Path | None:
    files = (place / look / "72x72" / f"{code}.png", place / look / "svg" / f"{code}.svg")
    return next((file for file in files if file.is_file()), None)


def _picture(file: Path, size: int) -> Tensor:
    """(3, size, size) in [0, 1] on white."""
    from PIL import Image

    try:
        source = io.BytesIO(_rasterised(file, 4 * size)) if file.suffix == ".svg" else file
        with Image.open(source) as opened:
            picture = opened.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        rgb = Image.alpha_composite(white, picture).convert("RGB").resize((size, size), Image.Resampling.BOX)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a picture ({error})") from error
    return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).reshape(size, size, 3).permute(2, 0, 1).float() / 255


def _rasterised(file: Path, size: int) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise DataError(f"{file}: reading SVG files needs resvg-py; install it with: pip install resvg-py") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=file.read_text(encoding="utf-8"), width=size, height=size))
