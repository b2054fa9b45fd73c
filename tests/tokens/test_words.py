"""Tokens beside pixels: a joint network of a continuous modality and letters, words as files, infilling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyscore.codecs import Letters
from polyscore.composer import Composer
from polyscore.errors import DataError
from polyscore.generate import generate
from polyscore.media import read, write
from polyscore.networks.mlp import JointDenoiser
from polyscore.recipes.digits.words import WORDS, letters, spelled
from polyscore.sampling import sample
from polyscore.training import Draw, Pairs, TrainConfig, fit
from polyscore.training.joint import JointObjective

torch.set_num_threads(1)


def test_words_are_letters() -> None:
    codec = letters()
    codes = codec.write(WORDS)
    tokens = codec.encode(codes)
    assert tokens.shape == (10, 5)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < codec.vocabulary == 16
    assert codec.read(codec.decode(tokens)) == list(WORDS)
    assert spelled(codes).tolist() == list(range(10))
    assert spelled(codec.write(["sevn"])).tolist() == [-1]
    assert codec.encode(codec.write(["s?x"])).tolist()[0][1] == -1
    with pytest.raises(DataError, match="expected letters of"):
        codec.encode(codec.write(["ab"]))
    with pytest.raises(DataError, match="at most 5 characters"):
        codec.write(["twelve"])


def test_words_are_files(tmp_path: Path) -> None:
    codes = letters().write(["seven"])[0]
    write(tmp_path / "a.json", codes, "text", {"seed": 1})
    assert torch.equal(read(tmp_path / "a.json", "text", shape=(5,)), codes)
    (tmp_path / "b.txt").write_text("six\n")
    assert read(tmp_path / "b.txt", "text", shape=(5,)).tolist() == [115, 105, 120, 0, 0]
    for content in ("", "[1, 2]", "seventeen", "{"):
        (tmp_path / "c.json").write_text(content if content in ("", "[1, 2]", "{") else f'"{content}"')
        with pytest.raises(DataError, match="expected"):
            read(tmp_path / "c.json", "text", shape=(5,))


def toy() -> tuple[JointDenoiser, Pairs]:
    """Two places in the plane, named ab and ba."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    points = torch.where(labels[:, None] == 1, 1.0, -1.0) + 0.2 * torch.randn(200, 2)
    sets = Pairs({"point": (points, labels), "word": (torch.tensor([[0, 1], [1, 0]]), torch.arange(2))})
    return JointDenoiser({"point": (2,), "word": (2,)}, width=48, depth=2, hidden=48, embed=32, vocabularies={"word": 2}), sets


def test_a_network_learns_points_and_their_names(tmp_path: Path) -> None:
    denoiser, sets = toy()
    config = TrainConfig(steps=200, batch_size=128, lr=4e-3, ema=0.98, warmup=20)
    result = fit(denoiser, sets, JointObjective(), config, out=tmp_path, progress=False)
    model = result.module
    both = sample(model, 300, steps=20, token_solver="random", seed=0)
    named = (both["point"].sum(1) > 0) == (both["word"][:, 0] == 1)
    assert bool((both["word"].sum(1) == 1).double().mean() > 0.95)
    assert float(named.double().mean()) > 0.9
    drawn = sample(model, 100, given={"word": torch.tensor([[1, 0]])}, steps=20, seed=1)["point"]
    assert float((drawn.sum(1) > 0).double().mean()) > 0.95
    told = sample(model, 100, given={"point": torch.tensor([[-1.0, -1.0]])}, steps=20, seed=2)["word"]
    assert float((told == torch.tensor([0, 1])).all(1).double().mean()) > 0.95


def test_absent_words_are_not_looked_at() -> None:
    denoiser, sets = toy()
    torch.nn.init.normal_(denoiser.network.head.weight)  # type: ignore[union-attr,arg-type]
    z = {"point": torch.randn(4, 2), "word": torch.tensor([[0, 1]] * 4)}
    other = z | {"word": torch.tensor([[2, 2]] * 4)}
    first, second = (denoiser(state, {"point": 0.4, "word": 1.0})["point"].v for state in (z, other))
    assert torch.equal(first, second)
    logs = JointObjective(joint=0.0, observed=0.0, absent=1.0)(denoiser, sets(Draw(0, 0, 16)), Draw(0, 0, 16))
    assert torch.isfinite(logs["loss"])  # type: ignore[arg-type]


def test_a_composer_reads_writes_and_fills_in_words(tmp_path: Path) -> None:
    denoiser, _ = toy()
    codec = Letters("b", 2)
    composer = Composer({"word": codec}, denoiser.eval(), {"steps": 4, "token_solver": "random"}, {"word": {"kind": "text"}, "point": {}})
    composer.save(tmp_path / "model")
    composer = Composer.load(tmp_path / "model")
    found = composer.sample(3, {"word": codec.write(["?b"])}, seed=1)
    assert bool((found["word"][:, 1] == ord("b")).all())
    assert bool((found["word"][:, 0] != ord("?")).all())
    (tmp_path / "word.txt").write_text("?b")
    files = generate(tmp_path / "model", tmp_path / "out", 2, {"word": tmp_path / "word.txt"})
    names = sorted(Path(f).name for f in files)
    assert names == ["0000_point.json", "0000_word.json", "0001_point.json", "0001_word.json"]
    assert int(read(tmp_path / "out" / "0000_word.json", "text", shape=(2,))[1]) == ord("b")
