"""Contrast: negatives, both forms, importance sampling, and the memory of the closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_tensors
from polyscore.denoisers import Expert
from polyscore.errors import DataError, PolyscoreError
from polyscore.tokens import Absorbing, Bound, MaskReplace, model_posterior, posterior
from polyscore.tokens.times import ImportanceTimes, falling, rising
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.contrast import TokenObjective, infonce, subtracted
from polyscore.training.negatives import OtherExamples, chunk_shuffle, in_batch

torch.set_num_threads(1)
ALL = torch.ones(3, 5, dtype=torch.bool)


def test_identical_negatives_give_minus_the_positive() -> None:
    """Acceptance 13, first part: N negatives equal to the positive."""
    positive = torch.tensor([0.3, 2.0, 7.0])
    torch.testing.assert_close(subtracted(positive[:, None].expand(3, 5), ALL, 100.0), -positive)
    found = infonce(positive, positive[:, None].expand(3, 5), ALL, 0.1)
    torch.testing.assert_close(found, torch.full((3,), math.log(6)))
    worse = infonce(positive, positive[:, None].expand(3, 5) + torch.rand(3, 5) * 50, ALL, 0.5)
    assert bool((worse >= 0).all())
    assert bool((worse < math.log(6)).all())


def test_tilt_of_the_optimum() -> None:
    """Acceptance 13, second part: minimising -sum (q - r n) log p gives p in proportion to q - r n; beyond that the guard holds it."""
    q, n, r = torch.tensor([0.6, 0.25, 0.1, 0.05]), torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.1
    logits = torch.zeros(4, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        log_p = logits.log_softmax(0)
        loss = -(q * log_p).sum() + r * (n * subtracted(-log_p[:, None], torch.ones(4, 1, dtype=torch.bool), 100.0)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    torch.testing.assert_close(logits.softmax(0).detach(), torch.tensor([0.6556, 0.2556, 0.0778, 0.0111]), atol=2e-3, rtol=0)


def test_the_guard_bounds_the_reference_form() -> None:
    far = torch.full((2, 3), 60.0, requires_grad=True)
    found = subtracted(far, torch.ones(2, 3, dtype=torch.bool), 10.0)
    assert found.tolist() == [-10.0, -10.0]
    (gradient,) = torch.autograd.grad(found.sum(), far)
    assert float(gradient.abs().max()) == 0
    mask = torch.tensor([[True, False, False], [False, False, False]])
    torch.testing.assert_close(subtracted(torch.tensor([[2.0, 5.0, 5.0], [1.0, 1.0, 1.0]]), mask, 10.0), torch.tensor([-2.0, 0.0]))


def test_chunk_shuffles() -> None:
    """Acceptance 14: the same multiset, the tail untouched, never the identity."""
    tokens = torch.arange(51).expand(40, 51)
    found = chunk_shuffle(tokens, torch.rand(40, 6, 2, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (40, 6, 51)
    assert bool((found[..., 50:] == 50).all())
    assert bool((found.sort(-1).values == torch.arange(51)).all())
    assert bool((found != tokens[:, None]).any(-1).all())
    eight = chunk_shuffle(tokens, torch.rand(40, 3, 8))
    assert bool((eight[..., 48:] == torch.arange(48, 51)).all())
    heads = eight[..., :48].reshape(40, 3, 8, 6)
    assert bool((heads.diff(dim=-1) == 1).all())
    with pytest.raises(DataError, match="chunks"):
        chunk_shuffle(tokens[:, :3], torch.rand(40, 1, 8))


def test_negatives_by_label_are_of_another_label() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 1, 0])
    tokens = torch.arange(8)[:, None].expand(8, 3)
    source = OtherExamples("x", tokens, labels, 4)
    seen: set[int] = set()
    for step in range(40):
        batch = source(Draw(0, step, 8))
        assert batch["negatives"].shape == (8, 4, 3)
        assert bool((labels[batch["negatives"][..., 0]] != batch["label"][:, None]).all())
        seen |= set(batch["negatives"][batch["label"] == 1][..., 0].flatten().tolist())
    assert seen == {0, 1, 3, 4, 5, 7}
    rows = in_batch(tokens, labels, 3)
    assert bool((labels[rows[..., 0]] != labels[:, None]).all())
    with pytest.raises(DataError, match="another label"):
        in_batch(tokens, torch.zeros(8).long(), 1)
    with pytest.raises(DataError, match="two labels"):
        OtherExamples("x", tokens, torch.zeros(8).long(), 2)


def test_negatives_by_embedding_are_unlike() -> None:
    embeddings = torch.cat([torch.tensor([[1.0, 0.1]]).expand(30, 2), torch.tensor([[-1.0, 0.1]]).expand(30, 2)])
    source = OtherExamples("x", torch.arange(60)[:, None], torch.arange(60), 3, embeddings)
    batch = source(Draw(1, 0, 60))
    assert float(((batch["negatives"][..., 0] < 30) != (batch["x"] < 30)).double().mean()) == 1


def test_negatives_by_embedding_are_of_another_label_where_labels_are_known() -> None:
    """Two far groups, each of two labels: what is least similar has the same label half of the time, unless that is left out."""
    embeddings = torch.cat([torch.tensor([[1.0, 0.1]]).expand(30, 2), torch.tensor([[-1.0, 0.1]]).expand(30, 2)])
    tokens, labels = torch.arange(60)[:, None], torch.arange(60) % 2
    found = OtherExamples("x", tokens, labels, 3, embeddings, pool=40)(Draw(1, 0, 60))
    assert bool((labels[found["negatives"][..., 0]] != found["label"][:, None]).all())
    assert bool(((found["negatives"][..., 0] < 30) != (found["x"] < 30)).all())
    unknown = OtherExamples("x", tokens, None, 3, embeddings, pool=40)(Draw(1, 0, 60))
    assert bool((unknown["label"] == -1).all())
    assert bool((labels[unknown["negatives"][..., 0]] == labels[unknown["x"]]).any())
    with pytest.raises(DataError, match="by embedding"):
        OtherExamples("x", tokens, labels, 3, by="embedding")


def test_negatives_from_the_batch() -> None:
    tokens, labels = torch.arange(60)[:, None], torch.arange(60) % 3
    found = OtherExamples("x", tokens, labels, 4, by="batch")(Draw(0, 0, 12))
    assert bool((labels[found["negatives"][..., 0]] != found["label"][:, None]).all())
    assert set(found["negatives"].flatten().tolist()) <= set(found["x"].flatten().tolist())
    with pytest.raises(DataError, match="negatives by batch: expected at least two labels"):
        OtherExamples("x", tokens, None, 4, by="batch")


def test_negatives_by_list_are_those_listed() -> None:
    listed = torch.stack([torch.arange(6)[torch.arange(6) != i] for i in range(6)])
    source = OtherExamples("x", torch.arange(6)[:, None], torch.zeros(6).long(), 3, listed=listed)
    for step in range(5):
        batch = source(Draw(0, step, 6))
        assert batch["negatives"].shape == (6, 3, 1)
        assert bool((batch["negatives"][..., 0] != batch["x"]).all())
        assert all(len(set(row.tolist())) == 3 for row in batch["negatives"][..., 0])
    with pytest.raises(DataError, match="negatives by list"):
        OtherExamples("x", torch.arange(6)[:, None], torch.zeros(6).long(), 9, listed=listed)


def test_importance_sampling_is_unbiased() -> None:
    """Acceptance 17: the average of loss / p over draws is the sum over t."""
    times = ImportanceTimes(10, warm=2)
    losses = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.01])
    assert torch.equal(times.probabilities(), torch.full((10,), 0.1))
    for _ in range(4):
        times.update(torch.arange(10), losses)
    p = times.probabilities()
    assert float(p.sum()) == pytest.approx(1)
    assert float(p[1]) > 5 * float(p[9])
    assert float(p[0]) == pytest.approx(float(p[1]))
    assert float((1 / p).max()) <= 10 / times.floor + 1e-3
    index, chance = times.draw(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert float((losses[index] / chance).mean()) == pytest.approx(float(losses.sum()), rel=0.01)
    uniform = torch.randint(10, (200_000,), generator=torch.Generator().manual_seed(1))
    assert float((losses[index] / chance).var()) < 0.5 * float((losses[uniform] * 10).var())
    times.update(torch.tensor([3, 3, 3]), torch.tensor([2.0, 2.0, 2.0]))
    assert float(times.square[3]) == pytest.approx(4.0)
    assert falling(torch.tensor(0), 80) == 2
    assert rising(torch.tensor(40), 80) == 1.5


class Table(nn.Module):
    """Logits that are parameters: p(z_0) without looking."""

    def __init__(self, length: int, vocabulary: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(length, vocabulary, generator=torch.Generator().manual_seed(5)))

    def forward(self, z: Any, t: Any, condition: Any) -> dict[str, Tensor]:
        return {"x": self.logits.expand(len(z["x"]), -1, -1)}


def expert(path: Any = None) -> Expert:
    return Expert(Table(16, 6), {"x": path or Absorbing(6)}, {"x": (16,)}, "logits")


BATCH = {"x": torch.randint(6, (12, 16), generator=torch.Generator().manual_seed(1)), "label": torch.zeros(12).long()}
BATCH["negatives"] = torch.randint(6, (12, 4, 16), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("path", [Absorbing(6), MaskReplace(6)])
@pytest.mark.parametrize("change", [{"intra": "step"}, {"inter": "step"}, {"intra": "sample"}, {"inter": "sample"}])
def test_objective_adds_the_contrast(path: Any, change: dict[str, Any]) -> None:
    plain = TokenObjective("x", steps=20)
    model = expert(path)
    base = plain(model, BATCH, Draw(0, 3, 12))
    assert set(base) == {"loss", "bound", "nll"}
    for form in ("subtracted", "infonce"):
        more = replace(plain, form=form, weight=0.1, **change)  # type: ignore[arg-type]
        found = more(model, BATCH, Draw(0, 3, 12))
        assert torch.isfinite(found["loss"])
        assert (float(found["loss"].detach()) < float(base["loss"].detach())) == (form == "subtracted")
        found["loss"].backward()
    off = replace(plain, weight=0.0, **change)
    assert float(off(model, BATCH, Draw(0, 3, 12))["loss"]) == float(base["loss"])
    late = replace(plain, weight=0.1, ramp=10, **change)
    assert float(late(model, BATCH, Draw(0, 0, 12))["loss"]) == float(plain(model, BATCH, Draw(0, 0, 12))["loss"])


@pytest.mark.parametrize("kind", ["step", "sample"])
def test_the_contrast_as_applied_is_the_closed_form(kind: Any) -> None:
    """Acceptance 13 on the objective: T (lambda w_c(t) / N) sum_j min(C_j, guard) is taken off, w_c = 1 + t/T, of each sample's own t."""
    T, weight, path = 20, 0.3, Absorbing(6)
    model = expert(path)
    plain = TokenObjective("x", steps=T, inter="none", form="subtracted", weight=weight, guard=100.0, label_dropout=0.0)
    base, found = (float(replace(plain, inter=inter)(model, BATCH, Draw(0, 3, 12))["loss"]) for inter in ("none", kind))
    draw = Draw(0, 3, 12)
    index = (draw.stratified() * T).long()
    z = path.corrupt(BATCH["x"], (index.double() + 1) / T, draw.uniform(16, 2))
    nll = -model.network.logits.detach().log_softmax(-1)  # type: ignore[union-attr,operator]
    each = nll[torch.arange(16), BATCH["negatives"]]  # (B, N, L)
    if kind == "step":  # w_t at a masked position, 1 / t; nothing elsewhere
        each = each * (z == 6)[:, None] / (index + 1)[:, None, None]
    C = each.sum(2) / 16
    wanted = -(T * weight * (1 + index / T) * C.mean(1)).mean()
    assert found - base == pytest.approx(float(wanted), rel=1e-4)
    uniform = expert(path)
    torch.nn.init.zeros_(uniform.network.logits)  # type: ignore[union-attr,arg-type]
    base, found = (float(replace(plain, inter=inter)(uniform, BATCH, Draw(0, 3, 12))["loss"]) for inter in ("none", kind))
    share = torch.ones(12) if kind == "sample" else (z == 6).float().mean(1) / (index + 1)  # negatives as unlikely as the positive
    assert found - base == pytest.approx(-float((T * weight * (1 + index / T) * share * math.log(6)).mean()), rel=1e-4)


def test_step_negatives_with_their_own_state() -> None:
    """The paper's form asks the network about each negative's own z_t; with a table that looks at nothing only z_t differs."""
    one = TokenObjective("x", steps=20, inter="step", weight=0.5)
    model = expert()
    shared, own = (replace(one, parallel=p)(model, BATCH, Draw(0, 3, 12)) for p in (False, True))
    assert float(shared["inter_negative"]) != float(own["inter_negative"])
    assert float(shared["inter_negative"]) == pytest.approx(float(own["inter_negative"]), rel=0.5)
    part = replace(one, share=0.5)
    mean = torch.stack([part(model, BATCH, Draw(0, step, 12))["loss"] for step in range(60)]).mean()
    whole = torch.stack([one(model, BATCH, Draw(0, step, 12))["loss"] for step in range(60)]).mean()
    assert float(mean) == pytest.approx(float(whole), rel=0.05)


def test_objective_refuses_what_cannot_be() -> None:
    with pytest.raises(PolyscoreError, match="share"):
        TokenObjective("x", share=0.0)
    with pytest.raises(PolyscoreError, match="negatives"):
        TokenObjective("x", inter="step")(expert(), {"x": BATCH["x"], "label": BATCH["label"]}, Draw(0, 0, 12))
    with pytest.raises(PolyscoreError, match=r"module\.times"):
        TokenObjective("x", importance=True)(expert(), BATCH, Draw(0, 0, 12))
    model = expert()
    model.times = ImportanceTimes(20)
    for step in range(3):
        TokenObjective("x", steps=20, importance=True)(model, BATCH, Draw(0, step, 12))
    assert float(model.times.count.sum()) == 36


def test_importance_sampling_resumes_with_the_run(tmp_path: Path) -> None:
    """`fit` makes the times, keeps them in the checkpoint, and takes them out of the module in the end."""
    objective = TokenObjective("x", steps=3, importance=True)
    config = TrainConfig(steps=30, batch_size=12, lr=1e-2, ema=0.0, checkpoint_every=6)
    batches = lambda draw: BATCH  # noqa: E731
    whole, halves = expert(), expert()
    fit(whole, batches, objective, config, out=tmp_path / "whole", progress=False)
    for steps in (12, 30):
        fit(halves, batches, objective, replace(config, steps=steps, schedule="constant"), out=tmp_path / "halves", progress=False)
    once = expert()
    fit(once, batches, objective, replace(config, schedule="constant"), out=tmp_path / "once", progress=False)
    assert torch.equal(once.network.logits, halves.network.logits)
    assert not hasattr(whole, "times")
    kept = load_tensors(next((tmp_path / "whole").glob("step-*.safetensors")))
    assert float(kept["module.times.count"].sum()) == 360
    assert float(kept["module.times.square"].min()) > 0


def test_bound_is_a_bound() -> None:
    """On an absorbing path with a model that knows the law, T E[V_t] is the entropy."""
    q = torch.tensor([0.5, 0.25, 0.125, 0.125])
    model = expert(Absorbing(4))
    model.network.logits = nn.Parameter(q.log().expand(16, 4).clone())
    tokens = torch.multinomial(q, 4000 * 16, replacement=True, generator=torch.Generator().manual_seed(0)).reshape(4000, 16)
    found = TokenObjective("x", steps=50, auxiliary=0.0, condition=None)(model, {"x": tokens}, Draw(0, 0, 4000))
    assert float(found["loss"]) == pytest.approx(1.2130, abs=0.02)


def saved(build: Any) -> tuple[float, float]:
    """Value of a loss, and bytes that autograd keeps for its backward pass (each storage once)."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = build()
    return float(value.detach()), float(sum(kept.values()))


@pytest.mark.parametrize("path", [Absorbing(2048), MaskReplace(2048)])
def test_closed_form_needs_a_tenth_of_the_memory(path: Any) -> None:
    """K = 2048, L = 344, N = 10: the same loss as dense posteriors to 1e-5, with at most a tenth of what autograd keeps."""
    generator = torch.Generator().manual_seed(0)
    log_probs = (torch.randn(1, 344, 2048, generator=generator) * 2).log_softmax(-1).requires_grad_()
    candidates = torch.randint(2048, (1, 10, 344), generator=generator)
    t, s = 0.6, 0.59
    z = path.corrupt(candidates[:, 0], t, torch.rand(1, 344, 2, generator=generator))
    if isinstance(path, Absorbing):  # tokens that a negative cannot have come from carry no divergence
        z = torch.full_like(z, 2048)

    def dense() -> Tensor:
        model = model_posterior(path, log_probs, z, s, t).clamp(min=1e-30).log()
        total = torch.zeros(())
        for j in range(10):
            q = posterior(path, candidates[:, j], z, s, t).float()
            total = total + (torch.where(q > 0, q * (q.clamp(min=1e-30).log() - model), 0.0)).sum()
        return total / 3440

    ours, small = saved(lambda: Bound(path, log_probs, z, s, t).divergence(candidates).sum() / 3440)
    theirs, large = saved(dense)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-5)
    assert small <= large / 10
