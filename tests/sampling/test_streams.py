"""One random stream per sample: the numbers of sample i depend on (seed, i, name) and nothing else."""

from __future__ import annotations

import pytest
import torch

from polyscore.sampling import Streams
from polyscore.sampling.noise import mix


def test_rows_do_not_depend_on_the_batch() -> None:
    whole, part, turned = (Streams(3, i) for i in (range(10), [4, 7], [7, 4]))
    for _ in range(70):  # over several blocks
        a, b, c = (s.normal("x", (5,)) for s in (whole, part, turned))
        assert torch.equal(a[[4, 7]], b)
        assert torch.equal(b.flip(0), c)


def test_names_laws_seeds_and_samples_have_streams_of_their_own() -> None:
    draws = [
        Streams(0, [0]).normal("x", (64,)),
        Streams(0, [0]).normal("y", (64,)),
        Streams(1, [0]).normal("x", (64,)),
        Streams(0, [1]).normal("x", (64,)),
        Streams(0, [(0, 1)]).normal("x", (64,)),
    ]
    flat = torch.stack([d[0] for d in draws])
    assert float((torch.corrcoef(flat) - torch.eye(5)).abs().max()) < 0.5
    assert len({d[0, 0].item() for d in draws}) == 5


def test_other_draws_in_between_change_nothing() -> None:
    plain, busy = Streams(0, range(3)), Streams(0, range(3))
    for _ in range(5):
        busy.normal("y", (2,)), busy.uniform("x", (7,))
        assert torch.equal(plain.normal("x", (4,)), busy.normal("x", (4,)))


def test_successive_draws_differ() -> None:
    streams = Streams(0, range(2))
    draws = [streams.normal("x", (3,)) for _ in range(100)]
    assert len({float(d[0, 0]) for d in draws}) == 100


def test_laws() -> None:
    streams = Streams(0, range(200))
    normal = torch.stack([streams.normal("x", (50,)) for _ in range(4)])
    uniform = torch.stack([streams.uniform("x", (50,)) for _ in range(4)])
    assert (float(normal.mean()), float(normal.var())) == pytest.approx((0, 1), abs=0.02)
    assert (float(uniform.mean()), float(uniform.var())) == pytest.approx((0.5, 1 / 12), abs=0.01)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1


def test_dtypes() -> None:
    assert Streams(0, [0], dtype=torch.float64).normal("x", (2,)).dtype == torch.float64
    assert Streams(0, [0], dtype=torch.float16).normal("x", (2,)).dtype == torch.float16
    assert Streams(0, [0]).normal("x", ()).shape == (1,)


def test_mix_is_the_same_everywhere() -> None:
    assert mix(0, 1, "x") == 2161805221870354529
    assert 0 <= mix("a", 2.5) < 2**63


def test_a_row_is_seeded_by_mix() -> None:
    for index in (7, (7, 2)):
        generator = torch.Generator().manual_seed(mix(3, index, "x", "normal", 0))
        assert torch.equal(Streams(3, [index]).normal("x", (4,))[0], torch.empty(4).normal_(generator=generator))
