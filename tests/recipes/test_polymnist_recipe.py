"""The PolyMNIST recipe from data to table, tiny, on scikit-learn's digits."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from polyscore.checkpoint import load_module
from polyscore.cli import main
from polyscore.composer import Composer
from polyscore.data.digits import load_sklearn_digits
from polyscore.data.polymnist import load_polymnist
from polyscore.guided import Guided
from polyscore.ratios.contrastive import Contextual
from polyscore.ratios.energy import PairEnergy
from polyscore.ratios.subset import SubsetGuided
from polyscore.recipes.polymnist import joint as recipe
from polyscore.recipes.polymnist.codecs import train_poly_codec, train_poly_judge
from polyscore.recipes.polymnist.evaluate import PolyTest, evaluate_poly, subsets
from polyscore.recipes.polymnist.joint import Network, drop, encode_all, train_poly_energy, train_poly_joint
from polyscore.recipes.polymnist.tables import guided_by
from polyscore.recipes.tables import read_table
from polyscore.training import TrainConfig

TINY = TrainConfig(steps=4, batch_size=16, warmup=1, checkpoint_every=4, log_every=4)
SMALL = Network(width=16, depth=1, hidden=16, embed=16, marginal_width=8, marginal_depth=1)
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with MNIST-like data, three codecs, a judge, two Composers and energies."""
    root = tmp_path_factory.mktemp("poly")
    (root / "digits").mkdir()
    parts = {}
    for split in ("train", "test"):
        digits = load_sklearn_digits(split)
        parts[f"{split}_images"] = (digits.x[:200, 0] * 255).byte().numpy()
        parts[f"{split}_labels"] = digits.labels[:200].byte().numpy()
    np.savez(root / "digits" / "mnist.npz", **parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "MARGINAL_TRAINING", TINY)
        patch.setattr(recipe, "ENCODER_TRAINING", replace(TINY, batch_size=2))
        for name in ("m0", "m1", "m2"):
            train_poly_codec(name, root / "codecs", 3, None, str(root), latent=4, widths=(16,), config=TINY, **QUIET)
        train_poly_judge(root, 3, None, str(root), TINY, **QUIET)
        common = {"modalities": 3, "data": str(root), "network": SMALL, "config": TINY, **QUIET}
        train_poly_joint(root / "codecs", root / "plain", **common)
        train_poly_joint(root / "codecs", root / "told", missing=0.4, contrastive=6, marginals=root / "plain" / "marginals", **common)
    train_poly_energy(root / "plain", root / "energy", 3, None, str(root), width=8, config=TINY, **QUIET)
    return root


def test_another_modality_retrains_nothing(made):
    """Training one more autoencoder leaves the files of the others byte for byte as they were."""
    folder = made / "codecs"
    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir() if file.is_file()}
    assert set(before) == {f"m{i}.{s}" for i in range(3) for s in ("json", "safetensors")}
    train_poly_codec("m3", folder, 4, None, str(made), latent=4, widths=(16,), config=TINY, **QUIET)
    after = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir() if file.is_file()}
    assert {name: after[name] for name in before} == before and len(after) == 8
    first, second = (load_polymnist("train", m, None, made) for m in (3, 4))
    assert first.names == second.names[:3]
    for name in ("m3.json", "m3.safetensors"):
        (folder / name).unlink()


def test_composers_hold_what_was_trained(made):
    plain, told = Composer.load(made / "plain"), Composer.load(made / "told")
    assert isinstance(plain.denoiser, SubsetGuided) and isinstance(told.denoiser.denoiser, Contextual)
    assert plain.meta["missing"] == 0.0 and told.meta["missing"] == 0.4
    own, shared = plain.denoiser.marginals.state_dict(), told.denoiser.marginals.state_dict()
    assert all(torch.equal(own[k], shared[k]) for k in own)
    result = plain.sample(3, seed=1)
    assert result["m2"].shape == (3, 3, 28, 28) and result.info["evaluations_per_sample"] == 6 + 2 * 7


def test_missing_modalities_are_drawn_but_never_all():
    masks = torch.stack(list(drop(["a", "b", "c"], 20_000, 0.6, 0).values()), 1)
    assert not masks.all(1).any()
    expected = (0.6 - 0.6**3 / 3) * 3
    assert masks.float().sum(1).mean().item() == pytest.approx(expected, abs=0.02)
    assert drop(["a"], 5, 0.0, 0) == {}


def test_every_subset_is_measured(made):
    test = PolyTest.load(made / "judge", 3, None, str(made), size=100)
    found = evaluate_poly(Composer.load(made / "plain"), test, 40, seed=1, steps=2)
    assert {"given 1", "given 2", "given 2 frechet", "all agree", "at least 2 agree", "joint frechet", "evaluations"} <= set(found)
    assert found["evaluations"] == 6 + 2 * 2 and all(np.isfinite(v) for v in found.values())
    assert 0 <= found["all agree"] <= found["at least 2 agree"] <= 1
    assert subsets(["a", "b", "c"], 2) == [["a", "b"], ["b", "c"], ["c", "a"]]


def test_a_perfect_generator_is_found_perfect(made):
    """Latents of the true tuples in place of generated ones give what the autoencoders alone give."""
    test = PolyTest.load(made / "judge", 3, None, str(made), size=100)
    test.train = None
    composer = Composer.load(made / "plain")

    class Perfect(Composer):
        def sample_latents(self, n, *, given=None, partly=None, seed=0, **options):
            result = composer.sample_latents(n, seed=seed, steps=1)
            latents = encode_all(self.codecs, test.data)
            rows = test.rows(n, seed)
            return type(result)({name: value[rows, 0] for name, value in latents.items()}, result.info)

    found = evaluate_poly(Perfect(composer.codecs, composer.denoiser), test, 40, seed=1)
    assert found["given 1"] == pytest.approx(found["recognised rebuilt"], abs=1e-6)
    assert found["given 2 frechet"] == pytest.approx(found["frechet rebuilt"], rel=1e-3)


def test_energies_guide(made):
    composer, energy = Composer.load(made / "plain"), load_module(made / "energy" / "energy", PairEnergy)
    guided = guided_by(composer.denoiser, 0.5, energy=energy, scale=2.0)
    assert isinstance(guided, Guided) and guided.denoiser.strength == 0.5
    assert guided_by(composer.denoiser).strength == composer.denoiser.strength


def test_commands(made, tmp_path, capsys):
    table = tmp_path / "table.json"
    assert main(["evaluate", "sbm-polymnist", "--models", f"[{made / 'plain'}, {made / 'plain'}]", "--judge", str(made / "judge"),
                 "--out", str(table), "--modalities", "3", "--data", str(made), "--n", "30", "--steps", "2", "--guidance", "1.0",
                 "--energy", str(made / "energy" / "energy"), "--scale", "0.5"]) == 0  # fmt: skip
    found = read_table(table)
    rows = {row["measure"]: row for row in found["rows"]}
    assert len(rows["given 1"]["values"]) == 2 and rows["given 1"]["reach"] == ">= 0.85" and rows["given 2"]["met"] in (True, False)
    assert found["protocol"]["guidance"] == 1.0 and found["protocol"]["options"]["steps"] == 2
    assert main(["train", "sbm-codec", "--modality", "m9", "--data", str(made), "--out", str(tmp_path)]) == 2
    assert "m9" in capsys.readouterr().err
