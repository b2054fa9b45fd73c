"""The PolyMNIST builder, on stand-in digits and on scikit-learn's."""

from __future__ import annotations

import pytest
import torch

from polyscore.cli import main
from polyscore.data.digits import Labelled, load_sklearn_digits
from polyscore.data.folder import prepare_folder
from polyscore.data.polymnist import PolyMNIST, distinct_orders, read_backgrounds, texture, write_files
from polyscore.errors import DataError


@pytest.fixture(scope="module")
def digits():
    found = load_sklearn_digits("test")
    return Labelled(found.x[:120], found.labels[:120])


@pytest.fixture(scope="module")
def data(digits):
    return PolyMNIST(digits, [texture(i) for i in range(4)], seed=3)


def test_inverted_where_the_stroke_is_and_nowhere_else(data, digits):
    for place, name in enumerate(data.names):
        x = data.modality(name)
        assert x.shape == (120, 3, 28, 28) and x.dtype == torch.uint8
        picture = data.backgrounds[name].int()
        for row in (0, 57, 119):
            stroke = digits.x[data.orders[place, row]] > 128 / 255
            back = torch.where(stroke, 255 - x[row].int(), x[row].int())
            windows = picture.unfold(1, 28, 1).unfold(2, 28, 1)
            corners = ((0, 0), (27, 27), (0, 27))
            near = torch.stack([(windows[:, :, :, i, j] == back[:, None, None, i, j]).all(0) for i, j in corners]).all(0)
            places = torch.nonzero(near).tolist()
            assert any(torch.equal(windows[:, top, left], back) for top, left in places)


def test_a_tuple_shares_its_label_and_no_digit(data, digits):
    labels = digits.labels[data.orders]
    assert torch.equal(labels, data.labels.expand(4, -1))
    for first in range(4):
        assert sorted(data.orders[first].tolist()) == list(range(120))
        for second in range(first):
            assert not (data.orders[first] == data.orders[second]).any()
    assert len(data.labels[:20].unique()) > 4  # classes are mixed


def test_collisions_are_taken_apart_even_in_small_classes():
    labels = torch.tensor([0] * 6 + [1] * 7)
    for seed in range(20):
        orders = distinct_orders(labels, 5, seed)
        assert torch.equal(labels[orders], labels[orders[0]].expand(5, -1))
        same = (orders[:, None] == orders[None]).sum(2).fill_diagonal_(0)
        assert same.max() == 0, seed


def test_deterministic_by_seed(digits):
    backgrounds = [texture(i) for i in range(3)]
    first, again, other = (PolyMNIST(digits, backgrounds, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first.modality(n), again.modality(n)) for n in first.names)
    assert not torch.equal(first.modality("m1"), other.modality("m1"))
    rows = torch.tensor([5, 2, 2])
    assert torch.equal(first.rows("m2", rows), first.modality("m2")[rows])
    assert torch.equal(texture(4), texture(4)) and not torch.equal(texture(4), texture(5))


def test_data_masks_and_labels(data):
    some = data.modalities(slice(3, 9))
    assert list(some) == ["m0", "m1", "m2", "m3"] and some["m1"].shape == (6, 3, 28, 28)
    assert torch.equal((some["m1"] * 255).round().byte(), data.modality("m1")[3:9])
    assert len(data.labels) == len(data) and all(mask.tolist() == [True] * 120 for mask in data.masks().values())


def test_inverted_strokes_stand_out():
    for number in range(10):
        assert ((texture(number).float() - 127.5).abs() * 2 >= 0.39 * 255).all()


def test_errors(digits, tmp_path):
    with pytest.raises(DataError, match="larger than 28 x 28"):
        PolyMNIST(digits, [torch.zeros(3, 28, 90, dtype=torch.uint8)])
    with pytest.raises(DataError, match="at least one background"):
        PolyMNIST(digits, [])
    with pytest.raises(DataError, match="class 0 has 2 digits, expected at least 3"):
        distinct_orders(torch.zeros(2, dtype=torch.int64), 3, 0)
    with pytest.raises(DataError, match="expected a folder of pictures"):
        read_backgrounds(tmp_path / "none")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png"):
        read_backgrounds(tmp_path)


def test_command_writes_what_prepare_reads(tmp_path, digits, capsys):
    import numpy as np
    from PIL import Image

    (tmp_path / "digits").mkdir()
    images, labels = (digits.x[:, 0] * 255).byte().numpy(), digits.labels.byte().numpy()
    np.savez(tmp_path / "digits" / "mnist.npz", test_images=images, test_labels=labels)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)).save(tmp_path / "photos" / "b.png")
    out = tmp_path / "poly"
    command = ["data", "polymnist", "--out", str(out), "--modalities", "2", "--n", "7", "--data", str(tmp_path)]
    assert main([*command, "--backgrounds", str(tmp_path / "photos")]) == 0
    kind = {"kind": "image", "shape": [3, 28, 28]}
    prepared = prepare_folder(out, tmp_path / "shards", {"m0": kind, "m1": kind})
    batch = prepared.batch(range(7))
    photos = read_backgrounds(tmp_path / "photos")
    built = PolyMNIST(Labelled(torch.from_numpy(images)[:, None].float() / 255, digits.labels), [*photos, texture(1)], 10_007)
    assert torch.equal((batch["data"]["m0"] * 255).round().byte(), built.modality("m0")[:7])
    assert batch["labels"].tolist() == built.labels[:7].tolist()
    assert main([*command[:5], "11", *command[6:]]) == 2
    assert "2 to 10 modalities, found 11" in capsys.readouterr().err
    with pytest.raises(DataError, match="n: expected at least 1, found 0"):
        write_files(built, out, 0)
