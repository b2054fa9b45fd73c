"""The OpenMoji loader on a small copy made here."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from polyscore.cli import main
from polyscore.data.folder import prepare_folder
from polyscore.data.openmoji import load_openmoji
from polyscore.errors import DataError

ROWS = [
    {"hexcode": "1F600", "group": "smileys", "tags": "face, grin", "skintone": ""},
    {"hexcode": "1F422", "group": "animals", "tags": "slow, face", "skintone": ""},
    {"hexcode": "1F44B", "group": "people", "tags": "hand", "skintone": "3"},
    {"hexcode": "1F999", "group": "animals", "tags": "wool", "skintone": ""},
]


@pytest.fixture
def copy(tmp_path):
    """Two whole emoji, one with a skin tone, and one without its drawing."""
    root = tmp_path / "openmoji"
    (root / "data").mkdir(parents=True)
    (root / "data" / "openmoji.json").write_text(json.dumps(ROWS))
    for look, codes in (("color", [row["hexcode"] for row in ROWS]), ("black", ["1F600", "1F422", "1F44B"])):
        (root / look / "72x72").mkdir(parents=True)
        for code in codes:
            picture = Image.new("RGBA", (72, 72), (0, 0, 0, 0))
            picture.paste((255, 0, 0, 255) if look == "color" else (0, 0, 0, 255), (0, 0, 36, 72))
            picture.save(root / look / "72x72" / f"{code}.png")
    return root


def test_pictures_drawings_and_tags(copy):
    data = load_openmoji(copy, size=8, words=3)
    assert data.names == ("1F422", "1F600") and data.groups == ("animals", "smileys") and data.labels.tolist() == [0, 1]
    assert data.words == ("face", "grin", "slow") and data.tags.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert {name: tuple(x.shape) for name, x in data.modalities().items()} == {
        "image": (2, 3, 8, 8), "drawing": (2, 1, 8, 8), "tags": (2, 3)}  # fmt: skip
    assert data.image[0, :, 0, 0].tolist() == [1, 0, 0] and data.image[0, :, 0, 7].tolist() == [1, 1, 1]
    assert data.drawing[0, 0, 0].tolist() == [0] * 4 + [1] * 4
    assert len(load_openmoji(copy, limit=1)) == 1


def test_command_writes_what_prepare_reads(copy, tmp_path):
    out = tmp_path / "files"
    assert main(["data", "openmoji", "--source", str(copy), "--out", str(out), "--size", "8", "--words", "3"]) == 0
    kinds = {
        "image": {"kind": "image", "shape": [3, 8, 8]},
        "drawing": {"kind": "image", "shape": [1, 8, 8]},
        "tags": {"kind": "vector", "shape": [3]},
    }
    batch = prepare_folder(out, tmp_path / "shards", kinds).batch(range(2))
    data = load_openmoji(copy, size=8, words=3)
    for name, x in data.modalities().items():
        torch.testing.assert_close(batch["data"][name], x, atol=0.5 / 255, rtol=0)


def test_emoji_without_one_picture(copy, tmp_path, run_cli):
    data = load_openmoji(copy, size=8, words=3, partial=True)
    assert data.names == ("1F422", "1F600", "1F999") and not data.drawing[2].any() and data.image[2].any()
    assert {name: mask.tolist() for name, mask in data.masks().items()} == {
        "image": [True] * 3, "drawing": [True, True, False], "tags": [True] * 3}  # fmt: skip
    assert all(mask.all() for mask in load_openmoji(copy, size=8).masks().values())
    out = tmp_path / "files"
    assert run_cli("data", "openmoji", "--source", copy, "--out", out, "--size", 8, "--words", 3, "--partial", "true")[0] == 0
    kinds = {"drawing": {"kind": "image", "shape": [1, 8, 8]}, "tags": {"kind": "vector", "shape": [3]}}
    batch = prepare_folder(out, tmp_path / "shards", kinds).batch(range(3))
    assert batch["masks"]["drawing"].tolist() == [True, True, False] and batch["labels"].tolist() == [0, 1, 0]


def test_svg_files(copy):
    pytest.importorskip("resvg_py")
    for look, colour in (("color", "#f00"), ("black", "#000")):
        (copy / look / "72x72" / "1F600.png").unlink()
        (copy / look / "svg").mkdir()
        drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="36" height="72" fill="{colour}"/></svg>'
        (copy / look / "svg" / "1F600.svg").write_text(drawing)
    data = load_openmoji(copy, size=8)
    assert data.image[1, :, 0, 0].tolist() == [1, 0, 0] and data.drawing[1, 0, 0].tolist() == [0] * 4 + [1] * 4


def test_errors(copy, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="expected OpenMoji's table"):
        load_openmoji(tmp_path / "none")
    for options, words in (({"size": 1}, "size: expected at least 2"), ({"limit": 0}, "limit: expected at least 1")):
        with pytest.raises(DataError, match=words):
            load_openmoji(copy, **options)
    (copy / "black" / "72x72" / "1F600.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1F600\.png: expected a picture"):
        load_openmoji(copy)
    (copy / "data" / "openmoji.json").write_text("[]")
    with pytest.raises(DataError, match="found none of the table's emoji"):
        load_openmoji(copy)
