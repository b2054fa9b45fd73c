"""The paper's networks and setting: sizes as counted in the authors' code, shapes, and one run of the sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import RAE, VAE
from polyscore.composer import Composer
from polyscore.data.digits import load_sklearn_digits
from polyscore.errors import PolyscoreError
from polyscore.media import read_metadata
from polyscore.networks.convnext import ConvNextUNet, StackedDenoiser
from polyscore.networks.resnet import PolyDecoder, PolyEncoder
from polyscore.paths import VPSDE
from polyscore.recipes.polymnist.paper import JOINT, RAE_OBJECTIVE, VAE_OBJECTIVE, paper_rae, paper_sampling, paper_score, paper_vae
from polyscore.sampling import SNRLangevin, make_grid, make_solver, sample
from polyscore.training import Draw


def size(module: torch.nn.Module) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_sizes_are_the_papers():
    with torch.device("meta"):
        assert size(ConvNextUNet(10, 128)) == pytest.approx(42.7, abs=0.05)
        assert size(ConvNextUNet(5, 64)) == pytest.approx(11.0, abs=0.05)
        assert size(PolyEncoder()) == pytest.approx(1.30, rel=0.01)
        assert size(PolyDecoder()) == pytest.approx(1.13, rel=0.01)
        assert size(paper_score(10)) == pytest.approx(42.7, abs=0.05)


@pytest.mark.parametrize(("codec", "objective"), [(paper_vae, VAE_OBJECTIVE), (paper_rae, RAE_OBJECTIVE)])
def test_autoencoders_fit_the_pictures(codec, objective):
    made, x = codec(8), torch.rand(2, 3, 28, 28)
    assert objective(made, {"x": x}, Draw(0, 0, 2))["loss"].isfinite()
    made.eval()
    with torch.no_grad():
        z = made.encode(x)
        assert z.shape == (2, 8) and made.decode(z).shape == x.shape
        assert torch.allclose(z[:1], made.encode(x[:1]), atol=1e-5)


def test_stacked_score(tmp_path):
    model = StackedDenoiser({f"m{i}": (64,) for i in range(3)}, dim=12)
    assert model.paths["m0"] == VPSDE(1.0, 5.0) and paper_score(10).paths["m0"] == VPSDE(0.1, 5.0)
    latents = {name: torch.randn(4, 64) for name in model.shapes}
    losses = JOINT(model, latents, Draw(0, 0, 4))
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    save_module(model, tmp_path / "score")
    again = load_module(tmp_path / "score", StackedDenoiser)
    options = paper_sampling(3)
    found = sample(again, 2, given={"m1": latents["m1"][:2]}, seed=1, **options)
    assert found.info["evaluations_per_sample"] == 6 and found["m0"].isfinite().all()
    assert torch.equal(found["m1"], latents["m1"][:2])
    alone = sample(again, 1, given={"m1": latents["m1"][:1]}, seed=1, **options)
    assert torch.allclose(alone["m0"], found["m0"][:1], atol=1e-4)
    with pytest.raises(PolyscoreError, match="one square number"):
        StackedDenoiser({"a": (64,), "b": (9,)})


def test_setting_of_the_sampler():
    options = paper_sampling(100)
    grid = make_grid(options["grid"], options["steps"], VPSDE(1.0, 5.0))
    assert len(grid) == 101 and grid[0] == 1 and grid[-2] == pytest.approx(1e-3)
    assert make_solver(options["solver"]).even and options["corrector"].when == "same" and options["conditioning"] == "scaled"


@pytest.mark.parametrize(("kind", "start"), [("vae", "moments"), ("rae", "noise")])
def test_the_papers_setting_from_the_command_line(run_cli, tmp_path, kind, start):
    """Autoencoders, joint score, and a Composer whose default is the predictor and the corrector: two evaluations a step."""
    (tmp_path / "digits").mkdir()
    digits = load_sklearn_digits("train")
    images, labels = (digits.x[:40, 0] * 255).byte().numpy(), digits.labels[:40].byte().numpy()
    np.savez(tmp_path / "digits" / "mnist.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    common = ["--modalities", 2, "--data", tmp_path, "--training.steps", 2, "--training.batch_size", 4]
    for name in ("m0", "m1"):
        assert run_cli("train", "sbm-paper-codec", "--modality", name, "--kind", kind, "--out", tmp_path / "codecs", *common)[0] == 0
    score = ["--codecs", tmp_path / "codecs", "--dim", 12, "--steps", 3, "--start", start, "--conditioning", "clean"]
    assert run_cli("train", "sbm-paper", *score, "--out", tmp_path / "paper", *common)[0] == 0
    composer = Composer.load(tmp_path / "paper")
    assert isinstance(composer.denoiser, StackedDenoiser) and (composer.start is not None) is (start == "moments")
    assert isinstance(composer.codecs["m0"], VAE if kind == "vae" else RAE) and composer.defaults["corrector"] == SNRLangevin()
    assert composer.sample_latents(2, seed=0).info["evaluations_per_sample"] == 6
    shown = composer.sample_latents(1, given={"m0": torch.zeros(1, 64)})
    assert shown.info["conditioning"] == "clean" and shown["m1"].isfinite().all()
    done = run_cli("sample", "--model", tmp_path / "paper", "--n", 1, "--steps", 2, "--corrector", "snr:0.1", "--out", tmp_path / "made")
    assert done[0] == 0 and read_metadata(tmp_path / "made" / "0000_m1.png")["run"]["options"]["grid"] == "score_sde"
    assert run_cli("train", "sbm-paper-codec", "--modality", "m7", *common, "--out", tmp_path / "x")[0] == 2
