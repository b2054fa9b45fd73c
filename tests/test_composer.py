"""The Composer: codecs and a denoiser as one generator."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from polyscore.codecs import Identity
from polyscore.composer import SHIPPED, WEIGHTS, Composer, locate
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.networks.mixture import JointMixture
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import DDIM, SNRLangevin
from polyscore.sampling.starts import MomentStart
from tiny import tiny_composer


@pytest.fixture(scope="module")
def composer(tiny_model) -> Composer:
    return Composer.load(tiny_model)


def gaussian(rho: float = 0.8) -> GaussianDenoiser:
    """Two correlated standard normal numbers, x and y."""
    paths = {"x": VPSDE(), "y": VPSDE()}
    return GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]]), paths)


def test_samples_of_every_subset(composer, seven, three):
    joint = composer.sample(3, seed=1)
    assert {k: tuple(v.shape) for k, v in joint.items()} == {"image": (3, 1, 28, 28), "speech": (3, 8000)}
    assert joint.info["evaluations_per_sample"] > 0 and set(joint.info["latents"]) == {"image", "speech"}
    for name, file in (("image", seven), ("speech", three)):
        given = composer.read(name, file)
        found = composer.sample(3, {name: given}, seed=1)
        assert found[name].shape == joint[name].shape and torch.equal(found[name][2], given[0])


def test_a_sample_depends_on_its_own_seed_only(composer, seven):
    given = {"image": composer.read("image", seven)}
    whole = composer.sample(5, given, seed=7)["speech"]
    torch.testing.assert_close(composer.sample(5, given, seed=7, batch_size=2)["speech"], whole, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(composer.sample(2, given, seed=7, first=3)["speech"], whole[3:], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(composer.sample(1, given, seed=8)["speech"], whole[:1], atol=1e-2)


def test_the_given_modality_matters(composer, three):
    one = composer.sample_latents(2, given=composer.encode({"speech": composer.read("speech", three)}), seed=0)["image"]
    two = composer.sample_latents(2, given={"speech": torch.zeros(1, 6)}, seed=0)["image"]
    assert not torch.allclose(one, two, atol=1e-3)


def test_solvers_and_correctors_are_kept_as_defaults(tmp_path):
    """Objects among the defaults come back equal, and sample the same; a file that names another class is refused."""
    composer = tiny_composer()
    solvers = {"image": DDIM(0.5), "speech": "dpmpp"}
    defaults = {"steps": 4, "solver": solvers, "corrector": SNRLangevin(0.1, norm="batch"), "grid": "score_sde"}
    composer.defaults = defaults
    again = Composer.load(composer.save(tmp_path / "model"))
    assert again.defaults == defaults
    before, after = (c.sample(3, seed=0) for c in (composer, again))
    assert torch.equal(before["speech"], after["speech"]) and after.info["evaluations_per_sample"] == 8
    file = tmp_path / "model" / "composer.json"
    file.write_text(file.read_text().replace("SNRLangevin", "Mirror"))
    with pytest.raises(CheckpointError, match=r"composer.json: unknown class 'Mirror'"):
        Composer.load(tmp_path / "model")


def test_conditionals_of_an_oracle():
    """E[y | x] = rho x and Var[y | x] = 1 - rho^2, through codecs, encode and decode."""
    composer = Composer({"x": Identity((1,))}, gaussian(), {"steps": 40})
    found = composer.sample(4000, {"x": torch.full((1, 1), 1.5)}, seed=0)
    assert float(found["y"].mean()) == pytest.approx(1.2, abs=0.04)
    assert float(found["y"].var()) == pytest.approx(0.36, rel=0.1)
    joint = composer.sample(4000, seed=1)
    assert float(torch.corrcoef(torch.cat([joint["x"], joint["y"]], 1).T)[0, 1]) == pytest.approx(0.8, abs=0.03)


def test_save_and_load_give_the_same(composer, tmp_path):
    again = Composer.load(composer.save(tmp_path / "copy"))
    assert (again.defaults, again.media, again.meta, again.modalities) == (
        composer.defaults,
        composer.media,
        composer.meta,
        composer.modalities,
    )
    one, two = composer.sample(2, seed=3), again.sample(2, seed=3)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {p.suffix for p in (tmp_path / "copy").iterdir()} == {".json", ".safetensors"}
    half = Composer.load(composer.save(tmp_path / "half", dtype=torch.float16))
    assert torch.allclose(half.sample(2, seed=3)["image"], one["image"], atol=0.05)
    assert (tmp_path / "half/image.safetensors").stat().st_size < 0.7 * (tmp_path / "copy/image.safetensors").stat().st_size


def test_options_override_defaults(composer):
    assert composer.sample(1).info["steps"] == 4
    assert composer.sample(1, steps=2, solver="ddim").info["steps"] == 2
    assert isinstance(composer.operator(1.0), SubsetGuided) and composer.operator(0.0) is composer.denoiser
    plain, guided = composer.sample(2, guidance=0.0), composer.sample(2, guidance=3.0)
    assert not torch.allclose(plain.info["latents"]["image"], guided.info["latents"]["image"])


def test_wrong_data_is_named(composer):
    with pytest.raises(PolyscoreError, match="modality 'text': the model has image, speech"):
        composer.encode({"text": torch.zeros(1, 3)})
    with pytest.raises(PolyscoreError, match=r"modality 'image': expected data of shape \(n, 1, 28, 28\), found \(1, 28, 28\)"):
        composer.encode({"image": torch.zeros(1, 28, 28)})
    with pytest.raises(PolyscoreError, match="modality 'speech': expected finite data, found NaN"):
        composer.encode({"speech": torch.full((1, 8000), torch.nan)})
    with pytest.raises(PolyscoreError, match="given modality 'image': 4 of 8 latent values are NaN"):
        composer.sample_latents(2, given={"image": torch.tensor([[0.0] * 4, [torch.nan] * 4])})
    with pytest.raises(PolyscoreError, match=r"'image': expected shape \(3, 4\) \(or 1 row\), found \(2, 4\)"):
        composer.sample(3, {"image": torch.zeros(2, 1, 28, 28)})
    with pytest.raises(PolyscoreError, match="n is 0"):
        composer.sample(0)


def test_codecs_that_do_not_fit():
    with pytest.raises(PolyscoreError, match=r"codec 'x': latents of shape \(2,\), but the denoiser has \(1,\)"):
        Composer({"x": Identity((2,))}, gaussian())
    with pytest.raises(PolyscoreError, match=r"codec 'z': .* no such modality"):
        Composer({"z": Identity((1,))}, gaussian())


def test_weights_that_blow_up_are_named(composer):
    broken = tiny_composer()
    next(broken.denoiser.parameters()).data.fill_(torch.nan)
    with pytest.raises(PolyscoreError, match="the sampled latent is not finite"):
        broken.sample(1)


def test_locate(tiny_model, tmp_path):
    assert locate(tiny_model) == tiny_model
    assert locate("digits") == WEIGHTS / "digits" and "digits" in SHIPPED
    for source in ("nowhere", str(tmp_path), "/a/b/c", "./a"):
        with pytest.raises(CheckpointError, match="expected a folder with composer"):
            locate(source)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("composer.json", "{", "composer.json: not JSON"),
        ("composer.json", "[]", "not a composer"),
        ("composer.json", {"format": 9}, "not a composer"),
        ("composer.json", {"codecs": [["image"]]}, "not a composer"),
        ("composer.json", {"codecs": ["text"]}, "text.json: cannot be read"),
        ("composer.json", {"defaults": 3}, "not a composer"),
        ("composer.json", {"media": {"image": "png"}}, "not a composer"),
        ("image.json", {"spec": {"class": "Nothing"}}, "unknown class 'Nothing'"),
        ("image.json", {"spec": {"class": "VAE"}}, "cannot build VAE"),
        ("image.json", {"spec": {"class": "VPSDE"}}, "expected a Codec, found VPSDE"),
        ("image.json", {"spec": 3}, "expected a Codec, found int"),
        ("image.json", {"sha256": "0" * 64}, "truncated or changed"),
        ("denoiser.json", {"spec": {"class": "JointDenoiser", "shapes": {"image": [4]}}}, "has shape \\(16, 68\\), expected"),
        ("denoiser.json", {"spec": {"class": "JointDenoiser", "shapes": {"image": [4], "speech": [6]}, "width": 10**9}}, "cannot build"),
    ],
)
def test_damaged_descriptions(tiny_model, tmp_path, file, content, message):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content)
    (folder / file).write_text(content)
    with pytest.raises(PolyscoreError, match=message) as error:
        Composer.load(folder)
    assert "\n" not in str(error.value).strip()


def test_a_start_is_saved_with_the_composer(tiny_model, tmp_path):
    composer = Composer.load(tiny_model)
    composer.start = MomentStart(composer.denoiser.shapes)
    composer.start.mean += 0.5
    again = Composer.load(composer.save(tmp_path / "model"))
    assert again.start is not None and torch.equal(again.start.mean, composer.start.mean)
    assert Composer.load(tiny_model).start is None


def test_a_composer_that_shares_codecs_is_saved_without_them(tmp_path):
    codecs = {"x": Identity((1,)), "y": Identity((1,))}
    denoiser = JointMixture({"x": (1,), "y": (1,)}, {"x": 1, "y": 1})
    Composer(codecs, denoiser).save(tmp_path / "base")
    model = Composer(codecs, denoiser, {"steps": 3}, base=str(tmp_path / "base"))
    model.save(tmp_path / "model")
    assert {f.name for f in (tmp_path / "model").glob("*.safetensors")} == {"denoiser.safetensors"}
    again = Composer.load(tmp_path / "model")
    assert torch.equal(again.sample(4, seed=3)["y"], model.sample(4, seed=3)["y"])
    header = json.loads((tmp_path / "model" / "composer.json").read_text())
    for base, words in (({"model": str(tmp_path / "base"), "codecs": "0"}, "train it again"), ({"codecs": "0"}, "with a model's name")):
        (tmp_path / "model" / "composer.json").write_text(json.dumps(header | {"base": base}))
        with pytest.raises(CheckpointError, match=words):
            Composer.load(tmp_path / "model")
