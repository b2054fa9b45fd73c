"""Token codecs and the transformer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import VQ, ForeignTokens
from polyscore.codecs.vq import Codebook, codebook_use
from polyscore.composer import Composer
from polyscore.errors import CheckpointError, DataError, PolyscoreError
from polyscore.networks.transformer import TokenDenoiser, TokenTransformer, preset
from polyscore.product import Product, Term
from polyscore.sampling import sample
from polyscore.training import Draw
from polyscore.training.vq import VQObjective

torch.set_num_threads(1)


def test_pictures_and_sounds_as_tokens(tmp_path: Path) -> None:
    for shape, strides, grid in (((1, 8, 8), (2, 2), (2, 2)), ((256,), (2, 4, 2), (16,))):
        codec = VQ(shape, codes=12, size=4, width=8, strides=strides, depth=2, growth=3, activation="identity").eval()
        assert codec.grid == grid
        x = torch.randn(3, *shape)
        tokens = codec.encode(x)
        assert tokens.shape == (3, codec.latent_shape[0])
        assert tokens.dtype == torch.int64
        assert codec.decode(tokens).shape == x.shape
        save_module(codec, tmp_path / "codec")
        assert torch.equal(load_module(tmp_path / "codec", VQ).encode(x), tokens)
        with pytest.raises(DataError, match="expected 0 to 11, found 12"):
            codec.decode(torch.full_like(tokens, 12))
    with pytest.raises(PolyscoreError, match="hop 4"):
        VQ((1, 6, 6))


def test_training_uses_the_whole_codebook() -> None:
    """Four kinds of patches, sixteen codes that start far away: reconstruction improves and dead codes come to life."""
    torch.manual_seed(0)
    kinds = torch.rand(4, 1, 4, 4)
    codec = VQ((1, 8, 8), codes=16, size=4, width=8)
    codec.codebook.codes += 50
    codec.codebook.decay = 0.8
    objective = VQObjective("x", "square")
    optimiser = torch.optim.AdamW(codec.parameters(), 5e-3)
    losses = []
    for step in range(60):
        draw = Draw(0, step, 32)
        x = kinds[draw.integers(4, 2, 2)].permute(0, 3, 1, 4, 2, 5).reshape(32, 1, 8, 8) + 0.1 * draw.normal(1, 8, 8)
        found = objective(codec, {"x": x}, draw)
        optimiser.zero_grad()
        found["loss"].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(found["distortion"]))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    used = codebook_use(codec.encode(x), 16)
    assert used["codes used"] > 0.24
    assert used["perplexity"] > 2.5


def test_codes_are_means_of_what_they_stand_for() -> None:
    book = Codebook(2, 1, decay=0.5)
    book.codes[:, 0] = book.total[:, 0] = torch.tensor([0.0, 10.0])
    book.count += 1
    u = torch.tensor([[1.0], [3.0], [9.0], [11.0]])
    for _ in range(30):
        revived = book.learn(u, book.nearest(u), torch.zeros(2))
    assert book.codes[:, 0].tolist() == pytest.approx([2.0, 10.0], abs=1e-3)
    assert float(revived) == 0
    for _ in range(60):
        book.learn(u[:2], book.nearest(u[:2]), torch.full((2,), 0.9))
    assert float(book.codes.max()) < 9


def test_losses_of_sounds() -> None:
    for distortion in ("absolute", "square", "spectral"):
        codec = VQ((1024,), codes=8, size=4, width=4, strides=(4, 4), activation="identity")
        found = VQObjective("x", distortion)(codec, {"x": torch.randn(2, 1024)}, Draw(0, 0, 2))  # type: ignore[arg-type]
        found["loss"].backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(found["loss"])


def test_diffusers_models_are_codecs(tmp_path: Path) -> None:
    """The model's own reconstruction in [0, 1]; alone and in a Composer it is saved with its weights and loaded without the model."""
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
        num_vq_embeddings=20,
    ).eval()
    codec = ForeignTokens.of_diffusers(model, 16)
    x = torch.rand(2, 1, 16, 16)
    tokens = codec.encode(x)
    assert tokens.shape == (2, 64)
    assert codec.grid == (8, 8)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(tokens), (model(2 * x - 1).sample / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match="expected 0 to 19"):
        codec.decode(torch.full_like(tokens, 20))
    save_module(codec, tmp_path / "codec")
    again = load_module(tmp_path / "codec", ForeignTokens)
    assert torch.equal(again.encode(x), tokens)
    assert torch.equal(again.decode(tokens), codec.decode(tokens))
    denoiser = TokenDenoiser("image", changes={"vocabulary": 20, "grid": [8, 8], "width": 16, "depth": 1, "heads": 2}).eval()
    composer = Composer({"image": codec}, denoiser, {"steps": 2}, {"image": {"kind": "image"}})
    found = Composer.load(composer.save(tmp_path / "model")).sample(2, seed=1)["image"]
    assert torch.equal(found, composer.sample(2, seed=1)["image"])


class Halves:
    """One token a half of four numbers: whether it is positive."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, 2, 2).mean(2) > 0).int()

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        return (2.0 * tokens - 1).repeat_interleave(2, 1)


def test_any_model_with_a_codebook_is_a_codec(tmp_path: Path) -> None:
    codec = ForeignTokens(Halves(), (4,), (2,), 2)
    x = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert codec.encode(x).tolist() == [[1, 0]]
    assert torch.equal(codec.decode(codec.encode(x)), x)
    with pytest.raises(CheckpointError, match="cannot store a Halves: expected a class registered"):
        save_module(codec, tmp_path / "codec")
    with pytest.raises(PolyscoreError, match="found int without encode"):
        ForeignTokens(3, (4,), (2,), 2)
    with pytest.raises(PolyscoreError, match=r"Halves\.encode: expected integer tokens of shape \(1, 3\)"):
        ForeignTokens(Halves(), (4,), (3,), 2).encode(x)


@pytest.mark.parametrize(("name", "millions"), [("dance", 407.6), ("text", 36.2), ("class", 518.0), ("small", 0.1642)])
def test_presets_have_the_papers_sizes(name: str, millions: float) -> None:
    """Counted from the authors' configurations: 406, 35.8 and 518 million (what goes through the condition differs)."""
    with torch.device("meta"):
        count = sum(p.numel() for p in preset(name).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_conditions_of_several_modalities_with_masks() -> None:
    torch.manual_seed(0)
    network = TokenTransformer("x", 5, (6,), width=16, depth=2, heads=2, conditions={"motion": (4, 3), "mood": (1, 2)})
    z, t = {"x": torch.randint(6, (2, 6))}, {"x": torch.tensor([0.3, 0.6])}
    motion, mood = torch.randn(2, 4, 3), torch.randn(2, 2)
    both = network(z, t, {"motion": motion, "mood": mood})["x"]
    assert both.shape == (2, 6, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    hidden = network(z, t, {"motion": motion, "motion_mask": mask, "mood": mood})["x"]
    changed = motion.clone()
    changed[0, 2:] += 9
    again = network(z, t, {"motion": changed, "motion_mask": mask, "mood": mood})["x"]
    torch.testing.assert_close(hidden, again)
    assert not torch.allclose(hidden[0], both[0])
    torch.testing.assert_close(hidden[1], both[1])
    none = network(z, t, None)["x"]
    assert torch.isfinite(none).all()
    with pytest.raises(PolyscoreError, match="expected one of motion, mood"):
        network(z, t, {"smell": motion})


def test_two_dimensional_positions_and_convolutions() -> None:
    network = TokenTransformer("x", 5, (2, 3), width=16, depth=1, heads=2, feed="conv", steps=10, classes=4, class_norm=True)
    z, t = {"x": torch.zeros(3, 6).long()}, {"x": torch.tensor([0.1, 0.5, 1.0])}
    found = network(z, t, torch.tensor([0, -1, 3]))["x"]
    assert found.shape == (3, 6, 5)
    assert not torch.allclose(found[:, 0], found[:, 1])


def test_a_denoiser_saves_and_guides(tmp_path: Path) -> None:
    model = TokenDenoiser("x", changes={"vocabulary": 5, "grid": [2, 2], "width": 16, "depth": 1, "heads": 2, "classes": 3}).eval()
    save_module(model, tmp_path / "model")
    again = load_module(tmp_path / "model", TokenDenoiser)
    labels = torch.tensor([0, 1, 2, 0])
    first = sample(model, 4, condition=labels, steps=4, seed=1)["x"]
    assert torch.equal(first, sample(again, 4, condition=labels, steps=4, seed=1)["x"])
    guided = Product([Term(model, labels, 2.0, null=torch.tensor(-1))])
    found = sample(guided, 4, steps=4, seed=1)
    assert found["x"].shape == (4, 4)
    assert found.info["evaluations_per_sample"] == 8


def test_the_network_sees_the_caption_in_every_norm() -> None:
    torch.manual_seed(0)
    changes = {"vocabulary": 8, "classes": 0, "conditions": {"text": [3, 4]}, "source": 8, "pooled": True}
    denoiser = TokenDenoiser("tokens", changes=changes).eval()
    network = denoiser.network
    for block in network.blocks:
        torch.nn.init.zeros_(block.cross.out.weight)
    z, t = {"tokens": torch.randint(8, (2, 49))}, {"tokens": torch.full((2,), 0.5)}
    one, two = (network(z, t, {"text": torch.eye(4)[torch.tensor([[0, word, 1]] * 2)]})["tokens"] for word in (2, 3))
    assert float((one - two).detach().abs().max()) > 1e-6
    masked = torch.tensor([[True, False, True]] * 2)
    one, two = (network(z, t, {"text": torch.eye(4)[torch.tensor([[0, word, 1]] * 2)], "text_mask": masked})["tokens"] for word in (2, 3))
    torch.testing.assert_close(one, two)
    with pytest.raises(PolyscoreError, match="pooled: expected conditions"):
        TokenDenoiser("tokens", changes={"pooled": True})
