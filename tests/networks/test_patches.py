"""The conditional denoiser of pictures: what is unknown, shapes, batches, storage."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.networks.patches import UNKNOWN, PatchDenoiser, known
from polyscore.product import Product, Term
from polyscore.sampling import sample

SHAPE = (3, 8, 8)


def small(seed: int = 0, **options) -> PatchDenoiser:
    torch.manual_seed(seed)
    model = PatchDenoiser(SHAPE, width=16, blocks=1, embed=16, **options)
    for layer in (model.network.head, model.network.blocks[0].second):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return model.eval().requires_grad_(False)


def test_unknown_entries_read_zero_and_say_so() -> None:
    given = torch.tensor([[0.0, 0.5, UNKNOWN]])
    assert known(given).tolist() == [[0.0, 0.5, 0.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("options", [{"maps": 2}, {"context": 5}], ids=str)
def test_no_condition_is_an_unknown_one_and_a_known_one_matters(options) -> None:
    model = small(**options)
    z = {"image": torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))}
    size = (2, 8, 8) if "maps" in options else (5,)
    none, unknown, zeros = (model(z, {"image": 0.5}, c)["image"].v for c in (None, torch.full((3, *size), UNKNOWN), torch.zeros(3, *size)))
    torch.testing.assert_close(none, unknown)
    assert float((none - zeros).abs().max()) > 1e-4
    row = model({"image": z["image"][1:2]}, {"image": 0.5}, torch.zeros(1, *size))["image"].v
    torch.testing.assert_close(row, zeros[1:2], atol=1e-5, rtol=1e-4)


def test_two_experts_on_maps_multiply_and_are_stored(tmp_path) -> None:
    first, second = small(1, maps=1), small(2, maps=1)
    null, mask = torch.full((1, 1, 8, 8), UNKNOWN), torch.ones(1, 1, 8, 8)
    product = Product([Term(first, mask, 2.0, name="a", null=null), Term(second, mask, 1.0, name="b", null=null)])
    made = sample(product, 2, steps=3)["image"]
    save_module(first, tmp_path / "a")
    again = Product(
        [Term(load_module(tmp_path / "a", PatchDenoiser), mask, 2.0, name="a", null=null), Term(second, mask, 1.0, name="b", null=null)]
    )
    torch.testing.assert_close(sample(again, 2, steps=3)["image"], made)
