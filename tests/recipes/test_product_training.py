"""The trainings of the product recipes, from files to tables, on small made-up data and few steps."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from polyscore.errors import DataError
from polyscore.recipes.product import digits, faces, faces_table, text, train
from polyscore.recipes.product.scenes import COLOURS, colour_of, load_scenes
from polyscore.recipes.tables import read_table
from polyscore.training import TrainConfig

FEW = TrainConfig(steps=2, batch_size=4, log_every=2, checkpoint_every=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Digits that are bars of ten lengths, and faces that are an oval under a cap."""
    place = tmp_path_factory.mktemp("data")
    (place / "digits").mkdir()
    labels = np.arange(240, dtype=np.uint8) % 10
    pixels = np.zeros((240, 28, 28), np.uint8)
    for row, label in enumerate(labels):
        pixels[row, 4 : 7 + 2 * label, 12:16] = 255
    np.savez(place / "digits" / "mnist.npz", train_images=pixels, train_labels=labels, test_images=pixels[:80], test_labels=labels[:80])
    _faces(place / "faces", 812)
    return str(place)


def _faces(place, count) -> None:
    place.mkdir()
    label = np.zeros((32, 32), np.uint8)
    label[4:12, 6:26], label[12:28, 8:24], label[16:18, 11:14] = 13, 1, 4
    item = dict.fromkeys(("eyeglasses", "hat", "earrings", "necklace", "mouth_open", "long_hair"), 0)
    items = [item | {"id": i, "hair_color": ("black", "blond", "none")[i % 3]} for i in range(count)]
    (place / "celebamask_1000.json").write_text(json.dumps({"classes": [], "items": items}))
    with tarfile.open(place / "celebamask_1000_128.tar", "w") as archive:
        for i in range(count):
            picture = np.repeat(label[:, :, None] * 9, 3, 2).astype(np.uint8)
            for suffix, image in (("jpg", Image.fromarray(picture + i % 50)), ("png", Image.fromarray(label))):
                buffer = io.BytesIO()
                image.save(buffer, "JPEG" if suffix == "jpg" else "PNG")
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)


def test_no_scene_of_a_training_set_has_both_labels(data) -> None:
    a, b, test = (load_scenes(kind, data) for kind in ("A", "B", "test"))
    assert (a.colours == -1).all() and (b.digits == -1).all() and len(a) + len(b) == 240
    assert (colour_of(a.x) == -1).all()
    assert float((colour_of(b.x) == b.colours).double().mean()) > 0.97
    assert test.colours.unique().tolist() == list(range(COLOURS)) and (test.digits >= 0).all()


def test_digits_train_and_make_a_table(data, tmp_path) -> None:
    for seed in (0, 1):
        train.train_scenes(str(tmp_path), data, seed, FEW, FEW, progress=False)
    before = (tmp_path / "0" / "A.safetensors").read_bytes()
    train.train_scenes(str(tmp_path), data, 0, FEW, FEW, progress=False)
    assert (tmp_path / "0" / "A.safetensors").read_bytes() == before != (tmp_path / "1" / "A.safetensors").read_bytes()
    table = digits.product_digits_table(str(tmp_path), str(tmp_path / "t.json"), data, n=12, seeds=(0, 1), steps=2, particles=2)
    rows = {row.measure: row for row in table}
    assert all(f"{method}: both" in rows and len(rows[f"{method}: both"].values) == 2 for method in digits.METHODS)
    assert read_table(tmp_path / "t.json")["protocol"]["seeds"] == [0, 1]
    digits.sweep(str(tmp_path), str(tmp_path / "sweep.png"), priors=(0.0, 1.0), strengths=(1.0, 2.0))
    assert Image.open(tmp_path / "sweep.png").size[0] > 100


def test_the_single_expert_hears_its_own_label_only(data, tmp_path) -> None:
    train.train_scenes(str(tmp_path), data, 0, FEW, FEW, progress=False)
    experts = train.load_parts(tmp_path, 0)[2]
    labels = digits.wanted(6, 0)
    product = digits.compose(experts, "product, naive", labels, (2.0, 1.0), 0.0)
    assert product.prior == pytest.approx({"A": 0.0, "B": 1.0})
    digit, colour = (t.condition for t in product.terms)
    assert (digit[:, 1] == -1).all() and (colour[:, 0] == -1).all() and torch.equal(digit[:, 0], labels[:, 0])


def test_faces_train_and_make_a_table_and_a_picture(data, tmp_path) -> None:
    seen = faces.FaceParts.load("test", data, mirrored=True)
    assert len(seen.parts) == 24 and torch.equal(seen.parts[0], seen.parts[1].flip(-1)) and seen.colours[:4].tolist() == [-1, -1, 0, 0]
    assert torch.equal(seen.faces.mask[:, 1], (seen.parts == 2).float())
    faces.train_faces(str(tmp_path), data, 0, faces.NAMES, FEW, FEW, progress=False)
    table = faces_table.product_faces_table(str(tmp_path), str(tmp_path / "f.json"), data, (0,), steps=2, particles=2, n=6)
    rows = {row.measure: row for row in table}
    assert all(f"{m}: {s}" in rows for m in (*faces_table.METHODS, *faces_table.MORE) for s in faces_table.SCORES)
    assert rows["the test faces themselves: SSIM"].mean == pytest.approx(1, abs=1e-4)
    assert rows["the test faces themselves: frechet"].mean >= 0
    faces_table.face_picture(str(tmp_path), str(tmp_path / "f.png"), data, n=2)
    assert Image.open(tmp_path / "f.png").size == (128, 2 * 32 * 11)


def test_one_network_for_both_masks_never_sees_them_together(data) -> None:
    told = faces._told("both", faces.FaceParts.load("train", data, mirrored=True))
    given = (told["condition"] >= 0).flatten(2).all(2)
    assert len(given) == 1600 and (given.sum(1) == 1).all() and given[:800, 1].all() and given[800:, 0].all()
    hair = faces._told("hair", faces.FaceParts.load("train", data, mirrored=True))
    assert torch.equal(hair["image"], told["image"][:800])


def test_text_trains_and_makes_a_table(data, tmp_path) -> None:
    text.train_text(str(tmp_path), data, 0, progress=False, steps=2)
    table = text.product_text_table(str(tmp_path), str(tmp_path / "x.json"), data, n=10, seeds=(0,))
    assert len(table) == len(text.PHRASES) + 4 and all(0 <= row.mean <= 1 for row in table)


def test_words_nobody_taught_count_for_nothing_and_the_bridge_ends_among_pictures() -> None:
    seen, unseen = text.bag_of_words(["the digit seven", "colourless digit the seven furiously"])
    assert torch.equal(seen, unseen) and seen.sum() == 3
    pictures, words = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(text.shift(words, words, pictures), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(text.bridge(words, pictures), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    near = text.bridge(torch.tensor([[0.9, 0.1]]), pictures, 100.0)
    torch.testing.assert_close(near, pictures[:1])


def test_faces_that_are_not_there_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match="celebamask_1000"):
        faces.train_faces(str(tmp_path), str(tmp_path), progress=False)
