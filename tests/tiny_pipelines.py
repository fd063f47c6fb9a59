"""Diffusers pipelines of every known architecture with random weights, small enough for a test; nothing is fetched."""

import json
from pathlib import Path
from typing import Any

import torch

WORDS = "a and on top bottom left right white red green blue circle square photo of".split()
NAMES = ("sd", "sdxl", "sdxl-turbo", "flux-dev", "flux-schnell")


def save_pipeline(name: str, directory: Path) -> Path:
    """Write the tiny pipeline `name` of `NAMES`; its own images are 32 pixels wide (FLUX's are told to be)."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    tokens = _clip_tokenizer(directory.with_name(f"{directory.name}-tokens"))
    made = {"sd": _sd, "sdxl": _sdxl, "flux": _flux}[name.split("-")[0]](name, tokens)
    made.save_pretrained(directory)
    return directory


def _sd(name: str, tokens: Any) -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    scheduler: Any = PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear")
    return StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=_clip(tokens),
        tokenizer=tokens,
        unet=_unet(cross_attention_dim=32),
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def _sdxl(name: str, tokens: Any) -> Any:
    from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline

    kind: Any = EulerAncestralDiscreteScheduler if name == "sdxl-turbo" else EulerDiscreteScheduler
    spacing = "trailing" if name == "sdxl-turbo" else "leading"
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=_clip(tokens),
        text_encoder_2=_clip(tokens, projects=True),
        tokenizer=tokens,
        tokenizer_2=tokens,
        unet=_unet(
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,
        ),
        scheduler=kind(beta_schedule="scaled_linear", timestep_spacing=spacing),
    )


def _flux(name: str, tokens: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    is_dev = name == "flux-dev"
    t5 = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=is_dev,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if is_dev else 1.0, use_dynamic_shifting=is_dev),
        vae=_autoencoder(
            shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=_clip(tokens),
        tokenizer=tokens,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )


def _autoencoder(**options: Any) -> Any:
    from diffusers import AutoencoderKL

    blocks: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return AutoencoderKL(**blocks, latent_channels=4, sample_size=32, norm_num_groups=8, **options)


def _unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        **options,
    )


def _clip(tokens: Any, projects: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


def _clip_tokenizer(folder: Path) -> Any:
    """CLIP's byte-pair tokenizer that knows `WORDS` whole and spells the others."""
    from transformers import CLIPTokenizer

    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*characters, *(f"{character}</w>" for character in characters)]
    merges: dict[str, None] = {}
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges[f"{parts[0]} {parts[1]}"] = None
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens += [parts[0]] if parts[0] not in tokens else []
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _t5_tokenizer() -> Any:
    """T5's unigram tokenizer over `WORDS` and single letters."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = [(chr(code), -6.0) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + letters
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = getattr(transformers, "T5TokenizerFast")  # noqa: B009 (the name FLUX's directories use; untyped)
    return fast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=512)
