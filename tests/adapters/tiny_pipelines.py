"""Tiny pipelines with random weights, built as diffusers' own tests build theirs, with tokenizers from a local vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

WORDS = ["a", "cat", "dog", "red", "blue", "ball", "sea", "bell", "rings", "runs", "barks", "of", "the", "on", "bad"]
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def clip_tokenizer(folder: Path) -> Any:
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for word in WORDS:
        vocabulary[f"{word}</w>"] = len(vocabulary)
    for letter in "abcdefghijklmnopqrstuvwxyz":
        for end in ("", "</w>"):
            vocabulary.setdefault(f"{letter}{end}", len(vocabulary))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


def roberta_tokenizer() -> Any:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    vocabulary |= {letter: 5 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz\u0120")}
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz")]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16)


def clip_text(width: int = 32, kind: str = "CLIPTextModel") -> Any:
    config = transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=100,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        max_position_embeddings=16,
    )
    return getattr(transformers, kind)(config)


def t5_text(kind: str = "T5EncoderModel") -> Any:
    config = {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    if kind == "UMT5EncoderModel":
        return transformers.UMT5EncoderModel(transformers.UMT5Config(**config))
    return getattr(transformers, kind)(transformers.T5Config(**config))


def image_vae(channels: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=[8, 16],
        norm_num_groups=4,
        in_channels=options.pop("in_channels", 3),
        out_channels=options.pop("out_channels", 3),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        **options,
    )


def text_unet(**options: Any) -> Any:
    chosen = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "sample_size": 8,
        "norm_num_groups": 1,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    }
    return diffusers.UNet2DConditionModel(**{**chosen, **options})


def stable_diffusion(folder: Path, scheduler: Any = None, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return diffusers.StableDiffusionPipeline(
        unet=text_unet(),
        vae=image_vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(folder / "tok"),
        scheduler=scheduler or diffusers.DDIMScheduler(**LATENT, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: Path) -> Any:
    torch.manual_seed(2)
    unet = text_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        projection_class_embeddings_input_dim=8 * 6 + 32,
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
    )
    return diffusers.StableDiffusionXLPipeline(
        unet=unet,
        vae=image_vae(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(kind="CLIPTextModelWithProjection"),
        tokenizer=clip_tokenizer(folder / "tok"),
        tokenizer_2=clip_tokenizer(folder / "tok"),
        scheduler=diffusers.EulerDiscreteScheduler(**LATENT, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def stable_diffusion_3(folder: Path) -> Any:
    torch.manual_seed(3)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=16,
    )
    one, two = (clip_text(kind="CLIPTextModelWithProjection") for _ in range(2))
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        vae=image_vae(shift_factor=0.0609, scaling_factor=1.5305),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=one,
        text_encoder_2=two,
        text_encoder_3=t5_text(),
        tokenizer=clip_tokenizer(folder / "tok"),
        tokenizer_2=clip_tokenizer(folder / "tok"),
        tokenizer_3=word_tokenizer(),
    )


def flux(folder: Path) -> Any:
    torch.manual_seed(4)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    return diffusers.FluxPipeline(
        transformer=transformer,
        vae=image_vae(4, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        text_encoder=clip_text(),
        text_encoder_2=t5_text(),
        tokenizer=clip_tokenizer(folder / "tok"),
        tokenizer_2=word_tokenizer(),
    )


def animate_diff(folder: Path) -> Any:
    torch.manual_seed(5)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(4, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=4
    )
    return diffusers.AnimateDiffPipeline(
        unet=text_unet(norm_num_groups=2),
        vae=image_vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(folder / "tok"),
        motion_adapter=adapter,
        scheduler=diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1),
    )


def vocoder() -> Any:
    return transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[5, 4, 8],
            upsample_kernel_sizes=[11, 8, 16],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )


def audio_ldm(folder: Path) -> Any:
    from diffusers.pipelines.deprecated import AudioLDMPipeline

    torch.manual_seed(6)
    unet = text_unet(
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=32,
        class_embeddings_concat=True,
        block_out_channels=(8, 16),
        norm_num_groups=8,
    )
    config = transformers.ClapTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=100,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        max_position_embeddings=40,
    )
    return AudioLDMPipeline(
        unet=unet,
        vae=image_vae(in_channels=1, out_channels=1),
        text_encoder=transformers.ClapTextModelWithProjection(config),
        tokenizer=word_tokenizer(),
        vocoder=vocoder(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
    )


def audio_ldm_2(folder: Path) -> Any:
    torch.manual_seed(12)
    unet = diffusers.AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(8, 16),
    )
    text = {
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 37,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "projection_dim": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "max_position_embeddings": 40,
    }
    audio = {
        "spec_size": 8,
        "window_size": 4,
        "num_mel_bins": 8,
        "intermediate_size": 37,
        "hidden_size": 8,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_hidden_layers": 2,
        "num_attention_heads": [1, 1],
        "projection_dim": 8,
        "hop_size": 16,
    }
    clap = transformers.ClapModel(transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16))
    t5 = transformers.T5EncoderModel(transformers.T5Config(vocab_size=100, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2))
    from diffusers import AudioLDM2ProjectionModel

    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=100, n_ctx=99, n_positions=99, max_new_tokens=8)
    )
    return diffusers.AudioLDM2Pipeline(
        unet=unet,
        vae=image_vae(in_channels=1, out_channels=1),
        text_encoder=clap,
        text_encoder_2=t5,
        tokenizer=roberta_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        feature_extractor=transformers.ClapFeatureExtractor(feature_size=8, hop_length=160),
        language_model=gpt,
        projection_model=AudioLDM2ProjectionModel(text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16),
        vocoder=vocoder(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
    )


def stable_audio(folder: Path) -> Any:
    torch.manual_seed(7)
    transformer = diffusers.StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        num_layers=2,
        attention_head_dim=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
        num_attention_heads=2,
    )
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    text = transformers.T5EncoderModel(transformers.T5Config(d_model=4, d_kv=2, d_ff=8, num_layers=1, num_heads=2, vocab_size=100))
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    return diffusers.StableAudioPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=text,
        tokenizer=word_tokenizer(),
        projection_model=StableAudioProjectionModel(text_encoder_dim=4, conditioning_dim=4, min_value=0, max_value=32),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential", sigma_min=0.3, sigma_max=500
        ),
    )


def ltx(folder: Path) -> Any:
    torch.manual_seed(8)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return diffusers.LTXPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=t5_text(),
        tokenizer=word_tokenizer(),
    )


def wan(folder: Path) -> Any:
    torch.manual_seed(9)
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
    return diffusers.WanPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=t5_text("UMT5EncoderModel"),
        tokenizer=word_tokenizer(),
        transformer_2=None,
        scheduler=diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    )


def wan_two(folder: Path) -> Any:
    """Wan 2.2: a second network below the boundary."""
    pipe = wan(folder)
    torch.manual_seed(13)
    second = diffusers.WanTransformer3DModel(**{k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")})
    parts = {**pipe.components, "transformer_2": second}
    return diffusers.WanPipeline(**parts, boundary_ratio=0.875)


def latent_consistency(folder: Path) -> Any:
    """A network that takes its guidance as an input."""
    torch.manual_seed(14)
    return diffusers.LatentConsistencyModelPipeline(
        unet=text_unet(time_cond_proj_dim=32),
        vae=image_vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(folder / "tok"),
        scheduler=diffusers.LCMScheduler(**LATENT, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ddpm(folder: Path) -> Any:
    torch.manual_seed(10)
    unet = diffusers.UNet2DModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler())


def dit(folder: Path) -> Any:
    torch.manual_seed(11)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return diffusers.DiTPipeline(transformer=transformer, vae=image_vae(), scheduler=diffusers.DDIMScheduler(clip_sample=False))


VIDEO = {"height": 16, "width": 16, "num_frames": 4}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "stable_diffusion": (stable_diffusion, {}),
    "stable_diffusion_xl": (stable_diffusion_xl, {}),
    "stable_diffusion_3": (stable_diffusion_3, {}),
    "flux": (flux, {"height": 16, "width": 16, "max_sequence_length": 16}),
    "animate_diff": (animate_diff, {"num_frames": 4}),
    "audio_ldm": (audio_ldm, {}),
    "audio_ldm_2": (audio_ldm_2, {"max_new_tokens": 4}),
    "stable_audio": (stable_audio, {"audio_end_in_s": 1.0}),
    "ltx": (ltx, {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16}),
    "wan": (wan, {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}),
    "wan_two": (wan_two, {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}),
    "latent_consistency": (latent_consistency, {}),
    "ddpm": (ddpm, {}),
    "dit": (dit, {}),
}
