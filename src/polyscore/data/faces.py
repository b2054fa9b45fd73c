"""Faces with masks and attributes, in the layout of CelebAMask-HQ or as the packed thousand in $POLYSCORE_DATA/faces.

image (N, 3, S, S) float32 in [0, 1]; mask (N, 1, S, S) float32, 1 on the parts of the face and 0 on background and skin;
attributes (N, K) float32 of 0 and 1.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from polyscore.data.digits import data_folder
from polyscore.data.rows import Rows, at_least, write_rows
from polyscore.errors import DataError

__all__ = ["ATTRIBUTES", "PACKED", "PARTS", "CelebAMask", "Faces", "load_celebamask", "load_face_parts", "load_faces", "write_faces"]

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
ORIGINS = "CelebA-HQ-to-CelebA-mapping.txt"
CELEBA = {"train": range(1, 162_771), "val": range(162_771, 182_638), "test": range(182_638, 202_600)}
"""CelebA's own partition of its pictures 000001.jpg to 202599.jpg."""
BLOCK = 32


@dataclass(frozen=True)
class Faces(Rows):
    """Pictures, masks and attributes whose rows belong together, the attributes' names, and the pictures' numbers where they are known."""

    image: Tensor
    mask: Tensor
    attributes: Tensor
    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    present: Mapping[str, Tensor] = field(default_factory=dict)

    columns = ("image", "mask", "attributes")
    labels = None


def load_faces(
    split: str | None = "train", size: int = 64, folder: str | os.PathLike[str] | None = None, limit: int | None = None
) -> Faces:
    """The packed thousand faces: items 0 to 799 are train, the rest test; None for all.

    Raises:
        DataError: no folder, missing or damaged files, an unknown split, or numbers too small.
    """
    images, labels, attributes, numbers = _read_packed(split, size, folder, limit)
    small = [functional.interpolate((label > 1).float()[None, None], size=(size, size), mode="area")[0] for label in labels]
    return Faces(images, (torch.stack(small) >= 0.5).float(), attributes, PACKED, numbers)


def write_faces(parts: Iterable[Faces], out: str | os.PathLike[str], total: int, progress: Callable[[int, int], None] | None = None) -> int:
    """Write OUT/image/NNNNN.png, OUT/mask/NNNNN.png and OUT/attributes/NNNNN.json by the pictures' numbers, as `prepare` reads them."""
    kinds = {"image": {"kind": "image"}, "mask": {"kind": "image"}, "attributes": {"kind": "vector"}}
    pairs = (pair for faces in parts for pair in zip(faces.numbers, faces.each(), strict=True))
    return write_rows(out, kinds, ((f"{number:05d}", values, None) for number, values in pairs), total, progress)


def load_face_parts(
    split: str = "train", size: int = 32, folder: str | os.PathLike[str] | None = None, limit: int | None = None
) -> tuple[Faces, Tensor]:
    """The packed thousand faces, with masks of (skin, hair), (N, 2, S, S), and the label map of `PARTS`, (N, S, S).

    Raises:
        DataError: as `load_faces`.
    """
    images, labels, attributes, numbers = _read_packed(split, size, folder, limit)
    shares = []
    for label in labels:
        kinds = torch.zeros_like(label)
        for number, part in _PART_OF_LABEL.items():
            kinds[label == number] = part
        one = functional.one_hot(kinds, len(PARTS)).permute(2, 0, 1).float()
        shares.append(functional.interpolate(one[None], size=(size, size), mode="area")[0])
    parts = torch.stack(shares).argmax(1)
    masks = torch.stack([(parts == part).float() for part in (1, 2)], 1)
    return Faces(images, masks, attributes, PACKED, numbers), parts


def _read_packed(
    split: str | None, size: int, folder: str | os.PathLike[str] | None, limit: int | None
) -> tuple[Tensor, list[Tensor], Tensor, tuple[int, ...]]:
    """Pictures (N, 3, S, S), the 19-class label maps at full size, the attributes `PACKED`, and the pictures' numbers."""
    if split not in (None, "train", "test"):
        raise DataError(f"unknown split {split!r}: expected train or test")
    at_least(2, size=size)
    at_least(1, limit=limit)
    place = data_folder(folder) / "faces"
    index, archive = place / "celebamask_1000.json", place / "celebamask_1000_128.tar"
    try:
        items: list[dict[str, Any]] = json.loads(index.read_text(encoding="utf-8"))["items"]
        rows = list(range(len(items)))[{"train": slice(800), "test": slice(800, None), None: slice(None)}[split]][:limit]
        chosen = [items[i] for i in rows]
        numbers = tuple(int(item.get("id", i)) for i, item in zip(rows, chosen, strict=True))
        with tarfile.open(archive) as packed:
            members = {member.name: member for member in packed}
            pairs = [_packed(packed, members, f"{number:04d}", size) for number in numbers]
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{place}: expected celebamask_1000.json and celebamask_1000_128.tar ({error})") from error
    attributes = [[float(item.get("hair_color") == n) if n in PACKED[-4:] else float(bool(item[n])) for n in PACKED] for item in chosen]
    if not pairs:
        raise DataError(f"{index}: expected faces of the split {split}, found {len(items)} items in all")
    return torch.stack([i for i, _ in pairs]), [label for _, label in pairs], torch.tensor(attributes), numbers


def load_celebamask(
    folder: str | os.PathLike[str], size: int = 128, rows: Sequence[int] | None = None, attributes: Sequence[str] = ATTRIBUTES
) -> Faces:
    """Pictures of `CelebAMask` by their numbers, by default all, at once.

    Raises:
        DataError: as there.
    """
    source = CelebAMask(folder, size, attributes)
    return source.read(source.numbers() if rows is None else rows)


class CelebAMask:
    """CelebAMask-HQ as it is distributed: CelebA-HQ-img/N.jpg, CelebAMask-HQ-mask-anno/*/NNNNN_PART.png and the attribute table.

    A mask is the union of all parts but the skin; a face without any part file has none.

    Raises:
        DataError: another layout, an unknown attribute, or too small a size.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int = 128, attributes: Sequence[str] = ATTRIBUTES) -> None:
        at_least(2, size=size)
        self.root, self.size, self.attributes = Path(folder), size, tuple(attributes)
        missing = [name for name in FOLDERS if not (self.root / name).exists()]
        if missing:
            raise DataError(f"{self.root}: expected {', '.join(FOLDERS)}, found no {missing[0]}")
        names, self._table = _table(self.root / FOLDERS[2])
        unknown = [name for name in attributes if name not in names]
        if unknown:
            raise DataError(f"{self.root / FOLDERS[2]}: no attribute {unknown[0]!r}")
        self._columns = [names.index(name) for name in attributes]
        self._parts: dict[int, list[Path]] = {}
        for file in sorted((self.root / FOLDERS[1]).glob("*/*.png")):
            digits = file.stem.partition("_")[0]
            if digits.isdigit():
                self._parts.setdefault(int(digits), []).append(file)

    def numbers(self, split: str | None = None, limit: int | None = None) -> list[int]:
        """The first numbers of the pictures in CelebA's own train, val or test set (by CelebA-HQ-to-CelebA-mapping.txt), or in all.

        Raises:
            DataError: a missing or damaged mapping, an unknown split, one without pictures, or a limit below 1.
        """
        at_least(1, limit=limit)
        if split not in (None, *CELEBA):
            raise DataError(f"unknown split {split!r}: expected {', '.join(CELEBA)}")
        origins = {} if split is None else _origins(self.root / ORIGINS)
        found = [n for n in sorted(self._table) if split is None or origins.get(n) in CELEBA[split]]
        if not found:
            raise DataError(f"{self.root}: expected pictures{f' of the split {split}' if split else ''}, found none of {len(self._table)}")
        return found[:limit]

    def read(self, numbers: Sequence[int]) -> Faces:
        """The pictures with these numbers.

        Raises:
            DataError: none, no such row, or a missing or damaged picture.
        """
        absent = [number for number in numbers if number not in self._table]
        if absent or not numbers:
            found = f"no row for picture {absent[0]}" if absent else "expected numbers of pictures, found none"
            raise DataError(f"{self.root / FOLDERS[2]}: {found}")
        files = [self.root / FOLDERS[0] / f"{number}.jpg" for number in numbers]
        images = [_picture(file.open, self.size, file) for file in files]
        vectors = [[float(self._table[number][column] > 0) for column in self._columns] for number in numbers]
        present = {"mask": torch.tensor([number in self._parts for number in numbers])}
        masks = torch.stack([self._mask(number) for number in numbers])
        return Faces(torch.stack(images), masks, torch.tensor(vectors), self.attributes, tuple(numbers), present)

    def blocks(self, numbers: Sequence[int]) -> Iterator[Faces]:
        """The pictures with these numbers, a few at a time: all of them at 512 pixels would take a hundred gigabytes."""
        for start in range(0, len(numbers), BLOCK):
            yield self.read(numbers[start : start + BLOCK])

    def _mask(self, number: int) -> Tensor:
        mask = torch.zeros(1, self.size, self.size)
        for file in self._parts.get(number, []):
            if not file.stem.endswith("_skin"):
                mask = torch.maximum(mask, _grey(file, self.size))
        return mask


def _origins(path: Path) -> dict[int, int]:
    """{picture number: its number in CelebA}."""
    try:
        cells = [line.split() for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        return {int(row[0]): int(row[2].partition(".")[0]) for row in cells}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: expected a line of names and lines like '0 119613 119614.jpg' ({error})") from error


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
    return _picture(lambda _mode: opener("jpg"), size, f"{name}.jpg of the packed faces"), label


def _open(source: Any) -> Any:
    from PIL import Image

    return Image.open(source)


def _picture(opener: Any, size: int, source: object) -> Tensor:
    try:
        with opener("rb") as stream:
            image = _open(stream).convert("RGB").resize((size, size))
            return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    except OSError as error:
        raise DataError(f"{source}: expected a picture ({error.strerror or 'another file'})") from error


def _grey(path: Path, size: int) -> Tensor:
    try:
        image = _open(path).convert("L").resize((size, size))
    except OSError as error:
        raise DataError(f"{path}: expected a picture ({error.strerror or 'another file'})") from error
    return (torch.from_numpy(np.asarray(image).copy())[None] > 127).float()
