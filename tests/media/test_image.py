"""Pictures: round trips, metadata, resizing, digits, and every bad file ends in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polyscore import media
from polyscore.errors import DataError

META = {"seed": 7, "configuration": {"steps": 20, "given": ["speech"]}, "version": "0.1.0", "ü": "é"}


def line(error: pytest.ExceptionInfo[DataError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    values = torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(0))
    return values.float() / 255


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_round_trip_with_metadata(tmp_path: Path, suffix: str, channels: int) -> None:
    value = picture(9, 13, channels)
    file = media.write(tmp_path / f"x{suffix}", value, "image", META)
    assert torch.equal(media.read(file, "image", shape=(channels, 9, 13)), value)
    assert media.read_metadata(file) == META


def test_jpeg_is_close_and_keeps_metadata(tmp_path: Path) -> None:
    value = torch.linspace(0, 1, 64).expand(3, 64, 64)
    file = media.write(tmp_path / "x.jpg", value, "image", META)
    assert (media.read(file, "image") - value).abs().max() < 0.03
    assert media.read_metadata(file) == META


def test_long_metadata_survives_and_huge_is_refused(tmp_path: Path) -> None:
    long = {"configuration": "x" * 200_000}
    assert media.read_metadata(media.write(tmp_path / "x.png", picture(4, 4), "image", long)) == long
    with pytest.raises(DataError, match="at most 500000"):
        media.write(tmp_path / "y.png", picture(4, 4), "image", {"a": "x" * 600_000})
    with pytest.raises(DataError, match="JSON"):
        media.write(tmp_path / "y.png", picture(4, 4), "image", {"a": object()})
    assert not (tmp_path / "y.png").exists()


def test_out_of_range_values_are_clamped(tmp_path: Path) -> None:
    file = media.write(tmp_path / "x.png", torch.tensor([[-1.0, 0.0], [1.0, 9.0]]), "image")
    assert torch.equal(media.read(file, "image")[0], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_resize_is_antialiased(tmp_path: Path) -> None:
    checks = torch.arange(64) % 2
    board = (checks[:, None] ^ checks[None]).float()[None]
    small = media.read(media.write(tmp_path / "x.png", board, "image"), "image", shape=(1, 8, 8))
    assert (small[:, 1:-1, 1:-1] - 0.5).abs().max() < 0.02  # subsampling would give 0 or 1


@pytest.mark.parametrize(("fit", "left"), [("crop", 0.5), ("pad", 0.0), ("stretch", 0.0)])
def test_fit(tmp_path: Path, fit: str, left: float) -> None:
    wide = torch.zeros(1, 8, 16)
    wide[..., 4:12] = 0.5
    value = media.read(media.write(tmp_path / "x.png", wide, "image"), "image", shape=(1, 8, 8), fit=fit)
    assert value.shape == (1, 8, 8)
    assert value[0, 4, 0] == pytest.approx(left, abs=0.01)


def test_odd_modes(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert media.read(tmp_path / "deep.png", "image").mean() == pytest.approx(0.5, abs=0.01)
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert media.read(tmp_path / "clear.png", "image", shape=(1, 4, 4)).min() == 1
    turned = Image.fromarray(np.zeros((4, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert media.read(tmp_path / "turned.jpg", "image").shape == (1, 8, 4)
    Image.new("P", (4, 4)).save(tmp_path / "palette.gif")
    assert media.read(tmp_path / "palette.gif", "image").shape == (3, 4, 4)


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that claims a size, with whatever body."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def animation(format_: str) -> bytes:
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (0, 128, 255)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format_, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def whole_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("noise.png", b"not a picture", ("readable image",)),
        ("half.png", whole_png()[:2000], ("readable image",)),
        ("empty.png", b"", ("empty file",)),
        ("pixel.png", png(1, 1, b"\0\0"), ("at least 2 x 2", "1 x 1")),
        ("big.png", png(10_000, 10_000), ("64 megapixels", "10000 x 10000")),
        ("bomb.png", png(100_000, 100_000), ("64 megapixels",)),
        ("moving.gif", animation("GIF"), ("one picture", "3 frames")),
        ("moving.png", animation("PNG"), ("one picture", "3 frames")),
        ("moving.webp", animation("WEBP"), ("one picture", "3 frames")),
        ("sound.wav", b"RIFF", (".png", "'.wav'")),
        ("nosuffix", b"data", (".png", "'none'")),
    ],
)
def test_bad_images_end_in_one_line(tmp_path: Path, name: str, data: bytes, words: tuple[str, ...]) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(DataError) as error:
        media.read(file, "image", shape=(1, 28, 28))
    line(error, str(file), "expected", "found", *words)


def test_missing_folder_kind_option_and_shape(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    file = media.write(tmp_path / "x.png", picture(4, 4), "image")
    cases = [
        (lambda: media.read(tmp_path / "absent.png", "image"), "nothing there"),
        (lambda: media.read(tmp_path / "folder.png", "image"), "a folder"),
        (lambda: media.read(file, "smell"), "expected one of image, audio"),
        (lambda: media.read(file, "image", rate=8000), "found 'rate'"),
        (lambda: media.read(file, "image", shape=(2, 4, 4)), r"\(1, H, W\)"),
        (lambda: media.write(tmp_path / "x.gif", picture(4, 4), "image"), "'.gif'"),
        (lambda: media.write(tmp_path / "y.png", torch.zeros(2, 4, 4), "image"), r"found \(2, 4, 4\)"),
        (lambda: media.write(tmp_path / "y.png", torch.full((1, 4, 4), float("nan")), "image"), "16 of 16 NaN"),
        (lambda: media.write(tmp_path / "y.wav", torch.ones(4), "audio"), "'rate' is missing"),
        (lambda: media.read_metadata(tmp_path / "plain.png"), "no polyscore metadata"),
    ]
    Image.new("L", (4, 4)).save(tmp_path / "plain.png")
    for call, message in cases:
        with pytest.raises(DataError, match=message):
            call()
    assert not (tmp_path / "y.png").exists()


def stroke(size: int = 200) -> torch.Tensor:
    """A thick 1 drawn off-centre: white ink on black."""
    image = torch.zeros(1, size, size)
    image[:, 20:100, 30:42] = 1
    return image


@pytest.mark.parametrize("invert", [False, True])
def test_as_digit_lays_out_like_mnist(invert: bool) -> None:
    image = 0.15 + 0.7 * stroke() + 0.02 * torch.rand(1, 200, 200, generator=torch.Generator().manual_seed(1))
    digit = media.as_digit(1 - image if invert else image)
    assert digit.shape == (1, 28, 28)
    assert digit.max() == 1
    assert digit[0, 0].max() == 0
    rows, columns = (digit[0].sum(d).nonzero()[:, 0] for d in (1, 0))
    assert int(rows[-1] - rows[0]) + 1 == 20
    mass = digit.sum()
    for axis, weights in ((1, digit[0].sum(0)), (0, digit[0].sum(1))):
        assert abs(float((weights * torch.arange(28)).sum() / mass) - 14) < 0.6, axis
    assert len(columns) <= 5


def test_as_digit_refuses_a_blank_page() -> None:
    with pytest.raises(DataError, match="blank"):
        media.as_digit(torch.full((1, 50, 50), 0.9))


def test_as_digit_leaves_real_digits_as_they_are(mnist_test: np.ndarray) -> None:
    """An MNIST digit is already laid out: printed large and dark on white, it comes back nearly as it was."""
    together = []
    for pixels in mnist_test:
        image = torch.from_numpy(pixels.astype(np.float32))[None] / 255
        large = torch.nn.functional.interpolate(1 - image[None], scale_factor=5, mode="bilinear")[0]
        together.append(float(torch.corrcoef(torch.stack([image.flatten(), media.as_digit(large).flatten()]))[0, 1]))
    assert np.median(together) > 0.95
    assert np.mean(np.array(together) > 0.8) > 0.9


def test_as_digit_ignores_a_speck_on_a_large_photograph() -> None:
    image = 1 - torch.nn.functional.interpolate(stroke()[None], scale_factor=10)[0]
    clean = media.as_digit(image)
    image[:, 1900, 1900] = 0
    assert torch.equal(media.as_digit(image), clean)
