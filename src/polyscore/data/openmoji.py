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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.files import atomic, write_text

__all__ = ["OpenMoji", "load_openmoji", "write_openmoji"]


@dataclass(frozen=True)
class OpenMoji:
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

    def __len__(self) -> int:
        return len(self.labels)

    def modalities(self) -> dict[str, Tensor]:
        """{"image", "drawing", "tags"}: batches for training."""
        return {"image": self.image, "drawing": self.drawing, "tags": self.tags}


def load_openmoji(folder: str | os.PathLike[str], size: int = 32, words: int = 100, limit: int | None = None) -> OpenMoji:
    """All emoji without skin tones that have both pictures, sorted by hexcode.

    Args:
        folder: an unpacked copy. size: side of the pictures. words: so many of the most frequent tags make the vector.
        limit: the first ones only.

    Raises:
        DataError: no such folder, a damaged table or picture, or SVG files without resvg-py.
    """
    place = Path(folder)
    items = [item for item in _table(place / "data" / "openmoji.json") if all(_file(place, look, item["hexcode"]) for look in LOOKS)][
        :limit
    ]
    if not items:
        raise DataError(f"{place}: expected color/72x72/HEX.png or color/svg/HEX.svg, and black/ like it, found none of the table's emoji")
    colour, black = (torch.stack([_picture(_file(place, look, item["hexcode"]), size) for item in items]) for look in LOOKS)
    counts = Counter(tag for item in items for tag in item["tags"])
    common = tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:words])
    groups = tuple(sorted({item["group"] for item in items}))
    tags = torch.tensor([[float(word in item["tags"]) for word in common] for item in items])
    labels = torch.tensor([groups.index(item["group"]) for item in items])
    return OpenMoji(colour, black.mean(1, keepdim=True), tags, labels, tuple(item["hexcode"] for item in items), common, groups)


def write_openmoji(data: OpenMoji, out: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> int:
    """Write OUT/image/HEX.png, OUT/drawing/HEX.png, OUT/tags/HEX.json and OUT/labels.csv, as `polyscore data prepare` reads them."""
    from PIL import Image

    folder = Path(out)
    for row, name in enumerate(data.names):
        for kind, x in (("image", data.image[row]), ("drawing", data.drawing[row].expand(3, -1, -1))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            pixels = (x * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            with atomic(folder / kind / f"{name}.png") as temporary:
                Image.fromarray(pixels).convert("RGB" if kind == "image" else "L").save(temporary, "PNG")
        write_text(folder / "tags" / f"{name}.json", json.dumps(data.tags[row].tolist()) + "\n")
        if progress is not None:
            progress(row + 1, len(data))
    rows = [f"{name},{data.groups[int(label)]}" for name, label in zip(data.names, data.labels, strict=True)]
    write_text(folder / "labels.csv", "\n".join(["name,label", *rows]) + "\n")
    return len(data)


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


def _picture(file: Path | None, size: int) -> Tensor:
    """(3, size, size) in [0, 1] on white."""
    from PIL import Image

    assert file is not None
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
