"""Token samplers against an enumerated joint law: total variation, alone and beside a Gaussian modality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.oracles import TokenTableDenoiser
from polyscore.paths import VPSDE
from polyscore.product import Product, Term
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import Ancestral, Gibbs, Unmask, edit, make_token_solver, sample
from polyscore.sampling.noise import Streams
from polyscore.tokens import Absorbing, MaskReplace, UniformReplace, VQDiffusion
from polyscore.tokens.draws import categorical

torch.set_num_threads(1)
N = 12_000
GENERATOR = torch.Generator().manual_seed(0)
JOINT = torch.rand(2, 2, 2, generator=GENERATOR, dtype=torch.float64).square()
JOINT /= JOINT.sum()
PATHS = {"word": Absorbing(2), "tag": Absorbing(2)}
LENGTHS = {"word": 2, "tag": 1}
TABLE = TokenTableDenoiser.dense(JOINT, PATHS, LENGTHS)


def law(found: State) -> Tensor:
    """Shares of the entries of JOINT."""
    word, tag = found["word"], found["tag"]
    cells = (word[:, 0] * 2 + word[:, 1]) * 2 + tag[:, 0]
    return torch.bincount(cells, minlength=8).double().reshape(2, 2, 2) / len(word)


def distance(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


@pytest.mark.parametrize("solver", [Unmask("confidence"), Unmask("random"), Unmask("left"), Ancestral()], ids=repr)
def test_joint_law(solver: Any) -> None:
    steps = 60 if isinstance(solver, Ancestral) else 3
    found = sample(TABLE, N, steps=steps, token_solver=solver, seed=1)
    assert distance(law(found), JOINT) < 0.02


@pytest.mark.parametrize("path", [MaskReplace, UniformReplace, lambda k: VQDiffusion(k, 40)])
def test_joint_law_on_other_paths(path: Any) -> None:
    table = TokenTableDenoiser.dense(JOINT, {"word": path(2), "tag": path(2)}, LENGTHS)
    found = sample(table, N, steps=40, seed=2)
    assert distance(law(found), JOINT) < 0.025
    assert int(found["word"].max()) < 2


def test_every_conditional() -> None:
    for tag in (0, 1):
        found = sample(TABLE, N, given={"tag": torch.tensor([[tag]])}, steps=3, token_solver="confidence", seed=3)
        assert distance(law(found)[..., tag], JOINT[..., tag] / JOINT[..., tag].sum()) < 0.02
    for first, second in ((0, 1), (1, 1)):
        found = sample(TABLE, N, given={"word": torch.tensor([[first, second]])}, steps=2, seed=4)
        assert distance(law(found)[first, second], JOINT[first, second] / JOINT[first, second].sum()) < 0.02


def test_infilling_keeps_the_known_and_follows_the_rest() -> None:
    known = torch.tensor([[-1, 1]])
    for solver, steps in (("confidence", 3), ("ancestral", 60)):
        found = sample(TABLE, N, given={"word": known}, steps=steps, token_solver=solver, seed=5)
        assert bool((found["word"][:, 1] == 1).all())
        assert distance(law(found)[:, 1], JOINT[:, 1] / JOINT[:, 1].sum()) < 0.02


def mixed() -> TokenTableDenoiser:
    """Words beside a point in the plane: four words, three places."""
    words = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])
    means = torch.tensor([[-1.0, 0.0], [-0.6, 0.3], [1.0, 0.5], [0.9, -0.8]])
    weights = torch.tensor([0.4, 0.2, 0.1, 0.3])
    return TokenTableDenoiser({"point": VPSDE(), "word": Absorbing(3)}, {"word": words}, weights, {"point": means}, 0.3)


def shares(table: TokenTableDenoiser, words: Tensor) -> Tensor:
    same = (words[:, None] == table.table["word"]).all(-1)
    return torch.cat([same.double().mean(0), 1 - same.any(1).double().mean()[None]])


@pytest.mark.parametrize(("token_solver", "solver"), [("random", "dpmpp"), ("confidence", "ddpm")])
def test_tokens_beside_a_gaussian_in_one_sample(token_solver: str, solver: str) -> None:
    table = mixed()
    found = sample(table, N, steps=40, token_solver=token_solver, solver=solver, seed=6)
    weights = torch.cat([table.log_weight.exp(), torch.zeros(1)])
    assert distance(shares(table, found["word"]), weights) < 0.02
    for row, centre in zip(table.table["word"], table.table["point"], strict=True):
        here = found["point"][(found["word"] == row).all(1)].double()
        torch.testing.assert_close(here.mean(0), centre, atol=0.06, rtol=0)
        torch.testing.assert_close(here.std(0), torch.full((2,), 0.3, dtype=torch.float64), atol=0.06, rtol=0)


def test_tokens_given_a_point_and_the_way_back() -> None:
    table = mixed()
    point = torch.tensor([[-0.75, 0.2]])
    found = sample(table, N, given={"point": point}, steps=4, token_solver="random", seed=7)
    exact = table.log_likelihood({"point": point, "word": torch.full((1, 2), 3)}, {"point": 0.0, "word": 1.0}).softmax(1)[0]
    assert distance(shares(table, found["word"]), torch.cat([exact, torch.zeros(1)])) < 0.02
    back = sample(table, 4000, given={"word": torch.tensor([[1, 2]])}, steps=20, seed=8)["point"].double()
    torch.testing.assert_close(back.mean(0), torch.tensor([1.0, 0.5]).double(), atol=0.02, rtol=0)


def test_strided_steps_mask_as_the_path_says() -> None:
    """Acceptance 16: the masked share after each step is gamma_bar at its time, at any stride."""
    path = VQDiffusion(2, 80)
    table = TokenTableDenoiser.dense(JOINT, {"word": path, "tag": VQDiffusion(2, 80)}, LENGTHS)
    for steps in (8, 20):
        seen: dict[float, float] = {}

        def watch(step: Any, seen: dict[float, float] = seen, steps: int = steps) -> None:
            seen[1 - (step.index + 1) / steps] = float((step.z["word"] == 2).double().mean())

        sample(table, N, steps=steps, callback=watch, seed=9)
        assert len(seen) == steps
        for t, share in seen.items():
            assert share == pytest.approx(float(path.cumulative(t)[2]), abs=0.012), t


def test_all_steps_are_the_ordinary_sampler() -> None:
    """Acceptance 16: T steps are one for one the ordinary sampler, q(z_{t-1} | z_t, z_0) by Bayes' rule on one-step matrices."""
    T, n = 12, 300
    paths = {"word": VQDiffusion(2, T), "tag": MaskReplace(2, 0.05, 0.85)}
    table = TokenTableDenoiser.dense(JOINT, paths, LENGTHS)
    seen: list[State] = []
    end = sample(table, n, steps=T, token_solver="ancestral", callback=lambda step: seen.append(step.z), seed=4)
    streams = Streams(4, range(n))
    z = {name: path.start(1.0, name, (LENGTHS[name],), streams) for name, path in paths.items()}
    for i in range(T):
        said = table(z, dict.fromkeys(paths, 1 - i / T))
        for name, path in paths.items():
            (a_s, b_s, g_s), (a_t, _, g_t) = ([float(v) for v in path.cumulative(k / T)] for k in (T - i - 1, T - i))
            alpha, gamma = a_t / a_s, 1 - (1 - g_t) / (1 - g_s)
            before, step = matrix(a_s, b_s, g_s), matrix(alpha, (1 - alpha - gamma) / 2, gamma)
            both = before[:2, None] * step.T  # z_0, z_t, z_s
            posterior = both / both.sum(2, keepdim=True).clamp(min=1e-300)
            weights = torch.einsum("blj,jblk->blk", said[name].log_probs.exp(), posterior[:, z[name]])
            z = z | {name: categorical(weights, streams.uniform(name, (LENGTHS[name],)))}
            assert torch.equal(z[name], seen[i][name]), (i, name)
    assert all(torch.equal(z[name], end[name]) for name in paths)


def matrix(alpha: float, beta: float, gamma: float) -> Tensor:
    """Rows from, columns to, the mask last, of two tokens."""
    return torch.tensor([[alpha + beta, beta, gamma], [beta, alpha + beta, gamma], [0.0, 0.0, 1.0]], dtype=torch.float64)


def test_gibbs_repairs_parallel_steps() -> None:
    """Two steps decide both letters at once; single-site remasking at the levels between pulls the law back."""
    words = torch.tensor([[0, 0], [1, 1]])
    table = TokenTableDenoiser({"word": Absorbing(2)}, {"word": words})
    grid = [1.0, 0.5, 0.05, 0.0]
    plain = sample(table, N, grid=grid, seed=10)["word"]
    mended = sample(table, N, grid=grid, corrector=Gibbs(rounds=12), seed=10)["word"]
    wrong, left = (float((w[:, 0] != w[:, 1]).double().mean()) for w in (plain, mended))
    assert wrong > 0.15
    assert left < 0.5 * wrong


def test_gibbs_leaves_the_law_of_a_level() -> None:
    exact = torch.multinomial(JOINT.flatten(), N, replacement=True, generator=GENERATOR)
    clean = {"word": torch.stack([exact // 4, exact // 2 % 2], 1), "tag": exact[:, None] % 2}
    found = edit(TABLE, clean, 0.5, steps=80, corrector=Gibbs(when="before"))
    assert distance(law(found), JOINT) < 0.025


def test_editing_starts_from_the_content() -> None:
    """Acceptance 20: floor(steps * start) steps from corrupted content; `sample` has no such way in."""
    clean = {"word": torch.tensor([[1, 0]]).expand(4000, 2), "tag": torch.zeros(4000, 1, dtype=torch.int64)}
    times: list[float] = []
    found = edit(TABLE, clean, 0.3, steps=10, callback=lambda step: times.append(step.t))
    assert times == pytest.approx([0.3, 0.2, 0.1])
    assert float((found["word"] == clean["word"]).double().mean()) > 0.75
    start = sample(TABLE, 50, grid=[1.0, 1 - 1e-9], seed=3)["word"]
    assert bool((start == 2).all())
    for start_, steps in ((0.0, 10), (0.05, 10), (1.2, 10)):
        with pytest.raises(PolyscoreError, match="edit: start"):
            edit(TABLE, clean, start_, steps=steps)
    with pytest.raises(PolyscoreError, match="has no state"):
        edit(TABLE, {"word": clean["word"]}, 0.5)


def test_product_guides_tokens() -> None:
    """base (p_c / base)^w for one position, in closed form."""
    path = {"word": Absorbing(4)}
    base, other = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    entries = {"word": torch.arange(4)[:, None]}
    experts = [TokenTableDenoiser(path, entries, p) for p in (base, other)]
    guided = Product([Term(experts[1], strength=2.0)], base=experts[0])
    exact = base * (other / base) ** 2
    found = sample(guided, N, steps=3, seed=11)["word"]
    assert distance(torch.bincount(found[:, 0], minlength=4) / N, exact / exact.sum()) < 0.02


def test_subset_guidance_sharpens_tokens() -> None:
    found = sample(SubsetGuided(mixed(), 1.0), 2000, steps=20, seed=12, token_solver="confidence")
    assert set(found) == {"point", "word"}
    clean = mixed().log_likelihood({"point": found["point"], "word": torch.full((2000, 2), 3)}, {"point": 0.0, "word": 1.0}).softmax(1)
    kept = (found["word"][:, None] == mixed().table["word"]).all(-1).double()
    plain = sample(mixed(), 2000, steps=20, seed=12, token_solver="confidence")
    base = mixed().log_likelihood({"point": plain["point"], "word": torch.full((2000, 2), 3)}, {"point": 0.0, "word": 1.0}).softmax(1)
    agree = (plain["word"][:, None] == mixed().table["word"]).all(-1).double()
    assert float((clean * kept).sum(1).mean()) > float((base * agree).sum(1).mean())


def test_truncation_and_names() -> None:
    found = sample(TABLE, 500, steps=4, token_solver="confidence:0", seed=13)
    assert distance(law(found), JOINT) > 0.2
    assert make_token_solver("ancestral:0.86") == Ancestral(0.86)
    for name in ("top", "ancestral:2", "random:x"):
        with pytest.raises(PolyscoreError, match="token solver"):
            make_token_solver(name)
    with pytest.raises(PolyscoreError, match="path that masks"):
        sample(TokenTableDenoiser({"word": UniformReplace(3)}, {"word": torch.zeros(1, 2).long()}), 2, token_solver="confidence")
    with pytest.raises(PolyscoreError, match="tokens from 0 to 1, found 5"):
        sample(TABLE, 2, given={"tag": torch.tensor([[5]])})


def test_samples_do_not_depend_on_the_batch() -> None:
    whole = sample(mixed(), 30, steps=8, seed=14)
    parts = sample(mixed(), 30, steps=8, seed=14, batch_size=7)
    assert torch.equal(whole["word"], parts["word"])
    torch.testing.assert_close(whole["point"], parts["point"])
