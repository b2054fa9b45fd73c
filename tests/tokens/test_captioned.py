"""A reader of tokens beside a base law that is only read: against an enumerated joint law, and as a saved composer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polyscore.captioned import Captioned, Reading
from polyscore.codecs import Identity, Letters
from polyscore.composer import Composer
from polyscore.denoisers import count_evaluations
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.generate import generate
from polyscore.media import read
from polyscore.networks.mlp import JointDenoiser
from polyscore.oracles import MixtureDenoiser, TokenTableDenoiser
from polyscore.paths import VPSDE
from polyscore.sampling import sample
from polyscore.tokens import Absorbing, UniformReplace
from polyscore.training import Draw, Pairs
from polyscore.training.reading import ReadingObjective

torch.set_num_threads(1)
WORDS = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])
MEANS = torch.tensor([[-1.0, 0.0], [-0.6, 0.3], [1.0, 0.5], [0.9, -0.8]])
WEIGHTS = torch.tensor([0.4, 0.2, 0.1, 0.3])
N = 12_000


def table() -> TokenTableDenoiser:
    return TokenTableDenoiser({"point": VPSDE(), "word": Absorbing(3)}, {"word": WORDS}, WEIGHTS, {"point": MEANS}, 0.3)


def captioned(scale: float = 1.0) -> Captioned:
    base = MixtureDenoiser(MEANS, 0.3**2, {"point": VPSDE()}, WEIGHTS)
    return Captioned(base, table(), "word", scale)


def shares(words: Tensor) -> Tensor:
    same = (words[:, None] == WORDS).all(-1).double().mean(0)
    return torch.cat([same, 1 - same.sum()[None]])


def apart(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - torch.cat([q.double(), torch.zeros(1)])).abs().sum())


def test_the_reading_is_the_likelihood_of_the_visible_tokens() -> None:
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    clocks = {"point": 0.4, "word": 0.5}
    words = torch.tensor([[0, 0], [0, 1], [0, 3], [3, 2], [3, 3], [2, 2], [1, 3], [3, 1], [1, 2]])
    share = table().log_likelihood({"point": z, "word": torch.full_like(words, 3)}, clocks | {"word": 1.0}).softmax(1)
    fits = ((words[:, None] == WORDS) | (words[:, None] == 3)).all(-1)
    exact = (share * fits).sum(1).log()
    torch.testing.assert_close(Reading(table(), "word")({"point": z, "word": words}, clocks), exact)


def test_the_joint_law_and_all_conditionals() -> None:
    model = captioned()
    both = sample(model, N, steps=40, token_solver="random", seed=1)
    assert apart(shares(both["word"]), WEIGHTS) < 0.02
    for word, centre in zip(WORDS, MEANS, strict=True):
        here = both["point"][(both["word"] == word).all(1)].double()
        torch.testing.assert_close(here.mean(0), centre.double(), atol=0.06, rtol=0)
        torch.testing.assert_close(here.std(0), torch.full((2,), 0.3).double(), atol=0.06, rtol=0)
        drawn = sample(model, 3000, given={"word": word[None]}, steps=20, seed=2)["point"].double()
        torch.testing.assert_close(drawn.mean(0), centre.double(), atol=0.03, rtol=0)
    point = torch.tensor([[-0.75, 0.2]])
    exact = table().log_likelihood({"point": point, "word": torch.full((1, 2), 3)}, {"point": 0.0, "word": 1.0}).softmax(1)[0]
    told = sample(model, N, given={"point": point}, steps=4, token_solver="random", seed=3)["word"]
    assert apart(shares(told), exact) < 0.02


def test_a_scale_of_nothing_leaves_the_base_alone() -> None:
    z = {"point": torch.randn(5, 2), "word": WORDS[[0, 1, 2, 3, 0]]}
    t = {"point": 0.5, "word": 0.2}
    plain, none, pulled = captioned().denoiser({"point": z["point"]}, t), captioned(0.0)(z, t), captioned(2.0)(z, t)
    assert torch.equal(none["point"].eps, plain["point"].eps)  # type: ignore[union-attr]
    assert not torch.equal(pulled["point"].eps, plain["point"].eps)  # type: ignore[union-attr]
    model = captioned()
    with count_evaluations(model) as seen:
        model(z | {"word": torch.full_like(z["word"], 3)}, {"point": 0.5, "word": 1.0})
    assert (seen.calls, seen.rows) == (2, 10)
    assert captioned(2.0).approximations and not model.approximations
    with pytest.raises(PolyscoreError, match="masked token modality"):
        Captioned(model, table(), "word")
    odd = TokenTableDenoiser({"word": UniformReplace(3)}, {"word": WORDS})
    with pytest.raises(PolyscoreError, match="masked token modality"):
        Captioned(captioned().denoiser, odd, "word")


def small(folder: Path) -> Composer:
    """A base model on disk, and a composer that adds letters to it."""
    torch.manual_seed(0)
    base = Composer({"point": Identity((2,))}, JointDenoiser({"point": (2,)}, width=8, depth=1, hidden=8, embed=8).eval(), {"steps": 3})
    base.save(folder / "base")
    reader = JointDenoiser({"point": (2,), "word": (2,)}, width=8, depth=1, hidden=8, embed=8, vocabularies={"word": 3}).eval()
    torch.nn.init.normal_(reader.network.head.weight)  # type: ignore[union-attr,arg-type]
    codecs = {**base.codecs, "word": Letters("ab", 2)}
    media = {"point": {}, "word": {"kind": "text"}}
    model = Composer(codecs, Captioned(base.denoiser, reader, "word", 2.0), {"steps": 3}, media, {}, str(folder / "base"))
    model.save(folder / "model")
    return model


def test_a_composer_on_top_of_another_is_saved_without_it(tmp_path: Path) -> None:
    model = small(tmp_path)
    assert {f.name for f in (tmp_path / "model").glob("*.safetensors")} == {"denoiser.safetensors", "word.safetensors"}
    again = Composer.load(tmp_path / "model")
    assert again.modalities == ("point", "word")
    for name, value in model.sample(4, seed=3).items():
        assert torch.equal(again.sample(4, seed=3)[name], value)
    generate(tmp_path / "model", tmp_path / "out", 2, {"word": "a?"})
    assert int(read(tmp_path / "out" / "0000_word.json", "text", shape=(2,))[0]) == ord("a")
    header = json.loads((tmp_path / "model" / "composer.json").read_text())
    for change, words in (
        ({"base": {"model": str(tmp_path / "base"), "codecs": "0"}}, "train it again"),
        ({"base": {"codecs": "0"}}, "expected a base with a model's name"),
        ({"captioned": {"name": "point"}}, "masked token modality"),
        ({"captioned": {"colour": 1}}, "not a composer"),
        ({"captioned": None}, "how it is used"),
    ):
        (tmp_path / "model" / "composer.json").write_text(json.dumps(header | change))
        with pytest.raises(CheckpointError, match=words):
            Composer.load(tmp_path / "model")


def test_the_readers_objective_looks_at_masked_letters_only() -> None:
    reader = JointDenoiser({"point": (2,), "word": (2,)}, width=8, depth=1, hidden=8, embed=8, vocabularies={"word": 3})
    sets = Pairs({"point": (MEANS, torch.arange(4)), "word": (WORDS, torch.arange(4))})
    first = ReadingObjective()(reader, sets(Draw(0, 0, 64)), Draw(0, 0, 64))
    # an untrained head says 1/3 for each, and at a random time two rows of three have something masked
    assert float(first["loss"].detach()) == pytest.approx(2 / 3 * math.log(3), rel=0.1)
    posteriors = torch.stack([MEANS, torch.full_like(MEANS, 0.1)], 1)
    sets = Pairs({"point": (posteriors, torch.arange(4)), "word": (WORDS, torch.arange(4))})
    assert torch.isfinite(ReadingObjective(observed=0.5)(reader, sets(Draw(0, 1, 16)), Draw(0, 1, 16))["loss"])
