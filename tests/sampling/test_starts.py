"""The moment-matched start: exact for Gaussian latents on a path that ends early, with and without something observed."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.composer import Composer
from polyscore.errors import DataError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.sampling import sample
from polyscore.sampling.starts import MomentStart

PATHS = {"x": VPSDE(1.0, 5.0), "y": VPSDE(1.0, 5.0)}
COV = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
SHAPES = {"x": (1,), "y": (1,)}


def law():
    return GaussianDenoiser([0.0, 3.0], COV, PATHS, {"x": 1, "y": 1})


def start():
    found = MomentStart(SHAPES)
    found.mean.copy_(torch.tensor([0.0, 3.0]))
    found.covariance.copy_(COV)
    return found


def test_the_start_has_the_law_of_the_noised_latents_and_the_run_keeps_it():
    """A mean of 3 and a correlation that white noise at A(1) = 0.22 forgets."""
    options = {"steps": 40, "seed": 0}
    plain, right = sample(law(), 20_000, **options), sample(law(), 20_000, start=start(), **options)
    assert right["y"].mean().item() == pytest.approx(3.0, abs=0.02)
    assert abs(plain["y"].mean().item() - 3.0) > 0.1
    found = torch.cat([right["x"], right["y"]], 1).T.cov()
    torch.testing.assert_close(found, COV, atol=0.02, rtol=0)


def test_given_a_modality_the_rest_starts_from_its_conditional():
    given = {"x": torch.full((1, 1), 2.0)}
    made = sample(law(), 20_000, given=given, steps=40, grid="log_snr", start=start(), seed=0)["y"]
    assert made.mean().item() == pytest.approx(3.0 + 0.95 * 2.0, abs=0.01)
    assert made.var().item() == pytest.approx(1 - 0.95**2, rel=0.05)


def test_moments_of_posteriors_count_their_noise():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5000, 1, generator=generator)
    found = MomentStart(SHAPES).fit({"x": torch.stack([means, 0.5 * torch.ones_like(means)], 1), "y": -means})
    expected = torch.tensor([[means.var() + 0.25, -means.var()], [-means.var(), means.var()]])
    torch.testing.assert_close(found.covariance, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match="at least two latents of x, found 1"):
        MomentStart(SHAPES).fit({"x": means[:1], "y": means[:1]})


def test_it_is_saved_with_the_checkpoint(tmp_path):
    save_module(start(), tmp_path / "start")
    assert torch.equal(load_module(tmp_path / "start", MomentStart).covariance, COV)
    composer = Composer({}, law(), {"steps": 3}, start=start())
    other = Composer({}, law(), {"steps": 3})
    assert not torch.allclose(composer.sample(2)["x"], other.sample(2)["x"])


def test_moments_of_what_is_there():
    """Means over the rows that have a modality, covariances over those that have both, and no negative variance in any direction."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, generator=generator)
    y = 0.8 * x + 0.6 * torch.randn(4000, 1, generator=generator) + 3
    gone = torch.rand(4000, generator=generator) < 0.4
    whole, part = MomentStart(SHAPES).fit({"x": x, "y": y}), MomentStart(SHAPES)
    for filler in (100.0, float("nan")):
        part.fit({"x": x, "y": torch.where(gone[:, None], filler, y), "y_missing": gone})
        torch.testing.assert_close(part.mean, whole.mean, atol=0.06, rtol=0)
        torch.testing.assert_close(part.covariance, whole.covariance, atol=0.06, rtol=0)
    torch.testing.assert_close(part.covariance[0, 0], x.var())
    few = {name: torch.randn(6, 1, generator=generator) for name in "abc"}
    few |= {f"{name}_missing": torch.arange(6) % 3 == place for place, name in enumerate("abc")}
    found = MomentStart(dict.fromkeys("abc", (1,))).fit(few)
    assert torch.linalg.eigvalsh(found.covariance).min() > -1e-6
    with pytest.raises(DataError, match="at least two latents of x with y, found 0"):
        MomentStart(SHAPES).fit({"x": x[:8], "y": y[:8], "x_missing": torch.arange(8) < 4, "y_missing": torch.arange(8) >= 4})
