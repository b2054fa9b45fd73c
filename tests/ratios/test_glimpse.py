"""Partly observed data: exact on standard normal latents, and nearer to what is seen through a decoder."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.ratios.glimpse import Glimpsed
from polyscore.sampling import sample

PATHS = {"a": VPSDE(), "b": VPSDE()}


def test_exact_for_standard_normal_latents():
    """z ~ N(0, I), half of a seen at 1.2 with noise 0.5: mean 1.2 / 1.25, variance 0.2; the rest stays as it was."""
    base = GaussianDenoiser(torch.zeros(8), 1.0, PATHS)
    data = torch.tensor([[1.2, 1.2, float("nan"), float("nan")]])
    law = Glimpsed(base, {"a": lambda z: z}, {"a": data}, noise=0.5)
    made = sample(law, 6000, steps=60, seed=0)["a"]
    assert made[:, :2].mean().item() == pytest.approx(0.96, abs=0.03)
    assert made[:, :2].var().item() == pytest.approx(0.2, abs=0.02)
    assert made[:, 2:].mean().item() == pytest.approx(0.0, abs=0.03) and made[:, 2:].var().item() == pytest.approx(1.0, abs=0.05)


def test_what_is_seen_pulls_the_other_modality_too():
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    base = GaussianDenoiser(torch.zeros(2), cov, PATHS)
    law = Glimpsed(base, {"a": lambda z: 2 * z}, {"a": torch.tensor([[3.0]])}, noise=0.1, gain=4.0)
    made = sample(law, 2000, steps=40, solver="ddpm", seed=0)
    assert made["a"].mean().item() == pytest.approx(1.5, abs=0.1)
    assert 0.7 < made["b"].mean().item() < 1.35  # exact: 1.35; the denoiser is not differentiated


def test_masks_and_nan_say_the_same_and_clean_states_stay():
    base = GaussianDenoiser(torch.zeros(4), 1.0, PATHS)
    data = torch.tensor([[0.5, -1.0]])
    masked = Glimpsed(base, {"a": torch.sin}, {"a": data}, {"a": torch.tensor([True, False])})
    missing = Glimpsed(base, {"a": torch.sin}, {"a": torch.tensor([[0.5, float("nan")]])})
    z = {"a": torch.randn(3, 2), "b": torch.randn(3, 2)}
    one, two = (law(z, {"a": 0.5, "b": 0.5}) for law in (masked, missing))
    assert torch.equal(one["a"].eps, two["a"].eps) and torch.equal(one["b"].eps, base(z, {"a": 0.5, "b": 0.5})["b"].eps)
    assert not torch.allclose(one["a"].eps[:, 0], base(z, {"a": 0.5, "b": 0.5})["a"].eps[:, 0])


def test_errors():
    base = GaussianDenoiser(torch.zeros(4), 1.0, PATHS)
    with pytest.raises(PolyscoreError, match="nothing of it is seen"):
        Glimpsed(base, {"a": torch.sin}, {"a": torch.full((1, 2), float("nan"))})
    with pytest.raises(PolyscoreError, match="partly given modality 'c'"):
        Glimpsed(base, {"a": torch.sin}, {"c": torch.zeros(1, 2)})
