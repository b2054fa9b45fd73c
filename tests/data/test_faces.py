"""Loaders of faces: CelebAMask-HQ's layout written small, and the packed thousand where it is."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from polyscore.data.faces import ATTRIBUTES, PACKED, load_celebamask, load_faces
from polyscore.errors import DataError

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="POLYSCORE_DATA is not set")


@pytest.fixture
def layout(tmp_path):
    """Two faces: 0 with hair and skin, 5 with skin only; every attribute of 0 is on, of 5 off."""
    (tmp_path / "CelebA-HQ-img").mkdir()
    parts = tmp_path / "CelebAMask-HQ-mask-anno" / "0"
    parts.mkdir(parents=True)
    for number, grey in ((0, 40), (5, 200)):
        Image.new("RGB", (16, 16), (grey, 0, 255)).save(tmp_path / "CelebA-HQ-img" / f"{number}.jpg", quality=95)
        Image.new("L", (8, 8), 255).save(parts / f"{number:05d}_skin.png")
    hair = np.zeros((8, 8), np.uint8)
    hair[:2], eye = 255, np.zeros((8, 8), np.uint8)
    eye[4, 4:6] = 255
    Image.fromarray(hair).save(parts / "00000_hair.png")
    Image.fromarray(eye).save(parts / "00000_l_eye.png")
    names = ["Young", *ATTRIBUTES]
    rows = [f"{n}.jpg " + " ".join([sign] * len(names)) for n, sign in ((0, "1"), (5, "-1"))]
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(["2", " ".join(names), *rows]) + "\n")
    return tmp_path


def test_celebamask_layout(layout):
    faces = load_celebamask(layout, size=8)
    assert len(faces) == 2 and faces.images.shape == (2, 3, 8, 8) and faces.names == ATTRIBUTES
    assert faces.images[:, 0].mean((1, 2)).tolist() == pytest.approx([40 / 255, 200 / 255], abs=0.03)
    expected = torch.zeros(8, 8)
    expected[:2], expected[4, 4:6] = 1, 1
    assert torch.equal(faces.masks[0, 0], expected) and not faces.masks[1].any()
    assert faces.attributes.tolist() == [[1.0] * 18, [0.0] * 18]
    one = load_celebamask(layout, size=8, rows=[5], attributes=["Male", "Young"])
    assert one.attributes.tolist() == [[0.0, 0.0]] and torch.equal(one.images[0], faces.images[1])
    assert set(faces.modalities()) == {"image", "mask", "attributes"}


def test_celebamask_errors(layout, tmp_path):
    with pytest.raises(DataError, match="no attribute 'Beard'"):
        load_celebamask(layout, attributes=["Beard"])
    with pytest.raises(DataError, match="no row for picture 3"):
        load_celebamask(layout, rows=[3])
    (layout / "CelebA-HQ-img" / "5.jpg").unlink()
    with pytest.raises(DataError, match=r"5\.jpg"):
        load_celebamask(layout, size=8)
    (layout / "CelebAMask-HQ-attribute-anno.txt").write_text("2\nMale Young\n0.jpg 1\n")
    with pytest.raises(DataError, match="expected 2 values a line"):
        load_celebamask(layout)
    with pytest.raises(DataError, match="found no CelebA-HQ-img"):
        load_celebamask(tmp_path / "nowhere")


def test_packed_faces(tmp_path):
    place = tmp_path / "faces"
    place.mkdir()
    item = {"eyeglasses": 1, "hat": 0, "earrings": 0, "necklace": 0, "mouth_open": 1, "long_hair": 0, "hair_color": "brown"}
    (place / "celebamask_1000.json").write_text(json.dumps({"classes": [], "items": [item | {"id": i} for i in range(3)]}))
    label = np.zeros((16, 16), np.uint8)
    label[:8], label[8:12] = 1, 13
    with tarfile.open(place / "celebamask_1000_128.tar", "w") as archive:
        for i in range(3):
            for suffix, picture in (("jpg", Image.new("RGB", (16, 16), (50 * i, 0, 0))), ("png", Image.fromarray(label))):
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG" if suffix == "jpg" else "PNG")
                entry = tarfile.TarInfo(f"{i:04d}.{suffix}")
                entry.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(entry, buffer)
    faces = load_faces("train", 8, tmp_path, limit=2)
    assert faces.images.shape == (2, 3, 8, 8)
    assert faces.masks[0, 0].mean(1).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert dict(zip(faces.names, faces.attributes[0].tolist(), strict=True)) == dict.fromkeys(PACKED, 0.0) | {
        "eyeglasses": 1.0,
        "mouth_open": 1.0,
        "brown": 1.0,
    }
    (place / "celebamask_1000_128.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match="celebamask_1000_128"):
        load_faces("train", 8, tmp_path)
    with pytest.raises(DataError, match="unknown split"):
        load_faces("all", 8, tmp_path)


@needs_data
def test_real_faces():
    faces = load_faces("test", 32, limit=20)
    assert faces.images.shape == (20, 3, 32, 32) and 0.1 < faces.masks.mean() < 0.8
    assert (faces.attributes[:, -4:].sum(1) <= 1).all()
