"""The exactness bench: its problems, its yardstick, and what it says of two of them."""

from __future__ import annotations

import pytest
import torch

from polyscore.recipes.product.exactness import HELD_OUT, METHODS, exactness, rows
from polyscore.recipes.product.problems import problems
from polyscore.recipes.product.truths import Curve, Table, mixture_product, noise_floor


def test_there_are_sixty_problems_of_every_kind() -> None:
    found = list(problems())
    assert len(found) >= 60 and len({p.name for p in found}) == len(found)
    assert {p.family for p in found} == {"gaussian", "mixture", "line", "joint", "tokens"}
    assert [p.name for p in problems()] == [p.name for p in found]


def test_exact_samples_pass_the_yardstick_and_wrong_ones_fail() -> None:
    generator = torch.Generator().manual_seed(1)
    for problem in list(problems())[::16]:
        floor = noise_floor(problem.truth, 400)
        exact = [problem.truth.distance(problem.truth.draw(400, generator)) / floor for _ in range(20)]
        assert sum(e <= 1 for e in exact) >= 17, problem.name
        if problem.family != "tokens":
            assert problem.truth.distance(problem.truth.draw(400, generator) * 1.3 + 0.1) > floor


def test_truths_agree_with_numerical_integration() -> None:
    from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
    from polyscore.paths import VPSDE

    laws = [MixtureDenoiser([[-1.0], [1.5]], 0.3, {"x": VPSDE()}, [0.3, 0.7]), GaussianDenoiser([0.2], 0.5, {"x": VPSDE()})]
    base = GaussianDenoiser([0.0], 2.0, {"x": VPSDE()})
    truth, total = mixture_product([*laws, base], [1.0, 1.5, -1.5])
    x = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    curve = Curve(x, sum(c * law.log_density({"x": x[:, None]}) for c, law in zip([1.0, 1.5, -1.5], [*laws, base], strict=True)))
    assert total == pytest.approx(curve.log_normaliser, abs=1e-6)
    points, one = torch.linspace(-2, 3, 9, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(truth.cdf(points, one), curve.cdf(points, one), atol=1e-5, rtol=0)


def test_a_table_measures_pairs_of_positions() -> None:
    table = Table(torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64))
    exact = torch.tensor([[0, 0]] * 4 + [[0, 1]] + [[1, 0]] + [[1, 1]] * 4)
    assert table.distance(exact) == pytest.approx(0, abs=1e-9)
    assert table.distance(exact.flip(1)[:, :1].repeat(1, 2)) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["gaussian 1d 2 experts", "tokens 3^4 2 experts"])
def test_particles_are_inside_the_noise_where_the_sum_of_scores_is_not(name: str) -> None:
    suite = [p for p in problems() if p.name == name]
    outcomes = exactness(n=400, sets=2, suite=suite)
    assert len(outcomes) == 2 * len(METHODS)
    table = {row.measure: row for row in rows(outcomes)}
    assert table["problems inside Monte-Carlo noise: particles"].mean == 1
    assert table["problems inside Monte-Carlo noise: sum of scores (naive)"].mean == 0
    assert table["evaluations over the naive rule's, largest: particles"].met


def test_a_stopped_run_goes_on_and_other_settings_start_again(tmp_path, monkeypatch) -> None:
    from polyscore.recipes.product import exactness as room

    suite = [p for p in problems() if p.name in ("gaussian 1d 2 experts", "gaussian 1d 3 experts")]
    first = exactness(n=40, sets=1, suite=suite[:1], keep=tmp_path)
    solved: list[str] = []
    solve = room.solve
    monkeypatch.setattr(room, "solve", lambda problem, method, *rest: (solved.append(problem.name), solve(problem, method, *rest))[1])
    whole = exactness(n=40, sets=1, suite=suite, keep=tmp_path)
    assert set(solved) == {"gaussian 1d 3 experts"} and whole[: len(first)] == first
    exactness(n=50, sets=1, suite=suite[:1], keep=tmp_path)
    assert "gaussian 1d 2 experts" in solved


def test_the_problems_measured_are_not_those_the_settings_were_chosen_on() -> None:
    measured, chosen = list(problems(HELD_OUT)), list(problems(0))
    assert len(measured) >= 60 and HELD_OUT != 0
    drawn = [(a, b) for a, b in zip(measured, chosen, strict=True) if a.family != "joint"]
    assert all(a.log_normaliser != b.log_normaliser for a, b in drawn)


def test_the_gaussian_bench_is_met() -> None:
    from polyscore.recipes.product.exactness import gaussian_bench

    assert [row.met for row in gaussian_bench()] == [True]
