from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from training_tiny import Net, denoising, run, samples

from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.training import TrainConfig, TrainingInterruptedError


def weights(result):
    return {name: value.clone() for name, value in result.module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def log(folder):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(folder)
    return result, weights(result), log(folder)


def sent_at(step, number=signal.SIGINT):
    def loss(net, batch, draw):
        if draw.step == step:
            os.kill(os.getpid(), number)
        return denoising(net, batch, draw)

    return loss


def test_a_run_learns_logs_and_reports(tmp_path, whole):
    result, _, lines = whole
    assert result.steps == 60 and result.resumed == 0 and not result.module.training
    assert [line["step"] for line in lines] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert set(lines[0]) == {"step", "loss", "loss[0.00,0.50)", "loss[0.50,1.00)", "lr"}
    assert result.scalars["loss"] < lines[0]["loss"]
    assert result.module.frozen.eq(1).all()
    assert result.module.calls == 60


def test_the_caller_keeps_its_random_state(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(tmp_path, steps=2)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_saves_and_resumes_to_the_same_weights_and_log(tmp_path, whole, number):
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterruptedError, match="after step 33 of 60 and was saved; run the same command again to resume"):
        run(tmp_path, loss=sent_at(32, number))
    assert signal.getsignal(number) is before
    result = run(tmp_path, net=Net().eval())
    assert result.resumed == 33
    assert_same(weights(result), whole[1])
    assert log(tmp_path) == whole[2]


def test_a_second_interrupt_stops_at_once(tmp_path):
    def loss(net, batch, draw):
        for _ in range(2 * (draw.step == 12)):
            os.kill(os.getpid(), signal.SIGINT)
        return denoising(net, batch, draw)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=loss)
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 10


def test_an_error_in_the_objective_leaves_a_run_that_resumes(tmp_path, whole):
    def loss(net, batch, draw):
        if draw.step == 25:
            raise RuntimeError("power cut")
        return denoising(net, batch, draw)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, loss=loss)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 28, "lo')
    result = run(tmp_path)
    assert result.resumed == 20
    assert_same(weights(result), whole[1])
    assert log(tmp_path) == whole[2]


def test_a_finished_run_returns_at_once_and_grows(tmp_path):
    fields = {"schedule": "constant", "log_every": 10}
    whole = weights(run(tmp_path / "whole", **fields, steps=40))
    short = run(tmp_path / "grown", **fields, steps=20)
    again = run(tmp_path / "grown", **fields, steps=20)
    assert again.resumed == 20 and again.scalars == short.scalars
    assert_same(weights(again), weights(short))
    assert_same(weights(run(tmp_path / "grown", **fields, steps=40)), whole)
    with pytest.raises(PolyscoreError, match=r"steps: expected 40 or more \(done before\), found 30"):
        run(tmp_path / "grown", **fields, steps=30)


def test_starting_over(tmp_path, whole):
    run(tmp_path, steps=30, lr=0.1)
    result = run(tmp_path, resume=False)
    assert result.resumed == 0
    assert_same(weights(result), whole[1])
    assert log(tmp_path) == whole[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.01}, "lr: expected 0.003 as before, found 0.01"),
        ({"batch_size": 8}, "batch_size: expected 9 as before, found 8"),
        ({"seed": 1}, "seed: expected 0 as before, found 1"),
        ({"data": samples(49)}, "samples: expected 50 as before, found 49"),
        ({"facts": {"path": "linear"}}, "path: expected 'cosine' as before, found 'linear'"),
        ({"facts": {}}, "path: expected 'cosine' as before, found None"),
        ({"net": torch.nn.Linear(2, 2)}, "module: expected 'Net' as before, found 'Linear'"),
    ],
)
def test_resuming_with_another_configuration(tmp_path, change, message):
    same = {"steps": 2, "facts": {"path": "cosine"}}
    run(tmp_path, **same)
    files = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(PolyscoreError, match=f"cannot resume: {message}"):
        run(tmp_path, **{**same, **change})
    assert files == {p: p.read_bytes() for p in tmp_path.iterdir()}


def test_resuming_a_module_of_another_shape(tmp_path):
    run(tmp_path, steps=2)
    with pytest.raises(CheckpointError, match=r"step-00000002.safetensors: tensor 'body.0.weight' has shape \(32, 7\), expected \(16, 7\)"):
        run(tmp_path, steps=4, net=Net(width=16))


def poisoned(net, batch, draw):
    found = denoising(net, batch, draw)
    return {**found, "loss": found["loss"] * (float("nan") if draw.step == 25 else 1.0)}


def steep(net, batch, draw):
    loss = denoising(net, batch, draw)["loss"]
    return loss + (loss - loss.detach()).clamp(min=0).sqrt() if draw.step == 25 else loss


@pytest.mark.parametrize(("loss", "found"), [(poisoned, "loss nan"), (steep, "gradient norm nan")])
def test_a_loss_or_gradient_that_is_not_finite(tmp_path, loss, found):
    with pytest.raises(PolyscoreError, match=f"step 26: .*{found}.*expected finite numbers .the checkpoint before is kept"):
        run(tmp_path, loss=loss)
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 20
    with pytest.raises(PolyscoreError, match="no checkpoint was written yet"):
        run(tmp_path / "new", loss=loss, checkpoint_every=50)


def test_the_average_and_the_last_weights_differ(tmp_path, whole):
    assert not torch.equal(weights(run(tmp_path, average=False))["body.0.weight"], whole[1]["body.0.weight"])
    averaged, last = run(tmp_path / "a", ema=0.0), run(tmp_path / "b", ema=0.0, average=False)
    assert_same(weights(averaged), weights(last))


def test_bf16_computes_low_and_keeps_weights_high(tmp_path):
    seen = []

    def loss(net, batch, draw):
        seen.append(net.body(torch.zeros(1, 7)).dtype)
        return denoising(net, batch, draw)

    result = run(tmp_path, steps=5, precision="bf16", loss=loss)
    assert set(seen) == {torch.bfloat16}
    assert result.module.body[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    "field",
    [
        {"lr": 0.0},
        {"steps": 0},
        {"batch_size": 0},
        {"ema": 1.0},
        {"clip": 0.0},
        {"warmup": -1},
        {"schedule": "linear"},
        {"precision": "fp8"},
    ],
)
def test_fields_out_of_range(field):
    (name,) = field
    with pytest.raises(PolyscoreError, match=f"^{name}: expected .*, found "):
        TrainConfig(**field)


def test_a_module_without_trainable_parameters(tmp_path):
    with pytest.raises(PolyscoreError, match="Identity: expected at least one trainable parameter"):
        run(tmp_path, net=torch.nn.Identity())


def test_the_rate_rises_then_falls():
    config = TrainConfig(steps=100, warmup=9, lr=1.0)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(rates[9], abs=0.02) and rates[-1] < 1e-3
    assert TrainConfig(steps=100, warmup=0, lr=1.0, schedule="constant").rate(99) == 1.0
