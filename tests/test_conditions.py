"""What is held one a sample follows the batch, and conditions of one expert share a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polyscore.conditions import own_rows, stack
from polyscore.denoisers import Denoiser, count_evaluations
from polyscore.errors import PolyscoreError
from polyscore.oracles import ConditionalDenoiser, GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.product import Product, Term
from polyscore.sampling import sample

PATHS = {"x": VPSDE()}


def classes() -> ConditionalDenoiser:
    return ConditionalDenoiser([GaussianDenoiser([float(k)], 0.3, PATHS) for k in range(4)], GaussianDenoiser([0.0], 4.0, PATHS))  # type: ignore[arg-type]


def prompts(*labels: Any, strength: Any = 1.5) -> Product:
    expert = classes()
    return Product([Term(expert, label, strength, null=torch.tensor(-1)) for label in labels])


class Picture(Denoiser):
    paths, shapes = PATHS, {"x": (2, 2)}

    def forward(self, z: dict[str, Tensor], t: Any, condition: Any = None) -> dict[str, Prediction]:
        label = torch.as_tensor(condition).expand(len(z["x"]))[:, None, None]
        return {"x": Prediction.from_eps(label * torch.ones_like(z["x"]), z["x"], 0.8, 0.6)}


def test_any_number_of_conditions_is_one_call_with_one_null() -> None:
    for many in (1, 2, 5):
        expert = Picture()
        denoiser = Product([Term(expert, float(k % 4), 2.0, null=-1.0) for k in range(many)])
        with count_evaluations(denoiser) as seen:
            denoiser({"x": torch.zeros(3, 2, 2)}, {"x": 0.5})
        assert (seen.calls, seen.rows) == (1, 3 * (min(many, 4) + 1))


def test_strength_and_condition_of_each_sample_follow_batches_and_particles() -> None:
    strength, label = torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0]), torch.tensor([0, 1, 2, 3, 0])
    whole = sample(prompts(label, strength=strength), 5, steps=8, seed=2)["x"]
    for part in (2, 5):
        found = sample(prompts(label, strength=strength), 5, steps=8, seed=2, batch_size=part)["x"]
        torch.testing.assert_close(found, whole)
    alone = [sample(prompts(label[i], strength=float(strength[i])), 1, steps=8, seed=2, first=i)["x"] for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), whole)
    many = sample(prompts(label, strength=strength), 5, steps=8, seed=2, particles=3)["x"]
    alone = [sample(prompts(label[i], strength=float(strength[i])), 1, steps=8, seed=2, first=i, particles=3)["x"] for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), many)


def test_rows_that_fit_no_batch_end_in_one_line() -> None:
    with pytest.raises(PolyscoreError, match="strength of expert0"):
        sample(prompts(torch.tensor(1), strength=torch.ones(3)), 5, steps=2)
    with pytest.raises(PolyscoreError, match="share their conditions"):
        sample(prompts(torch.tensor([0, 1]), strength=1.0), 2, steps=2, particles=2, population="run")
    with pytest.raises(PolyscoreError, match="2 rows, expected 1 or 3"):
        own_rows([1, 2], 3, "condition")


def test_a_mask_weighs_every_pixel_by_itself() -> None:
    """Strength 2 in one half and 0 in the other: guided there, the plain null here."""

    mask = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    found = Product([Term(Picture(), 3.0, mask, null=1.0)])({"x": torch.zeros(4, 2, 2)}, {"x": 0.5})["x"].eps
    torch.testing.assert_close(found, torch.tensor([[5.0, 1.0], [5.0, 1.0]]).expand(4, 2, 2))


def test_stacks_of_tensors_texts_and_mappings() -> None:
    assert stack(["a", "b"], 2) == ["a", "a", "b", "b"]
    assert stack([["a", "c"], ["b"]], 2) == ["a", "c", "b", "b"]
    joined = stack([{"k": 1, "text": "a"}, {"k": 2, "text": "b"}], 2)
    assert joined["text"] == ["a", "a", "b", "b"] and joined["k"].tolist() == [1, 1, 2, 2]
    assert stack([torch.zeros(2, 3), torch.zeros(1, 3)], 2).shape == (4, 3)
    assert stack([torch.zeros(2, 3), torch.zeros(2, 4)], 2) is None
    assert stack([torch.tensor(1), None], 2) is None
    assert stack([{"k": 1}, {"j": 1}], 2) is None


def test_tokens_keep_their_normalisers_through_nested_products() -> None:
    """log Z of prod p_i^c_i, against enumeration; a product of products has that of the flat one."""
    logits = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b, c = (TokenPrediction.from_logits(x) for x in logits)
    flat = TokenPrediction.mix([("a", 0.9, a), ("b", 0.6, b), ("c", -0.5, c)])
    log = 0.9 * a.log_probs + 0.6 * b.log_probs - 0.5 * c.log_probs
    assert flat.log_normaliser is not None
    torch.testing.assert_close(flat.log_normaliser, log.logsumexp(-1))
    torch.testing.assert_close(flat.log_probs, log.log_softmax(-1))
    inner = TokenPrediction.mix([("a", 0.6, a), ("b", 0.4, b)])
    nested = TokenPrediction.mix([("inner", 1.5, inner), ("c", -0.5, c)])
    assert nested.log_normaliser is not None
    torch.testing.assert_close(nested.log_normaliser, flat.log_normaliser)
    assert a.log_normaliser is None and flat.rows(slice(0, 1)).parts[0][2].log_probs.shape == (1, 4, 5)
