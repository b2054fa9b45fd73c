"""`polyscore compose` and the codecs of pipelines, on tiny pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import FAMILIES, stable_diffusion

from polyscore.adapters.codecs import codec_of, frames_a_second, media_of, sample_rate
from polyscore.adapters.compose import compose, compose_product, recompose
from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.pipelines import load_pipeline
from polyscore.checkpoint import load_module, save_module
from polyscore.cli import main
from polyscore.errors import PolyscoreError
from polyscore.media import read_image, read_metadata
from polyscore.sampling import sample

Family = Callable[[str], Path]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another Stable Diffusion on the same autoencoder, with velocities and another schedule."""
    import diffusers

    folder = tmp_path_factory.mktemp("second") / "pipe"
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", prediction_type="v_prediction", clip_sample=False)
    stable_diffusion(folder, scheduler, seed=21).save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_product_of_two_pipelines_is_the_formula_at_equal_snr(family: Family, second: Path) -> None:
    one = str(family("stable_diffusion"))
    product, (a, b) = compose_product({"a": f"{one}:a red cat", "b": f"{second}:the sea"}, {"a": 3.0, "b": 2.0}, {"a": 0.25, "b": 0.75})
    z, t = {"state": torch.randn(2, *product.shapes["state"])}, 0.4
    tau = b.path.time_of(a.path.log_snr(t))
    eps = {
        k: [e(z, {"state": s}, c)["state"].eps for c in (e.prompt(text), e.null)]
        for k, e, s, text in (("a", a, t, "a red cat"), ("b", b, tau, "the sea"))
    }
    u = 0.25 * eps["a"][1] + 0.75 * eps["b"][1]
    expected = u + 3 * (eps["a"][0] - u) + 2 * (eps["b"][0] - u)
    assert (product(z, {"state": t})["state"].eps - expected).abs().max() < 1e-4


def test_prompts_of_one_pipeline_are_one_expert(family: Family) -> None:
    one = str(family("stable_diffusion"))
    product, experts = compose_product({"a": f"{one}:a cat", "b": f"{one}:the sea"}, reliability={"a": 0.5, "b": 0.5})
    assert len(experts) == len(product.experts) == 1
    assert product.reliability == {"a": 1.0}


def test_files_carry_the_run_and_repeat_it(family: Family, second: Path, tmp_path: Path) -> None:
    expert = {"a": f"{family('stable_diffusion')}:a red cat", "b": f"{second}:the sea"}
    files = compose(expert, n=2, steps=3, seed=4, out=tmp_path / "one")
    assert [f.name for f in files] == ["0000.png", "0001.png"]
    found = read_metadata(files[1])
    assert found["run"]["seed"] == 4
    assert sum(found["prior"].values()) == pytest.approx(1)
    again = recompose(files[1], tmp_path / "two")
    assert torch.equal(read_image(again[1]), read_image(files[1]))


def test_the_command(family: Family, second: Path, tmp_path: Path, capsys: Any) -> None:
    one = str(family("stable_diffusion"))
    arguments = ["--expert", f"a={one}:a red cat", f"b={second}:the sea", "--strength", "a=2", "b=3", "--reliability", "a=.5", "b=.5"]
    assert main(["compose", *arguments, "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "0000.png").is_file()
    assert main(["compose", "--from", str(tmp_path / "out" / "0000.png"), "--out", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    other = str(family("stable_diffusion_3"))
    assert main(["compose", "--expert", f"a={one}:a cat", f"b={other}:a cat", "--out", str(tmp_path / "no")]) == 2
    assert "their autoencoders differ" in capsys.readouterr().err
    assert main(["compose", "--expert", f"a={one}:a cat", "--strength", "c=1"]) == 2
    assert "strength of 'c', expected one of a" in capsys.readouterr().err
    assert main(["compose"]) == 2
    assert not (tmp_path / "no").exists()


def test_windows_masks_priors_and_particles_from_the_command_line(family: Family, second: Path, tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    one = str(family("stable_diffusion"))
    base = ["compose", "--expert", f"a={one}:a red cat", f"b={second}:the sea", "--strength", "a=2", "b=3", "--steps", "2"]

    def run(name: str, *more: str) -> torch.Tensor:
        assert main([*base, *more, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
        return read_image(tmp_path / name / "0000.png")

    plain = run("plain")
    assert torch.equal(run("white", "--mask", f"a={tmp_path}/white.png"), plain)
    assert not torch.equal(run("black", "--mask", f"a={tmp_path}/black.png"), plain)
    assert torch.equal(run("all", "--window", '{"a": [0.0, 1.0]}'), plain)
    assert not torch.equal(run("late", "--window", '{"a": [0.0, 0.2]}'), plain)
    run("prior", "--prior", "a=0.25", "b=0.75")
    assert read_metadata(tmp_path / "prior" / "0000.png")["prior"] == pytest.approx({"a": 0.25, "b": 0.75})
    exact = run("exact", "--particles", "2", "--diagnostics", "true")
    assert read_metadata(tmp_path / "exact" / "0000.png")["particles"]["per_sample"] == 2
    assert (tmp_path / "exact" / "diagnostics.json").is_file()
    assert main(["compose", "--from", str(tmp_path / "exact" / "0000.png"), "--out", str(tmp_path / "again")]) == 0
    assert torch.equal(read_image(tmp_path / "again" / "0000.png"), exact)
    assert main([*base, "--window", '{"a": [0.6, 0.1]}', "--out", str(tmp_path / "no")]) == 2
    assert "expected two times from 0 to 1" in capsys.readouterr().err


def test_different_sizes_are_refused(family: Family) -> None:
    with pytest.raises(PolyscoreError, match="latent space"):
        compose_product({"a": f"{family('stable_diffusion')}:a", "b": f"{family('ddpm')}:"})


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "ddpm"])
def test_codecs_decode_as_the_pipeline_does_and_come_back_in_shape(name: str, family: Family) -> None:
    expert = PipelineExpert(str(family(name)), "7" if name == "dit" else "a cat", call=FAMILIES[name][1])
    codec = codec_of(expert)
    z = torch.randn(2, *expert.shapes[expert.modality])
    data = codec.decode(z)
    assert tuple(data.shape[1:]) == codec.data_shape
    assert codec.encode(data).shape == z.shape
    assert len(codec.data_shape) == {"image": 3, "video": 4, "audio": 1}[expert.kind]
    assert media_of(expert)["kind"] == expert.kind


def test_scales_and_shifts_are_the_pipelines_own(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion_3")), "a cat")
    vae, codec = load_pipeline(str(family("stable_diffusion_3"))).vae, codec_of(expert)
    z = torch.randn(1, *expert.shapes["image"])
    with torch.no_grad():
        own = vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor)[0]
        assert torch.allclose(codec.decode(z), (own / 2 + 0.5).clamp(0, 1), atol=1e-6)
        x = torch.rand(1, *codec.data_shape)
        mean = vae.encode(2 * x - 1).latent_dist.mean
    assert torch.allclose(codec.encode(x), (mean - vae.config.shift_factor) * vae.config.scaling_factor, atol=1e-6)


def test_video_and_audio_decode_as_the_pipelines_call(family: Family) -> None:
    for name, scale in (("wan", None), ("ltx", None), ("animate_diff", None)):
        source, call = str(family(name)), FAMILIES[name][1]
        expert, pipe = PipelineExpert(source, "a cat", call=call), load_pipeline(source)
        schedule, _ = expert.schedule(2)
        noise = torch.randn(1, *expert.shapes["video"])
        start = expert.layout.pack(schedule.latents(noise))
        options = {"prompt": "a cat", "num_inference_steps": 2, "guidance_scale": 1.0, "latents": start, **call}
        latents = pipe(**options, output_type="latent").frames
        frames = pipe(**options, output_type="pt").frames
        assert (codec_of(expert).decode(expert.layout.unpack(latents)) - frames).abs().max() < 1e-4, (name, scale)
    audio = PipelineExpert(str(family("audio_ldm")), "a bell")
    assert sample_rate(audio.pipe) == 16000
    assert frames_a_second(load_pipeline(str(family("ltx"))), {}) == 25


def test_a_codec_is_stored_by_name(family: Family, tmp_path: Path) -> None:
    codec = codec_of(PipelineExpert(str(family("stable_diffusion")), "a cat"))
    save_module(codec, tmp_path / "codec")
    again = load_module(tmp_path / "codec")
    z = torch.randn(1, *codec.latent_shape)
    assert torch.equal(again.decode(z), codec.decode(z))
    assert (tmp_path / "codec.safetensors").stat().st_size < 200


def test_any_solver_and_grid_samples_a_pipeline(family: Family) -> None:
    expert = PipelineExpert(str(family("stable_diffusion_3")), "a cat")
    for solver in ("dpmpp", "heun", "ddpm"):
        assert torch.isfinite(sample(expert, 1, steps=3, solver=solver)["image"]).all()
