"""The faces recipe from data to table, tiny, on made-up faces."""

from __future__ import annotations

import pytest
import torch

from polyscore.composer import Composer
from polyscore.data.faces import PACKED, Faces
from polyscore.guided import Guided
from polyscore.ratios.contrastive import Contextual
from polyscore.recipes.faces import evaluate, train
from polyscore.recipes.faces.evaluate import faces_table, variants
from polyscore.recipes.faces.train import FacesSize, train_faces
from polyscore.recipes.tables import read_table
from polyscore.training import TrainConfig

TINY = TrainConfig(steps=8, batch_size=16, warmup=1, checkpoint_every=8, log_every=8)
SIZE = FacesSize(side=8, image=4, mask=3, attributes=3, width=16, embedding=4)


def made_up(split="train", size=8, folder=None):
    """Pictures whose colour, masks whose height and attributes whose first entry go together."""
    n = 40 if split == "train" else 12
    draw = torch.Generator().manual_seed(n)
    on = torch.rand(n, generator=draw) < 0.5
    images = (0.2 + 0.5 * on.float())[:, None, None, None] + 0.1 * torch.rand(n, 3, size, size, generator=draw)
    masks = torch.zeros(n, 1, size, size)
    masks[:, :, : size // 2] = 1
    masks[on] = 1
    attributes = (torch.rand(n, len(PACKED), generator=draw) < 0.5).float()
    attributes[:, 0] = on.float()
    return Faces(images, masks, attributes, PACKED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_faces", made_up)
        train_faces(root, None, SIZE, TINY, progress=False)
    return root


def test_all_parts_are_saved_and_compose(folder):
    found = variants(folder)
    assert list(found) == ["plain", "-T", "-C", "-TC"]
    assert isinstance(found["-T"].denoiser, Contextual) and isinstance(found["-TC"].denoiser, Guided)
    made = Composer.load(folder / "told").sample(2, seed=0, steps=2)
    assert {name: tuple(x.shape) for name, x in made.items()} == {"image": (2, 3, 8, 8), "mask": (2, 1, 8, 8), "attributes": (2, 10)}
    assert made["attributes"].min() >= 0 and made["image"].max() <= 1
    for one, other in (("plain", "told"), ("plain", "-C")):
        codecs = (Composer.load(folder / n).codecs if n in ("plain", "told") else found[n].codecs for n in (one, other))
        first, second = (c["image"].state_dict() for c in codecs)
        assert all(torch.equal(first[k], second[k]) for k in first)


def test_table(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_faces", made_up)
    rows = {row.measure: row for row in faces_table(folder, tmp_path / "faces.json", seeds=(0, 1), attack=0.1)}
    plain = rows["plain: attribute F1 given image"]
    assert len(plain.values) == 2 and plain.reach is None and 0 < plain.mean <= 1
    assert rows["-C: attribute F1 given image"].reach == (">=", plain.mean)
    assert rows["-C: FGSM drop"].reach == ("<=", 0.1) and rows["classifier: FGSM drop"].mean >= 0
    assert rows["plain: mask F1 given image"].mean > 0.5
    assert read_table(tmp_path / "faces.json")["protocol"]["n"] == 12
