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
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.networks.alone import MarginalDenoiser
from polyscore.networks.mixture import JointMixture
from polyscore.ratios.contrastive import Contextual
from polyscore.ratios.discriminator import Discriminator
from polyscore.ratios.energy import PairEnergy
from polyscore.ratios.subset import SubsetGuided
from polyscore.recipes import latents
from polyscore.recipes.latents import Mixture, shared_groups
from polyscore.recipes.polymnist import joint as recipe
from polyscore.recipes.polymnist.codecs import train_poly_codec, train_poly_judge
from polyscore.recipes.polymnist.evaluate import PolyTest, evaluate_poly, subsets
from polyscore.recipes.polymnist.guides import Energies, Opponent, train_poly_discriminator, train_poly_energy
from polyscore.recipes.polymnist.joint import Network, drop, encode_all, train_poly_joint
from polyscore.recipes.polymnist.tables import guided_by
from polyscore.recipes.polymnist.timing import time_table
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
        patch.setattr(latents, "ENCODER_TRAINING", replace(TINY, batch_size=2))
        for name in ("m0", "m1", "m2"):
            train_poly_codec(name, root / "codecs", 3, None, str(root), latent=4, widths=(16,), components=12, config=TINY, **QUIET)
        train_poly_judge(root, 3, None, str(root), TINY, **QUIET)
        common = {"modalities": 3, "data": str(root), "network": SMALL, "config": TINY, **QUIET}
        train_poly_joint(root / "codecs", root / "plain", **common)
        train_poly_joint(root / "codecs", root / "told", missing=0.4, contrastive=6, marginals=root / "plain" / "marginals", **common)
    train_poly_energy(root / "plain", root / "energy", 3, None, str(root), energies=Energies(8, 2.0), config=TINY, **QUIET)
    return root


def test_another_modality_retrains_nothing(made):
    """Training one more autoencoder leaves the files of the others byte for byte as they were."""
    folder = made / "codecs"
    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir() if file.is_file()}
    assert set(before) == {f"m{i}.{s}" for i in range(3) for s in ("json", "safetensors")}
    train_poly_codec("m3", folder, 4, None, str(made), latent=4, widths=(16,), components=12, config=TINY, **QUIET)
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
    assert result["m2"].shape == (3, 3, 28, 28) and result.info["evaluations_per_sample"] == 4 + 9 + 7


def test_missing_modalities_are_drawn_but_never_all():
    masks = torch.stack(list(drop(["a", "b", "c"], 20_000, 0.6, 0).values()), 1)
    assert not masks.all(1).any()
    expected = (0.6 - 0.6**3 / 3) * 3
    assert masks.float().sum(1).mean().item() == pytest.approx(expected, abs=0.02)
    assert drop(["a"], 5, 0.0, 0) == {} == drop(["a"], 5, {"a": 0.0}, 0)


def test_every_modality_may_have_its_own_share_missing():
    found = drop(["a", "b", "c"], 20_000, {"a": 0.5, "c": 1.0}, 0)
    assert found["a_missing"].float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert not found["b_missing"].any() and found["c_missing"].all()
    both = torch.stack(list(drop(["a", "b"], 1000, {"a": 0.5, "b": 1.0}, 0).values()), 1)
    assert both[:, 1].all() and not both[:, 0].any()  # b is never there, so a always is
    for wrong, words in (({"z": 0.1}, "missing modality 'z': expected one of a, b"), (1.0, "not all 1"), ({"a": -0.1}, "shares in")):
        with pytest.raises(PolyscoreError, match=words):
            drop(["a", "b"], 5, wrong, 0)


def test_every_subset_is_measured(made):
    test = PolyTest.load(made / "judge", 3, None, str(made), size=100)
    found = evaluate_poly(Composer.load(made / "plain"), test, 40, seed=1, steps=2)
    assert {"given 1", "given 2", "given 2 frechet", "all agree", "at least 2 agree", "joint frechet", "evaluations"} <= set(found)
    assert found["evaluations"] == 4 + 9 + 7 and all(np.isfinite(v) for v in found.values())
    assert 0 <= found["all agree"] <= found["at least 2 agree"] <= 1
    few = evaluate_poly(Composer.load(made / "plain"), test, 40, seed=1, steps=2, observed=(2,))
    assert few["given 2"] == found["given 2"] and not {"given 1", "half a picture"} & set(few)
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


def test_energies_are_saved_with_the_composer_that_they_guide(made, tmp_path):
    """`train sbm-energy` ends in a Composer; what is missing and how the energies guide are its options, and saved."""
    command = ["train", "sbm-energy", "--model", made / "plain", "--out", tmp_path / "c", "--modalities", 3, "--data", made]
    options = ["--missing", "m0=0.5", "m2=0.3", "--energies.width", 8, "--energies.scale", 1.5, "--energies.pairs", "all"]
    options += ["--energies.reduction", "sum", "--objective.negatives", "both", "--training.steps", 3, "--training.batch_size", 16]
    assert main([str(a) for a in [*command, *options]]) == 0
    guided = Composer.load(tmp_path / "c")
    ratio = guided.denoiser.ratio
    assert isinstance(guided.denoiser, Guided) and isinstance(ratio, PairEnergy) and isinstance(guided.denoiser.denoiser, SubsetGuided)
    assert (ratio.pairs, ratio.reduction, guided.denoiser.scale["m1"]) == ("all", "sum", 1.5)
    assert guided.meta["energy"]["missing"] == {"m0": 0.5, "m2": 0.3}
    alone = load_module(tmp_path / "c" / "energy", PairEnergy)
    assert all(torch.equal(v, ratio.state_dict()[k]) for k, v in alone.state_dict().items())
    assert main(["sample", "--model", str(tmp_path / "c"), "--n", "1", "--out", str(tmp_path / "made")]) == 0
    assert main([str(a) for a in [*command, "--missing", "m9=0.5"]]) == 2


@pytest.mark.parametrize(("network", "base"), [("mlp", "joint"), ("twins", "marginals")])
def test_a_discriminator_guides_the_composer(made, tmp_path, network, base):
    """Real tuples against the Composer's own samples, over all modalities; any subset may be given to the guided Composer."""
    command = ["train", "sbm-discriminator", "--model", made / "plain", "--out", tmp_path / "d", "--modalities", 3, "--data", made]
    options = [
        f"--opponent.{k}={v}" for k, v in {"network": network, "base": base, "width": 8, "fakes": 24, "steps": 2, "scale": 2.0}.items()
    ]
    assert main([str(a) for a in [*command, *options, "--training.steps", 3, "--training.batch_size", 16]]) == 0
    found, plain = Composer.load(tmp_path / "d"), Composer.load(made / "plain")
    assert isinstance(found.denoiser.ratio, Discriminator) and found.denoiser.scale["m0"] == 2.0
    assert type(found.denoiser.denoiser) is (SubsetGuided if base == "joint" else MarginalDenoiser)
    assert found.denoiser.ratio.apart and "leaders" not in found.defaults
    given = {name: torch.zeros(1, 4) for name in ("m0", "m2")}
    made_, other = (c.sample_latents(2, given=given, seed=0, steps=2, leaders=None)["m1"] for c in (found, plain))
    assert made_.isfinite().all() and not torch.equal(made_, other)
    assert found.sample(2, seed=0)["m2"].shape == (2, 3, 28, 28)


def test_a_discriminator_against_marginals_needs_them(made, tmp_path):
    composer = Composer.load(made / "plain")
    Composer(composer.codecs, composer.denoiser.denoiser, {"steps": 2}).save(tmp_path / "bare")
    with pytest.raises(PolyscoreError, match="expected a Composer with marginals"):
        train_poly_discriminator(tmp_path / "bare", tmp_path / "d", 3, None, str(made), Opponent(base="marginals"), TINY, **QUIET)


def test_energies_are_measured_beside_what_is_told(made, tmp_path):
    command = ["evaluate", "sbm-energy", "--plain", made / "plain", "--told", made / "told", "--energy", made / "energy" / "energy"]
    options = ["--judge", made / "judge", "--out", tmp_path / "t.json", "--modalities", 3, "--data", made, "--n", 20, "--steps", 2]
    assert main([str(a) for a in [*command, *options, "--seeds", "[0, 1]", "--scale", 3.0]]) == 0
    rows = {row["measure"]: row for row in read_table(tmp_path / "t.json")["rows"]}
    assert {f"{case}: {name}" for case in ("plain", "-C", "-C, all pairs", "-T", "-TC") for name in ("given 2", "all agree")} <= set(rows)
    assert len(rows["-TC: given 1"]["values"]) == 2 and rows["-C: evaluations"]["mean"] == 2


def test_commands(made, tmp_path, capsys):
    table = tmp_path / "table.json"
    assert main(["evaluate", "sbm-polymnist", "--models", f"[{made / 'plain'}, {made / 'plain'}]", "--judge", str(made / "judge"),
                 "--out", str(table), "--modalities", "3", "--data", str(made), "--n", "30", "--steps", "2", "--guidance", "1.0",
                 "--energy", str(made / "energy" / "energy"), "--scale", "0.5"]) == 0  # fmt: skip
    found = read_table(table)
    rows = {row["measure"]: row for row in found["rows"]}
    assert len(rows["given 1"]["values"]) == 2 and rows["given 1"]["reach"] == ">= 0.85" and rows["given 2"]["met"] in (True, False)
    gain = rows["given 2"]["mean"] - rows["given 1"]["mean"]
    assert rows["one more observed: least gain of coherence"]["values"] == pytest.approx([gain])
    assert found["protocol"]["guidance"] == 1.0 and found["protocol"]["options"]["steps"] == 2
    assert main(["train", "sbm-codec", "--modality", "m9", "--data", str(made), "--out", str(tmp_path)]) == 2
    assert "m9" in capsys.readouterr().err


def test_decoders_are_tuned_into_another_composer(made, tmp_path):
    command = [
        "train",
        "sbm-decoders",
        "--model",
        str(made / "plain"),
        "--out",
        str(tmp_path / "tuned"),
        "--modalities",
        "3",
        "--data",
        str(made),
    ]
    assert main([*command, "--training.steps", "2", "--training.batch_size", "4", "--objective.steps", "2"]) == 0
    before, after = Composer.load(made / "plain"), Composer.load(tmp_path / "tuned")
    for name in ("m0", "m1", "m2"):
        one, two = (c.codecs[name].state_dict() for c in (before, after))
        changed = {key for key in one if not torch.equal(one[key], two[key])}
        assert all("decoder" in key for key in changed)
    assert all(torch.equal(v, after.denoiser.state_dict()[k]) for k, v in before.denoiser.state_dict().items())
    assert after.meta["decoders"]["training"]["steps"] == 2


def test_time_against_the_number_of_modalities(tmp_path):
    rows = {row.measure: row for row in time_table(tmp_path / "time.json", (2, 3), 2, 1, Mixture(2, 2))}
    assert rows["evaluations of a joint sample of 3 modalities"].values == [8]
    assert rows["time with 3 modalities over time with 2"].reach == ("<=", 1.5) and rows["seconds for 2 samples of 2 modalities"].mean > 0
    assert read_table(tmp_path / "time.json")["protocol"]["command"] == "polyscore evaluate sbm-time"
    options = ["--numbers", "[2]", "--n", "2", "--repeats", "1", "--network", "true", "--out", str(tmp_path / "network.json")]
    assert main(["evaluate", "sbm-time", *options]) == 0
    assert read_table(tmp_path / "network.json")["protocol"]["joint law"]["network"]["width"] == 384


def test_a_refiner_joins_a_composer(made, tmp_path, capsys):
    command = [
        "train",
        "sbm-refiner",
        "--modality",
        "m1",
        "--model",
        str(made / "plain"),
        "--out",
        str(tmp_path / "fine"),
        "--modalities",
        "3",
    ]
    small = ["--data", str(made), "--width", "8", "--training.steps", "2", "--training.batch_size", "4"]
    assert main([*command, *small]) == 0
    composer = Composer.load(tmp_path / "fine")
    assert list(composer.refiners) == ["m1"] and composer.meta["m1 refiner"]["steps"] == 2
    rough, fine = (composer.sample(2, seed=0, refine=r) for r in (0, 2))
    assert torch.equal(rough["m0"], fine["m0"]) and not torch.equal(rough["m1"], fine["m1"])
    assert main(["sample", "--model", str(tmp_path / "fine"), "--n", "1", "--refine", "2", "--out", str(tmp_path / "made")]) == 0
    compare = ["evaluate", "sbm-compare", "--judge", made / "judge", "--out", tmp_path / "c.json", "--modalities", 3, "--data", made]
    compare += ["--models.rough", made / "plain", "--models.fine", tmp_path / "fine", "--n", 20, "--refine", 2, "--seeds", "[0, 1]"]
    compare += ["--leaders", "false"]
    assert main([str(a) for a in compare]) == 0
    found = read_table(tmp_path / "c.json")
    rows, used = {row["measure"]: row["values"] for row in found["rows"]}, found["protocol"]["compared"]
    assert rows["rough: given 1 frechet"] != rows["fine: given 1 frechet"] and len(rows["rough: all agree"]) == 2
    assert used["fine"]["refine"] == 2 and not {"refine", "leaders", "rest", "again"} & set(used["rough"])
    assert main(["train", "sbm-refiner", "--modality", "m7", *command[4:], *small]) == 2
    assert "modality 'm7': expected one of m0, m1, m2" in capsys.readouterr().err


def test_sweep(made, tmp_path):
    command = [
        "evaluate",
        "sbm-sweep",
        "--model",
        str(made / "plain"),
        "--judge",
        str(made / "judge"),
        "--out",
        str(tmp_path / "sweep.json"),
    ]
    options = ["--steps", "[2]", "--guidance", "[0.0]", "--paper", "[3]", "--modalities", "3", "--data", str(made), "--n", "20"]
    assert main([*command, *options]) == 0
    rows = {row["measure"]: row["mean"] for row in read_table(tmp_path / "sweep.json")["rows"]}
    assert rows["2 steps: evaluations"] == 4 + 9 + 7 and rows["guidance 0: evaluations"] == 4 + 5 + 4
    assert rows["3 steps of the paper's sampler: evaluations"] == 6
    assert {"2 steps: given 2", "guidance 0: all agree", "3 steps of the paper's sampler: given 1 frechet"} <= set(rows)


class Naming(torch.nn.Module):
    """Stands in for an encoder: the sign of the latents of what is there."""

    def mean(self, z, seen):
        parts = torch.stack([z[name].sign() * seen[name][:, None] for name in z])
        return parts.sum(0) / torch.stack(list(seen.values())).sum(0)[:, None]


def test_groups_are_what_the_modalities_share():
    """Clusters of the mean embedding are the classes, up to their names, whatever is missing."""
    labels = torch.arange(400) % 2
    latents = {name: torch.stack([2.0 * labels[:, None] - 1, torch.ones(400, 1)], 1) for name in ("a", "b")}
    latents["b"][:50, 0] *= -1  # wrong, but missing
    here = {"a": torch.ones(400, dtype=torch.bool), "b": torch.arange(400) >= 50}
    found = shared_groups(Naming(), latents, here, 2)
    assert torch.equal(found, labels) or torch.equal(found, 1 - labels)
    told = shared_groups(Naming(), latents, dict.fromkeys("ab", here["a"]), 2)
    assert not torch.equal(told, labels) and not torch.equal(told, 1 - labels)


def test_a_mixture_is_fitted_sampled_and_measured(made, tmp_path, capsys):
    arguments = ["--codecs", made / "codecs", "--data", made, "--modalities", 3, "--encoder", made / "told" / "encoder"]

    def train(out, *more):
        return main(["train", "sbm-mixture", *map(str, arguments), "--mixture.components", "2", "--out", str(tmp_path / out), *more])

    assert train("mixture-0", "--mixture.groups", "2") == 0
    assert train("again", "--mixture.groups", "2") == 0
    assert train("mixture-0-missing-0.2", "--mixture.groups", "1", "--missing", "0.2") == 0
    composer, again, missing = (Composer.load(tmp_path / name) for name in ("mixture-0", "again", "mixture-0-missing-0.2"))
    assert isinstance(composer.denoiser, JointMixture) and missing.meta["missing"] == 0.2
    assert all(prior.mean.shape == (4, 4) for prior in composer.denoiser.priors.values())
    result = composer.sample(3, seed=1)
    assert result["m2"].shape == (3, 3, 28, 28) and result.info["evaluations_per_sample"] == 8
    own, other = composer.denoiser.state_dict(), again.denoiser.state_dict()
    assert all(torch.equal(own[k], other[k]) for k in own)
    measure = ["--folder", tmp_path, "--judge", made / "judge", "--out", tmp_path / "t.json", "--modalities", 3, "--data", made, "--n", 20]
    assert main(["evaluate", "sbm-missing", *map(str, measure), "--shares", "[0.2]", "--seeds", "[0]"]) == 0
    rows = {row["measure"]: row for row in read_table(tmp_path / "t.json")["rows"]}
    lost = rows["20% missing: given 1, lost"]
    assert lost["values"][0] == pytest.approx(rows["0% missing: given 1"]["mean"] - rows["20% missing: given 1"]["mean"])
    assert lost["reach"] == "<= 0.02" and {"20% missing: all agree, lost", "20% missing: joint frechet"} <= set(rows)
    assert train("mixture-beta-2", "--mixture.groups", "2") == 0
    measure[5] = tmp_path / "b.json"
    assert main(["evaluate", "sbm-beta", *map(str, measure), "--betas", "[2.0]", "--seeds", "[0, 1]"]) == 0
    rows = {row["measure"]: row for row in read_table(tmp_path / "b.json")["rows"]}
    assert len(rows["beta 2: given 2 cosine"]["values"]) == 2 and rows["beta 2: evaluations"]["mean"] == 8
    assert main(["evaluate", "sbm-beta", *map(str, measure), "--betas", "[3.0]"]) == 2
    assert "mixture-beta-3" in capsys.readouterr().err
    assert train("many", "--mixture.groups", "150") == 2
    assert "vectors of group" in capsys.readouterr().err
