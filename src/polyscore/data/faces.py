"""Faces with masks and attributes, in the layout of CelebAMask-HQ or as the packed thousand in $POLYSCORE_DATA/faces.

Pictures are (N, 3, S, S) float32 in [0, 1]; masks (N, 1, S, S) float32, 1 on the parts of the face and 0 on background and skin;
attributes (N, K) float32 of 0 and 1.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from polyscore.data.digits import data_folder
from polyscore.errors import DataError

__all__ = ["ATTRIBUTES", "PACKED", "PARTS", "Faces", "load_celebamask", "load_face_parts", "load_faces"]

ATTRIBUTES = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses", "Gray_Hair", "Heavy_Makeup",
    "Male", "Mouth_Slightly_Open", "Mustache", "Pale_Skin", "Receding_Hairline", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Hat",
)  # fmt: skip
"""The 18 of CelebA's 40 attributes that the Score-Based Multimodal Autoencoder keeps."""
PACKED = ("eyeglasses", "hat", "earrings", "necklace", "mouth_open", "long_hair", "black", "brown", "blond", "gray")
"""Attributes of the packed thousand; the last four are the hair's colour, one of them or none."""
PARTS = ("other", "skin", "hair")
"""What `load_face_parts` tells apart; skin has holes where eyes, brows, nose and mouth are."""
_PART_OF_LABEL = {1: 1, 13: 2}
FOLDERS = ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMask-HQ-attribute-anno.txt")


@dataclass(frozen=True)
class Faces:
    """Pictures, masks and attributes whose rows belong together, and the attributes' names."""

    images: Tensor
    masks: Tensor
    attributes: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def modalities(self) -> dict[str, Tensor]:
        """{"image", "mask", "attributes"}: batches for training."""
        return {"image": self.images, "mask": self.masks, "attributes": self.attributes}


def load_faces(split: str = "train", size: int = 64, folder: str | os.PathLike[str] | None = None, limit: int | None = None) -> Faces:
    """The packed thousand faces: items 0 to 799 are train, the rest test.

    Raises:
        DataError: no folder, missing or damaged files, or an unknown split.
    """
    images, labels, attributes = _read_packed(split, size, folder, limit)
    small = [functional.interpolate((label > 1).float()[None, None], size=(size, size), mode="area")[0] for label in labels]
    return Faces(images, (torch.stack(small) >= 0.5).float(), attributes, PACKED)


def load_face_parts(
    split: str = "train", size: int = 32, folder: str | os.PathLike[str] | None = None, limit: int | None = None
) -> tuple[Faces, Tensor]:
    """The packed thousand faces, with masks of (skin, hair), (N, 2, S, S), and the label map of `PARTS`, (N, S, S).

    Raises:
        DataError: as `load_faces`.
    """
    images, labels, attributes = _read_packed(split, size, folder, limit)
    shares = []
    for label in labels:
        kinds = torch.zeros_like(label)
        for number, part in _PART_OF_LABEL.items():
            kinds[label == number] = part
        one = functional.one_hot(kinds, len(PARTS)).permute(2, 0, 1).float()
        shares.append(functional.interpolate(one[None], size=(size, size), mode="area")[0])
    parts = torch.stack(shares).argmax(1)
    masks = torch.stack([(parts == part).float() for part in (1, 2)], 1)
    return Faces(images, masks, attributes, PACKED), parts


def _read_packed(split: str, size: int, folder: str | os.PathLike[str] | None, limit: int | None) -> tuple[Tensor, list[Tensor], Tensor]:
    """Pictures (N, 3, S, S), the 19-class label maps at full size, and the attributes `PACKED`."""
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: expected train or test")
    place = data_folder(folder) / "faces"
    index, archive = place / "celebamask_1000.json", place / "celebamask_1000_128.tar"
    try:
        items: list[dict[str, Any]] = json.loads(index.read_text(encoding="utf-8"))["items"]
        rows = range(min(800, len(items))) if split == "train" else range(min(800, len(items)), len(items))
        chosen = [items[i] for i in rows][:limit]
        with tarfile.open(archive) as packed:
            members = {member.name: member for member in packed}
            pairs = [_packed(packed, members, f"{int(item.get('id', i)):04d}", size) for i, item in zip(rows, chosen, strict=False)]
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{place}: expected celebamask_1000.json and celebamask_1000_128.tar ({error})") from error
    attributes = [[float(item.get("hair_color") == n) if n in PACKED[-4:] else float(bool(item[n])) for n in PACKED] for item in chosen]
    return torch.stack([i for i, _ in pairs]), [label for _, label in pairs], torch.tensor(attributes)


def load_celebamask(
    folder: str | os.PathLike[str], size: int = 128, rows: Sequence[int] | None = None, attributes: Sequence[str] = ATTRIBUTES
) -> Faces:
    """CelebAMask-HQ as it is distributed: CelebA-HQ-img/N.jpg, CelebAMask-HQ-mask-anno/*/NNNNN_PART.png and the attribute table.

    The mask is the union of all parts but the skin.

    Args:
        rows: numbers of the pictures; by default all.

    Raises:
        DataError: another layout, a missing picture, or an unknown attribute.
    """
    root = Path(folder)
    missing = [name for name in FOLDERS if not (root / name).exists()]
    if missing:
        raise DataError(f"{root}: expected {', '.join(FOLDERS)}, found no {missing[0]}")
    names, table = _table(root / FOLDERS[2])
    unknown = [name for name in attributes if name not in names]
    if unknown:
        raise DataError(f"{root / FOLDERS[2]}: no attribute {unknown[0]!r}")
    parts: dict[int, list[Path]] = {}
    for file in sorted((root / FOLDERS[1]).glob("*/*.png")):
        digits, _, part = file.stem.partition("_")
        if part != "skin" and digits.isdigit():
            parts.setdefault(int(digits), []).append(file)
    chosen = sorted(table) if rows is None else list(rows)
    images, masks, vectors = [], [], []
    for number in chosen:
        if number not in table:
            raise DataError(f"{root / FOLDERS[2]}: no row for picture {number}")
        images.append(_picture((root / FOLDERS[0] / f"{number}.jpg").open, size))
        union = [_grey(part, size) for part in parts.get(number, [])]
        masks.append(torch.stack(union).amax(0) if union else torch.zeros(1, size, size))
        vectors.append([float(table[number][names.index(name)] > 0) for name in attributes])
    return Faces(torch.stack(images), torch.stack(masks), torch.tensor(vectors), tuple(attributes))


def _table(path: Path) -> tuple[list[str], dict[int, list[int]]]:
    """Names and {picture number: values of +1 and -1}."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        names = lines[1].split()
        cells = [line.split() for line in lines[2:] if line.strip()]
        table = {int(row[0].partition(".")[0]): [int(v) for v in row[1:]] for row in cells}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: expected a count, a line of names and lines of +1 and -1 ({error})") from error
    if any(len(values) != len(names) for values in table.values()):
        raise DataError(f"{path}: expected {len(names)} values a line")
    return names, table


def _packed(archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str, size: int) -> tuple[Tensor, Tensor]:
    def opener(suffix: str) -> Any:
        member = archive.extractfile(members[f"{name}.{suffix}"])
        if member is None:
            raise KeyError(f"{name}.{suffix}")
        return io.BytesIO(member.read())

    label = torch.from_numpy(np.asarray(_open(opener("png"))).astype(np.int64))
    return _picture(lambda _mode: opener("jpg"), size), label


def _open(source: Any) -> Any:
    from PIL import Image

    return Image.open(source)


def _picture(opener: Any, size: int) -> Tensor:
    try:
        with opener("rb") as stream:
            image = _open(stream).convert("RGB").resize((size, size))
            return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    except OSError as error:
        raise DataError(f"{error.filename or 'a face'}: expected a picture ({error.strerror or error})") from error


def _grey(path: Path, size: int) -> Tensor:
    image = _open(path).convert("L").resize((size, size))
    return (torch.from_numpy(np.asarray(image).copy())[None] > 127).float()
