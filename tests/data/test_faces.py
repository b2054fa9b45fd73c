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

from polyscore.data import faces as module
from polyscore.data.faces import ATTRIBUTES, PACKED, CelebAMask, load_celebamask, load_faces
from polyscore.data.folder import prepare_folder
from polyscore.errors import DataError

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="POLYSCORE_DATA is not set")


@pytest.fixture
def layout(tmp_path):
    """Three faces: 0 with hair and skin, 5 with skin only, 11 without parts; every attribute of 0 is on, of the others off."""
    (tmp_path / "CelebA-HQ-img").mkdir()
    parts = tmp_path / "CelebAMask-HQ-mask-anno" / "0"
    parts.mkdir(parents=True)
    for number, grey in ((0, 40), (5, 200), (11, 90)):
        Image.new("RGB", (16, 16), (grey, 0, 255)).save(tmp_path / "CelebA-HQ-img" / f"{number}.jpg", quality=95)
    for number in (0, 5):
        Image.new("L", (8, 8), 255).save(parts / f"{number:05d}_skin.png")
    hair = np.zeros((8, 8), np.uint8)
    hair[:2], eye = 255, np.zeros((8, 8), np.uint8)
    eye[4, 4:6] = 255
    Image.fromarray(hair).save(parts / "00000_hair.png")
    Image.fromarray(eye).save(parts / "00000_l_eye.png")
    names = ["Young", *ATTRIBUTES]
    rows = [f"{n}.jpg " + " ".join([sign] * len(names)) for n, sign in ((0, "1"), (5, "-1"), (11, "-1"))]
    origins = ("idx    orig_idx    orig_file", "0    162769    162770.jpg", "5    182637    182638.jpg", "11    162770    162771.jpg")
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(origins) + "\n")
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(["3", " ".join(names), *rows]) + "\n")
    return tmp_path


def test_celebamask_layout(layout):
    faces = load_celebamask(layout, size=8)
    assert len(faces) == 3 and faces.image.shape == (3, 3, 8, 8) and faces.names == ATTRIBUTES
    assert faces.image[:, 0].mean((1, 2)).tolist() == pytest.approx([40 / 255, 200 / 255, 90 / 255], abs=0.03)
    expected = torch.zeros(8, 8)
    expected[:2], expected[4, 4:6] = 1, 1
    assert torch.equal(faces.mask[0, 0], expected) and not faces.mask[1:].any()
    assert faces.attributes.tolist() == [[1.0] * 18, [0.0] * 18, [0.0] * 18] and faces.labels is None
    assert {name: mask.tolist() for name, mask in faces.masks().items()} == {
        "image": [True] * 3, "mask": [True, True, False], "attributes": [True] * 3}  # fmt: skip
    one = load_celebamask(layout, size=8, rows=[5], attributes=["Male", "Young"])
    assert one.attributes.tolist() == [[0.0, 0.0]] and torch.equal(one.image[0], faces.image[1])
    assert set(faces.modalities()) == {"image", "mask", "attributes"}


def test_command_writes_what_prepare_reads(layout, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    out, faces = tmp_path / "files", load_celebamask(layout, size=8)
    code, said, _ = run_cli("data", "faces", "--out", out, "--celebamask", layout, "--size", 8)
    assert code == 0 and "3 faces in" in said and [p.name for p in sorted((out / "mask").iterdir())] == ["00000.png", "00005.png"]
    kinds = {
        "image": {"kind": "image", "shape": [3, 8, 8]},
        "mask": {"kind": "image", "shape": [1, 8, 8]},
        "attributes": {"kind": "vector", "shape": [18]},
    }
    data = prepare_folder(out, tmp_path / "shards", kinds)
    batch = data.batch(range(3))
    assert data.names == ["00000", "00005", "00011"] and batch["labels"] is None
    for name, x in faces.modalities().items():
        assert batch["masks"][name].equal(faces.masks()[name])
        torch.testing.assert_close(batch["data"][name], x, atol=1e-6, rtol=0)


def test_splits_of_celeba(layout, tmp_path, run_cli):
    source = CelebAMask(layout, size=8)
    assert [source.numbers(split) for split in ("train", "val", "test", None)] == [[0], [11], [5], [0, 5, 11]]
    assert source.numbers(limit=2) == [0, 5] and [len(part) for part in source.blocks([5, 0])] == [2]
    mapping = layout / "CelebA-HQ-to-CelebA-mapping.txt"
    mapping.write_text("idx orig_idx orig_file\n0 1 000002.jpg\n")
    code, _, error = run_cli("data", "faces", "--out", tmp_path / "files", "--celebamask", layout, "--split", "val")
    assert code == 2 and "expected pictures of the split val, found none of 3" in error and error.count("\n") == 1
    mapping.unlink()
    for options, words in (
        ({"split": "train"}, r"mapping\.txt: expected a line of names"),
        ({"split": "all"}, "unknown split 'all': expected train, val, test"),
        ({"limit": 0}, "limit: expected at least 1, found 0"),
    ):
        with pytest.raises(DataError, match=words):
            source.numbers(**options)
    with pytest.raises(DataError, match="size: expected at least 2, found 1"):
        CelebAMask(layout, size=1)


def test_celebamask_errors(layout, tmp_path):
    with pytest.raises(DataError, match="no attribute 'Beard'"):
        load_celebamask(layout, attributes=["Beard"])
    with pytest.raises(DataError, match="no row for picture 3"):
        load_celebamask(layout, rows=[3])
    with pytest.raises(DataError, match="expected numbers of pictures, found none"):
        load_celebamask(layout, rows=[])
    hair = layout / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png"
    for file in (hair, layout / "CelebA-HQ-img" / "0.jpg"):
        file.write_bytes(b"no picture")
        with pytest.raises(DataError, match=rf"{file.name}: expected a picture \(another file\)"):
            load_celebamask(layout, size=8, rows=[0])
    (layout / "CelebA-HQ-img" / "5.jpg").unlink()
    with pytest.raises(DataError, match=r"5\.jpg"):
        load_celebamask(layout, size=8, rows=[5])
    (layout / "CelebAMask-HQ-attribute-anno.txt").write_text("2\nMale Young\n0.jpg 1\n")
    with pytest.raises(DataError, match="expected 2 values a line"):
        load_celebamask(layout)
    with pytest.raises(DataError, match="found no CelebA-HQ-img"):
        load_celebamask(tmp_path / "nowhere")


def test_packed_faces(tmp_path, run_cli):
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
    assert faces.image.shape == (2, 3, 8, 8)
    assert faces.mask[0, 0].mean(1).tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert dict(zip(faces.names, faces.attributes[0].tolist(), strict=True)) == dict.fromkeys(PACKED, 0.0) | {
        "eyeglasses": 1.0,
        "mouth_open": 1.0,
        "brown": 1.0,
    }
    assert load_faces(None, 8, tmp_path).numbers == (0, 1, 2) and all(mask.all() for mask in faces.masks().values())
    assert run_cli("data", "faces", "--out", tmp_path / "files", "--data", tmp_path, "--size", 8, "--limit", 2)[0] == 0
    written = sorted(p.relative_to(tmp_path / "files").as_posix() for p in (tmp_path / "files").rglob("*.*"))
    assert written == [f"{m}/0000{n}.{s}" for m, s in (("attributes", "json"), ("image", "png"), ("mask", "png")) for n in (0, 1)]
    with pytest.raises(DataError, match="expected faces of the split test, found 3 items in all"):
        load_faces("test", 8, tmp_path)
    (place / "celebamask_1000_128.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match="celebamask_1000_128"):
        load_faces("train", 8, tmp_path)
    with pytest.raises(DataError, match="unknown split"):
        load_faces("all", 8, tmp_path)


@needs_data
def test_real_faces():
    faces = load_faces("test", 32, limit=20)
    assert faces.image.shape == (20, 3, 32, 32) and 0.1 < faces.mask.mean() < 0.8
    assert (faces.attributes[:, -4:].sum(1) <= 1).all() and faces.numbers == tuple(range(800, 820))


@needs_data
def test_real_faces_as_files(tmp_path, run_cli):
    assert run_cli("data", "faces", "--out", tmp_path / "files", "--split", "test", "--size", 32, "--limit", 4)[0] == 0
    kinds = {"mask": {"kind": "image", "shape": [1, 32, 32]}, "attributes": {"kind": "vector", "shape": [len(PACKED)]}}
    data, faces = prepare_folder(tmp_path / "files", tmp_path / "shards", kinds), load_faces("test", 32, limit=4)
    assert data.names == ["00800", "00801", "00802", "00803"]
    assert data.batch(range(4))["data"]["mask"].equal(faces.mask) and data.batch(range(4))["data"]["attributes"].equal(faces.attributes)
