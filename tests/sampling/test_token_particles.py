"""Particles of tokens: weights, and moves after the draw, against an enumerated product."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.product import Product, Term
from polyscore.sampling import Particles, sample
from polyscore.token_oracles import TokenTableDenoiser
from polyscore.tokens.paths import Absorbing

PATH = {"x": Absorbing(3)}


def tables() -> tuple[Product, torch.Tensor]:
    """A product of strengths 2 and 1 over a base table, and its law, (3, 3, 3)."""
    generator = torch.Generator().manual_seed(4)
    laws = [(0.6 * torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)).flatten().softmax(0).reshape(3, 3, 3) for _ in range(3)]
    oracles = [TokenTableDenoiser.dense(law, PATH, {"x": 3}) for law in laws]
    product = Product([Term(oracles[0], strength=2.0, has_null=False), Term(oracles[1], has_null=False)], base=oracles[2])
    law = laws[0] ** 2 * laws[1] / laws[2] ** 2
    return product, law / law.sum()


def distance(found: torch.Tensor, law: torch.Tensor) -> float:
    cells = (found[:, 0] * 3 + found[:, 1]) * 3 + found[:, 2]
    return 0.5 * float((torch.bincount(cells, minlength=27) / len(cells) - law.flatten()).abs().sum())


@pytest.mark.parametrize(("order", "moves"), [("random", 0), ("left", 0), ("left", 6), ("random", 6)])
def test_weighted_tokens_follow_the_product_and_moves_keep_it(order, moves) -> None:
    product, law = tables()
    naive = sample(product, 3000, steps=3, token_solver=order)["x"]
    found = sample(product, 3000, steps=3, token_solver=order, particles=Particles(4, "run", 0.5, moves))
    assert distance(naive, law) > 0.08 and distance(found["x"], law) < 0.05
    assert found.info["evaluations_per_sample"] == pytest.approx(3 * (12 + moves), rel=0.01)


def test_moves_alone_reach_the_law() -> None:
    """One particle a sample has no weights to speak of: the chain does it."""
    product, law = tables()
    found = sample(product, 3000, steps=3, token_solver="left", particles=Particles(1, "sample", 0.5, 60))["x"]
    assert distance(found, law) < 0.06


def test_moves_keep_samples_independent_of_their_batch_and_what_is_known() -> None:
    product, _ = tables()
    options = {"steps": 3, "token_solver": "left", "particles": Particles(3, "sample", 0.5, 5), "seed": 2}
    whole = sample(product, 6, **options)["x"]
    assert torch.equal(whole, sample(product, 6, batch_size=4, **options)["x"])
    assert torch.equal(whole[4:], sample(product, 2, first=4, **options)["x"])
    known = torch.tensor([[-1, 2, -1]])
    assert (sample(product, 20, given={"x": known}, **options)["x"][:, 1] == 2).all()


def test_a_negative_number_of_moves_is_refused() -> None:
    with pytest.raises(PolyscoreError, match="particle moves is -1"):
        Particles(2, moves=-1)
