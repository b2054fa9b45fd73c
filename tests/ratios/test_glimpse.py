"""Partly observed data: exact on standard normal latents, and nearer to what is seen through a decoder."""

from __future__ import annotations

import pytest
import torch

from polyscore.codecs import Identity
from polyscore.composer import Composer
from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.ratios.glimpse import Glimpsed, glimpse, spread
from polyscore.sampling import sample

PATHS = {"a": VPSDE(), "b": VPSDE()}


def test_exact_for_standard_normal_latents():
    """z ~ N(0, I), half of a seen at 1.2 with noise 0.5: mean 1.2 / 1.25, variance 0.2; the rest stays as it was."""
    base = GaussianDenoiser(torch.zeros(8), 1.0, PATHS)
    data = torch.tensor([[1.2, 1.2, float("nan"), float("nan")]])
    law = Glimpsed(base, {"a": lambda z: z}, {"a": data}, noise=0.5, gain=1.0)
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


def test_a_composer_takes_data_with_unknown_entries():
    """Correlated pairs: the seen half of x pulls x there, and each row of data its own sample; unknown entries stay free."""
    base = GaussianDenoiser(torch.zeros(8), 1.0, PATHS)
    composer = Composer({"a": Identity((4,))}, base, {"steps": 30})
    nan = float("nan")
    rows = torch.tensor([[2.0, 2.0, nan, nan], [-2.0, nan, nan, -2.0]]).repeat(300, 1)
    made = composer.sample(600, {"a": rows}, seed=0)
    assert made["a"][0::2, :2].mean().item() == pytest.approx(2 / 1.01, abs=0.05)
    assert made["a"][1::2, [0, 3]].mean().item() == pytest.approx(-2 / 1.01, abs=0.05)
    assert made["a"][1::2, 1:3].std().item() == pytest.approx(1.0, abs=0.1)
    parts = composer.sample(600, {"a": rows}, seed=0, batch_size=128)
    torch.testing.assert_close(parts["a"], made["a"], atol=1e-4, rtol=1e-4)
    with pytest.raises(PolyscoreError, match="expected finite data"):
        composer.sample(2, {"a": torch.full((1, 4), nan)})


def test_the_gain_is_the_spread_of_decoded_latents():
    assert spread(lambda z: 3 * z, (50,), torch.ones(1, 50)) == pytest.approx(9.0, rel=0.1)
    copies = spread(lambda z: z.repeat(1, 20), (4,), torch.ones(1, 80))
    assert copies == pytest.approx(20.0, rel=0.2) == 2 * spread(lambda z: z.repeat(1, 20), (4,), (torch.arange(80) < 40).float()[None])
    assert Glimpsed(GaussianDenoiser(torch.zeros(4), 1.0, PATHS), {"a": lambda z: z}, {"a": torch.zeros(1, 2)}, gain=0.3).gain == {"a": 0.3}


def test_halves():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert glimpse(x, "left").isnan().sum() == 6 and torch.equal(glimpse(x, "left")[..., :2], x[..., :2])
    assert torch.equal(glimpse(x, "right")[..., 2:], x[..., 2:]) and torch.equal(glimpse(x, "top")[..., :1, :], x[..., :1, :])
    assert glimpse(x, "bottom")[..., 0, :].isnan().all() and not x.isnan().any()
    assert torch.equal(glimpse(torch.ones(1, 5), "left").isnan()[0], torch.tensor([False, False, True, True, True]))
    for wrong, data in (("middle", x), ("top", torch.ones(1, 5))):
        with pytest.raises(PolyscoreError, match="expected left, right, top or bottom"):
            glimpse(data, wrong)


def test_many_copies_of_an_entry_are_one_observation():
    """Twenty equal pixels say no more than one: the latent lands where they point, and does not overshoot."""
    base = GaussianDenoiser(torch.zeros(2), 1.0, PATHS)
    law = Glimpsed(base, {"a": lambda z: z.repeat(1, 20)}, {"a": torch.full((1, 20), 1.5)}, noise=0.1)
    made = sample(law, 500, steps=10, seed=0)["a"]
    assert made.mean().item() == pytest.approx(1.5, abs=0.1) and made.std().item() < 0.2
