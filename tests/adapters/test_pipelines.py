"""Tiny pipelines as experts: sampled alone they give the pipelines' own latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_pipelines import FAMILIES
from torch import Tensor

from polyscore.adapters.conformance import deviation
from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.pipelines import load_pipeline
from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import count_evaluations
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.product import Product, Term
from polyscore.sampling import sample

Family = Callable[[str], Path]


def test_a_negative_prompt_is_the_pipelines_own(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion")), "a red cat", "bad dog", guidance=5.0)
    assert deviation(expert) < 1e-4
    own, other = (PipelineExpert(str(family("stable_diffusion")), "a red cat", text, guidance=5.0) for text in (None, "bad dog"))
    z = {"image": torch.randn(1, *own.shapes["image"])}
    assert (own(z, {"image": 0.5})["image"].eps - other(z, {"image": 0.5})["image"].eps).abs().max() > 1e-3


def test_classifier_free_guidance_is_a_product_of_one_expert_in_one_call(family: Family) -> None:
    source = str(family("stable_diffusion"))
    guided, plain = PipelineExpert(source, "a red cat", guidance=4.0), PipelineExpert(source, "a red cat")
    product = Product([Term(plain, plain.prompt("a red cat"), strength=4.0, null=plain.null)])
    ours = sample(product, 2, seed=2, **plain.plan(4))["image"]
    assert torch.allclose(ours, sample(guided, 2, seed=2, **guided.plan(4))["image"], atol=1e-5)
    z = {"image": torch.randn(2, *plain.shapes["image"])}
    with count_evaluations(product) as evaluations:
        product(z, {"image": 0.5})
    assert (evaluations.calls, evaluations.rows) == (1, 4)


def test_prompts_of_a_batch_do_not_mix(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion")), "a red cat")
    numbers = torch.cat([expert.prompt("a red cat"), expert.prompt("the blue sea")])
    both = sample(expert, 2, condition=numbers, seed=3, **expert.plan(4))["image"]
    for i in (0, 1):
        alone = sample(expert, 1, condition=numbers[i : i + 1], seed=3, first=i, **expert.plan(4))["image"]
        assert torch.allclose(alone[0], both[i], atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_prompts_by_text_by_number_and_none(family: Family) -> None:
    """Texts are the numbers' prompts, -1 is the null, further prompts are part of a checkpoint, and each has an embedding."""
    expert = PipelineExpert(str(family("stable_diffusion")), "a red cat", prompts=["the blue sea", "a red cat", "bad dog"])
    assert int(expert.prompt("bad dog")) == 2
    z, t = {"image": torch.randn(3, *expert.shapes["image"])}, {"image": 0.5}
    by_text = expert(z, t, ["a red cat", "bad dog", "the blue sea"])["image"].eps
    assert torch.equal(by_text, expert(z, t, torch.tensor([0, 2, 1]))["image"].eps)
    null = expert(z, t, torch.tensor([-1, 2, 1]))["image"].eps
    assert torch.allclose(null[0], expert(z, t, expert.null)["image"].eps[0], atol=1e-6)
    assert not torch.allclose(null[0], by_text[0], atol=1e-4)
    told = expert.embed(torch.tensor([1, -1, 0]), 3)
    assert told.shape == (3, expert.text_size)
    assert not told[1].any()
    assert torch.equal(told[0], expert.embed("the blue sea", 1)[0])
    assert not torch.allclose(told[0], told[2])
    assert torch.allclose(told[2], expert._single["encoder_hidden_states"][0].mean(0))
    for wrong in (torch.tensor([0, 9, 0]), ["a", "b"], object()):
        with pytest.raises(PolyscoreError, match=r"expected (1 or 3|a) prompt"):
            expert(z, t, wrong)
    assert PipelineExpert(str(family("audio_ldm")), "a bell").text_size == 32
    plain = PipelineExpert(str(family("ddpm")), None)
    assert plain.text_size is None
    with pytest.raises(PolyscoreError, match="told no text"):
        plain.embed(None, 1)


def test_video_keeps_its_frames_on_the_time_axis(family: Family) -> None:
    assert PipelineExpert(str(family("animate_diff")), "a cat", call=FAMILIES["animate_diff"][1]).shapes == {"video": (4, 4, 8, 8)}
    assert PipelineExpert(str(family("ltx")), "a cat", call=FAMILIES["ltx"][1]).shapes["video"][0] == 8


def test_spaces_tell_which_models_can_be_multiplied(family: Family) -> None:
    one, other, third = (PipelineExpert(str(family(n)), "a cat") for n in ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"))
    assert one.spaces == other.spaces
    with pytest.raises(PolyscoreError, match="latent space"):
        Product([Term(one), Term(third)])


def test_a_checkpoint_names_the_pipeline_and_notices_other_weights(family: Family, tmp_path: Path) -> None:
    expert = PipelineExpert(str(family("stable_diffusion")), "a red cat", guidance=2.0)
    save_module(expert, tmp_path / "expert")
    again = load_module(tmp_path / "expert")
    z = {"image": torch.randn(1, *expert.shapes["image"])}
    assert torch.equal(again(z, {"image": 0.4})["image"].eps, expert(z, {"image": 0.4})["image"].eps)
    assert (tmp_path / "expert.safetensors").stat().st_size < 200
    text = (tmp_path / "expert.json").read_text()
    (tmp_path / "expert.json").write_text(text.replace(expert._spec["fingerprint"], "0" * 16))
    with pytest.raises(CheckpointError, match="expected a network with weights 0000"):
        load_module(tmp_path / "expert")


def test_the_networks_are_only_read(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion")), "a cat")
    z = torch.randn(1, *expert.shapes["image"], requires_grad=True)
    eps: Tensor = expert({"image": z}, {"image": 0.5})["image"].eps
    assert not any(p.requires_grad for p in load_pipeline(str(family("stable_diffusion"))).unet.parameters())
    assert "forward" not in load_pipeline(str(family("stable_diffusion"))).unet.__dict__
    assert eps.shape == z.shape


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a diffusers pipeline"):
        load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a diffusers pipeline"):
        load_pipeline(str(tmp_path))


def test_arguments_that_would_be_ignored_are_refused(family: Family) -> None:
    source = str(family("stable_diffusion"))
    for name, line in (("heigth", "expected one of .*height"), ("guidance_scale", "is set by polyscore"), ("eta", "not supported")):
        with pytest.raises(PolyscoreError, match=line):
            PipelineExpert(source, "a cat", call={name: 1})


def test_both_networks_of_wan_are_used(family: Family) -> None:
    expert = PipelineExpert(str(family("wan_two")), "a cat", call=FAMILIES["wan_two"][1])
    first, second = expert.pipe.transformer, expert.pipe.transformer_2
    assert expert._which(900.0) is first
    assert expert._which(800.0) is second


def test_an_observed_state_costs_no_network_call(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion")), "a cat")
    z = torch.randn(1, *expert.shapes["image"])
    expert._networks = ()
    found = expert({"image": z}, {"image": 0.0})["image"]
    assert torch.equal(found.x0, z)
    assert not found.eps.any()
