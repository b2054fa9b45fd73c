"""Pictures: (C, H, W) tensors with values in [0, 1]; one channel is grey, three are RGB."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.media.checks import check_finite, check_suffix, existing, first_line, save_bytes
from polyscore.media.metadata import KEY, pack

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "READS", "WRITES", "Fit", "as_digit", "image_comment", "read_image", "resize", "to_picture", "write_image"]

Fit = Literal["crop", "pad", "stretch"]
READS = frozenset({".png", ".apng", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
WRITES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MAX_PIXELS = 64_000_000
DESCRIPTION = 0x010E  # EXIF tag ImageDescription
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # other formats with several frames hold previews or pages, and their first is meant


def read_image(
    path: str | os.PathLike[str], *, shape: Sequence[int] | None = None, fit: Fit = "crop", max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Read a picture as (C, H, W) in [0, 1], upright (EXIF), transparency on white, resized with antialias.

    `shape` is the modality's (C, H, W), C = 1 or 3; None keeps size and colour. `fit` says what happens to another aspect
    ratio: "crop" the centre, "pad" with the corner's colour, or "stretch".

    Raises:
        DataError: unreadable, truncated, animated, a side of one pixel, or more than `max_pixels`.
    """
    file = existing(path, "image", READS)
    picture = _decode(file, max_pixels)
    channels = _channels(shape, file) if shape is not None else 1 if picture.mode in ("1", "L", "I", "F", "I;16", "I;16B", "LA") else 3
    picture = _flatten(picture, channels)
    if shape is not None:
        picture = resize(picture, (int(shape[1]), int(shape[2])), fit)
    values = torch.from_numpy(np.array(picture, dtype=np.float32)) / 255
    return values[None] if channels == 1 else values.permute(2, 0, 1).contiguous()


def image_comment(path: str | os.PathLike[str]) -> str | None:
    """The metadata text of a PNG, JPEG or WebP file, or None."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            text = picture.info.get(KEY) or picture.getexif().get(DESCRIPTION)
            if text is None and picture.format == "PNG":
                picture.load()  # a text chunk may stand behind the pixels
                text = picture.info.get(KEY)
    except Exception as error:
        raise DataError(f"{path}: expected a readable image, found {first_line(error)}") from error
    return text if isinstance(text, str) else None


def write_image(path: str | os.PathLike[str], value: Tensor, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write (H, W), (1, H, W) or (3, H, W), clamped to [0, 1], as PNG, JPEG or (lossless) WebP with 8 bits a channel."""
    suffix = check_suffix(path, "image", WRITES)
    picture = to_picture(value, path)
    options: dict[str, Any] = {".png": {}, ".webp": {"lossless": True}}.get(suffix, {"quality": 95})
    buffer = io.BytesIO()
    try:
        picture.save(buffer, {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG"), **options, **_text_options(suffix, metadata, path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a picture and metadata that {suffix} can hold, found {error}") from error
    return save_bytes(path, buffer.getvalue())


def to_picture(value: Tensor, source: object = "image") -> Image:
    """An 8-bit Pillow picture of (H, W), (1, H, W) or (3, H, W) values, clamped to [0, 1]."""
    from PIL import Image

    value = check_finite(value.detach().cpu().float(), source, "pixels")
    value = value[None] if value.ndim == 2 else value
    if value.ndim != 3 or value.shape[0] not in (1, 3) or 0 in value.shape:
        raise DataError(f"{source}: expected an image of shape (1, H, W) or (3, H, W), found {tuple(value.shape)}")
    pixels = (value.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def resize(picture: Image, size: tuple[int, int], fit: Fit = "crop") -> Image:
    """Resize to `size` = (H, W) with an antialiased bicubic filter; the same size returns the same pixels."""
    from PIL import Image, ImageOps

    target = (size[1], size[0])
    if picture.size == target:
        return picture
    if fit == "stretch":
        return picture.resize(target, Image.Resampling.BICUBIC)
    if fit == "crop":
        return ImageOps.fit(picture, target, Image.Resampling.BICUBIC)
    if fit == "pad":
        corner: Any = picture.getpixel((0, 0))
        return ImageOps.pad(picture, target, Image.Resampling.BICUBIC, color=corner)
    raise DataError(f"fit: expected crop, pad or stretch, found {fit!r}")


def as_digit(image: Tensor, *, floor: float = 0.25, source: object = "image") -> Tensor:
    """An ordinary picture of one handwritten digit, (1 or 3, H, W) in [0, 1], laid out as MNIST does: (1, 28, 28), white on black.

    The median of the border is the paper: the ink is what differs from it, so dark-on-bright and bright-on-dark both work.
    Ink below `floor` of its peak is paper texture and goes to 0. The ink's box is scaled to fit 20 x 20 (aspect ratio kept,
    antialiased) and its centre of mass is put at pixel (14, 14), where MNIST has it (LeCun et al. 1998, section III.A).

    Raises:
        DataError: no ink (a blank picture); the line names `source`.
    """
    ink = _ink(image, floor, source)
    rows, columns = (ink.sum(d).nonzero()[:, 0] for d in (1, 0))
    box = ink[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    scale = 20 / max(box.shape)
    size = (max(1, round(box.shape[0] * scale)), max(1, round(box.shape[1] * scale)))
    small = torch.from_numpy(np.array(resize(to_picture(box), size, "stretch"), dtype=np.float32)) / 255
    return _centred(small / small.max().clamp(min=1e-6), 28)[None]


def _ink(image: Tensor, floor: float, source: object) -> Tensor:
    grey = check_finite(image.detach().cpu().float(), source, "pixels").mean(0)
    if max(grey.shape) > 256:  # paper grain and single wrong pixels average out
        size = [max(2, side * 256 // max(grey.shape)) for side in grey.shape]
        grey = torch.nn.functional.interpolate(grey[None, None], size, mode="bilinear", antialias=True)[0, 0]
    border = torch.cat([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = grey - border.median()
    ink = (-ink if border.median() > 0.5 else ink).clamp(min=0)
    if float(ink.max()) < 0.1:
        raise DataError(
            f"{source}: expected a digit that stands out from its paper, found a blank picture (contrast {float(ink.max()):.2f})"
        )
    ink = ink / ink.max()
    return torch.where(ink < floor, torch.zeros_like(ink), ink)


def _centred(small: Tensor, side: int) -> Tensor:
    """Paste (h, w) into (side, side) with the centre of mass at the middle, as far as the box allows."""
    mass = small.sum().clamp(min=1e-6)
    places = []
    for axis in (0, 1):
        centre = (small.sum(1 - axis) * torch.arange(small.shape[axis])).sum() / mass
        places.append(min(max(round(side / 2 - float(centre)), 0), side - small.shape[axis]))
    canvas = torch.zeros(side, side)
    canvas[places[0] : places[0] + small.shape[0], places[1] : places[1] + small.shape[1]] = small
    return canvas


def _decode(file: Path, max_pixels: int) -> Image:
    from PIL import Image, ImageOps

    try:
        # Pillow's warnings (a large picture, broken EXIF data) are judged here
        with warnings.catch_warnings(action="ignore"), Image.open(file) as picture:
            _check_picture(picture, file, max_pixels)
            return ImageOps.exif_transpose(picture)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{file}: expected at most {max_pixels / 1e6:g} megapixels, found far more ({error})") from error
    except Exception as error:  # decoders of hostile bytes raise anything
        raise DataError(f"{file}: expected a readable image, found {first_line(error)}") from error


def _check_picture(picture: Image, file: Path, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise DataError(f"{file}: expected at most {max_pixels / 1e6:g} megapixels, found {width} x {height} ({width * height / 1e6:.0f})")
    if min(width, height) < 2:
        raise DataError(f"{file}: expected an image of at least 2 x 2 pixels, found {width} x {height}")
    frames = getattr(picture, "n_frames", 1) if picture.format in ANIMATED else 1
    if frames > 1:
        raise DataError(f"{file}: expected one picture, found an animation of {frames} frames")


def _flatten(picture: Image, channels: int) -> Image:
    """8-bit grey or RGB, transparent parts on white."""
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture, dtype=np.float64)
        top = 65535 if values.max() > 255 else 1 if picture.mode == "F" and values.max() <= 1 else 255
        top = 65535 if picture.mode.startswith("I;16") else top
        picture = Image.fromarray((np.clip(values / top, 0, 1) * 255).round().astype(np.uint8))
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        front = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", front.size, "white"), front)
    return picture.convert("L" if channels == 1 else "RGB")


def _channels(shape: Sequence[int], file: Path) -> int:
    if len(shape) != 3 or shape[0] not in (1, 3) or math.prod(shape) <= 0:
        raise DataError(f"{file}: expected an image modality of shape (1, H, W) or (3, H, W), found {tuple(shape)}")
    return int(shape[0])


def _text_options(suffix: str, metadata: Mapping[str, Any] | None, target: object) -> dict[str, Any]:
    from PIL import Image, PngImagePlugin

    if metadata is None:
        return {}
    text = pack(metadata, target)
    if suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, text)
        return {"pnginfo": info}
    exif = Image.Exif()
    exif[DESCRIPTION] = text
    return {"exif": exif}
