"""Tiny pipelines as experts: sampled alone they give the pipelines' own latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import FAMILIES
from torch import Tensor

from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.pipelines import load_pipeline
from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import count_evaluations
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.product import Product, Term
from polyscore.sampling import Streams, sample

STEPS = 4
Family = Callable[[str], Path]


def asked(name: str, text: str, n: int) -> dict[str, Any]:
    if name == "dit":
        return {"class_labels": [int(text)] * n}
    return {"batch_size": n} if name == "ddpm" else {"prompt": [text] * n}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_adapted_expert_gives_the_pipelines_own_latents(name: str, guidance: float, family: Family, own_latents: Any) -> None:
    if name == "ddpm" and guidance != 1:
        pytest.skip("has no condition")
    text, call = "7" if name == "dit" else "a red cat", FAMILIES[name][1]
    source = str(family(name))
    expert = PipelineExpert(source, text, guidance=guidance, call=call)
    modality = expert.modality
    schedule, _ = expert.schedule(STEPS)
    noise = Streams(5, range(2)).normal(modality, expert.shapes[modality])
    found = sample(expert, 2, seed=5, **expert.plan(STEPS))[modality]
    scale = "true_cfg_scale" if name == "flux" else "guidance_scale"
    more = {"negative_prompt": [""] * 2} if name == "flux" and guidance != 1 else {}
    own = own_latents(
        load_pipeline(source),
        expert.layout.pack(schedule.latents(noise)),
        num_inference_steps=STEPS,
        output_type="latent",
        **{scale: guidance},
        **asked(name, text, 2),
        **more,
        **call,
    )
    expected = expert.layout.unpack(own[:2])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


def test_a_negative_prompt_is_the_pipelines_own(family: Family, own_latents: Any) -> None:
    source = str(family("stable_diffusion"))
    expert = PipelineExpert(source, "a red cat", "bad dog", guidance=5.0)
    schedule, _ = expert.schedule(STEPS)
    noise = Streams(1, range(1)).normal("image", expert.shapes["image"])
    own = own_latents(
        load_pipeline(source),
        schedule.latents(noise),
        prompt="a red cat",
        negative_prompt="bad dog",
        guidance_scale=5.0,
        num_inference_steps=STEPS,
        output_type="latent",
    )
    assert (sample(expert, 1, seed=1, **expert.plan(STEPS))["image"] - own).abs().max() < 1e-4


def test_classifier_free_guidance_is_a_product_of_one_expert_in_one_call(family: Family) -> None:
    source = str(family("stable_diffusion"))
    guided, plain = PipelineExpert(source, "a red cat", guidance=4.0), PipelineExpert(source, "a red cat")
    product = Product([Term(plain, plain.prompt("a red cat"), strength=4.0, null=plain.null)])
    ours = sample(product, 2, seed=2, **plain.plan(STEPS))["image"]
    assert torch.allclose(ours, sample(guided, 2, seed=2, **guided.plan(STEPS))["image"], atol=1e-5)
    z = {"image": torch.randn(2, *plain.shapes["image"])}
    with count_evaluations(product) as evaluations:
        product(z, {"image": 0.5})
    assert (evaluations.calls, evaluations.rows) == (1, 4)


def test_prompts_of_a_batch_do_not_mix(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion")), "a red cat")
    numbers = torch.cat([expert.prompt("a red cat"), expert.prompt("the blue sea")])
    both = sample(expert, 2, condition=numbers, seed=3, **expert.plan(STEPS))["image"]
    for i in (0, 1):
        alone = sample(expert, 1, condition=numbers[i : i + 1], seed=3, first=i, **expert.plan(STEPS))["image"]
        assert torch.allclose(alone[0], both[i], atol=1e-5)
    assert not torch.allclose(both[0], both[1], atol=1e-3)


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
