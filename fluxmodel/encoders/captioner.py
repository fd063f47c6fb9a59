"""A captioner: any image-text-to-text directory of transformers, from a hub or trained here, read by the Auto classes.

The one trained here is a small BLIP (Li et al. 2022, arXiv:2201.12086): a vision transformer over small patches and
a text decoder that attends to it, over a word-level vocabulary. Both are read, prompted and decoded alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fluxmodel.errors import InputError
from fluxmodel.pretrained_folder import quiet_libraries, read_json, refuse_pickles

PROMPT = "Describe the image in one sentence."
_TASK_PROMPTS = {"florence2": "<DETAILED_CAPTION>", "paligemma": "<image>caption en"}
"""Prompts of families that know tasks instead of questions."""
FINISHES = ("end", "length", "refused", "unknown")
"""Its writer ended it, ran out of tokens, declined to write it, or did not say."""
_POSITION_STD = 0.5


class CaptionerConfig(BaseModel):
    """Shape of the captioner trained here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=36, gt=0, description="Side to which images are resized, pixels.")
    patch_size: int = Field(default=6, gt=0, description="Side of a patch, pixels.")
    width: int = Field(default=96, gt=0, description="Width of both transformers.")
    image_layers: int = Field(default=4, gt=0, description="Layers that read the image.")
    text_layers: int = Field(default=2, gt=0, description="Layers that write the caption.")
    num_heads: int = Field(default=4, gt=0, description="Attention heads of both.")
    max_tokens: int = Field(default=20, gt=2, description="Words of a caption, with start and end.")


class Written(NamedTuple):
    """A caption and how sure its writer was."""

    text: str
    score: float | None
    """Mean log-probability of its tokens, the end among them; None where the writer does not say."""
    num_tokens: int | None
    finish: str = "end"
    """How it came to its end, one of `FINISHES`."""


class Captioner:
    """A vision-language model with its processor."""

    def __init__(self, model: Any, processor: Any, prompt: str | None = None, max_tokens: int = 64):
        self.model = model
        self.processor = processor
        self.max_tokens = max_tokens
        self.text = _prompt(model, processor, prompt)

    @property
    def name(self) -> str:
        """Its architecture, as its configuration says."""
        return str(self.model.config.model_type)

    @property
    def prompt_hash(self) -> str:
        """Digest of what it is told beside the image."""
        return hashlib.sha256((self.text or "").encode()).hexdigest()[:12]

    @classmethod
    def create(cls, config: CaptionerConfig, tokenizer: Any) -> Captioner:
        """Build an untrained one over a tokenizer's vocabulary; weights come from torch's global generator."""
        from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor

        shape = {
            "hidden_size": config.width,
            "intermediate_size": 4 * config.width,
            "num_attention_heads": config.num_heads,
            "initializer_range": config.width**-0.5,
        }
        vision = {"image_size": config.image_size, "patch_size": config.patch_size}
        text = {
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": config.width,
            "max_position_embeddings": config.max_tokens,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "sep_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "is_decoder": True,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        model = BlipForConditionalGeneration(
            BlipConfig(
                vision_config={**shape, **vision, "num_hidden_layers": config.image_layers},
                text_config={**shape, **text, "num_hidden_layers": config.text_layers},
                projection_dim=config.width,
            )
        )
        for name, parameter in model.named_parameters():
            if (
                "position_embedding" in name
            ):  # at the usual 0.02 places are learned late: 0.21 exact against 0.52
                torch.nn.init.normal_(parameter, std=_POSITION_STD)
        processor = BlipProcessor(image_processor=_image_processor(config.image_size), tokenizer=tokenizer)
        return cls(model, processor, max_tokens=config.max_tokens - 1)

    @classmethod
    def from_directory(cls, directory: str | Path, prompt: str | None = None) -> Captioner:
        """Read an image-text-to-text directory in transformers' layout; nothing is downloaded.

        Args:
            directory: config.json, weights, tokenizer and processor.
            prompt: what to ask; by default what its family expects.

        Raises:
            InputError: there is none, what is there does not caption images, or reading it would run code of its own.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if not (Path(directory) / "config.json").is_file():
            raise InputError(
                f"{directory}: no config.json there; name the directory of an image-text-to-text model of transformers"
            )
        refuse_pickles(Path(directory))
        _refuse_remote_code(Path(directory))
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            with quiet_libraries():
                processor = AutoProcessor.from_pretrained(str(directory), **local)
                model = AutoModelForImageTextToText.from_pretrained(
                    str(directory), dtype=torch.float32, use_safetensors=True, **local
                )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{directory}: transformers finds no captioner there ({reason}); "
                "it needs an image-text-to-text model with its tokenizer and processor"
            ) from error
        if getattr(processor, "image_processor", None) is None:
            raise InputError(
                f"{directory}: its processor takes no images; add preprocessor_config.json of the model"
            )
        text_config = getattr(model.config, "text_config", None)
        places = getattr(text_config, "max_position_embeddings", None) or 65
        return cls(model.eval(), processor, prompt, max_tokens=min(64, places - 1))

    def save(self, directory: str | Path) -> None:
        """Write the transformers directory."""
        self.model.save_pretrained(str(directory))
        self.processor.save_pretrained(str(directory))

    def pixel_values(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        """Return images as its own processor prepares them."""
        return self.processor.image_processor(_pictures(images), return_tensors="pt")["pixel_values"]

    def caption(self, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 500) -> list[Written]:
        """Caption images greedily."""
        return [written for part in images.split(batch_size) for written in self._batch(part)]

    @torch.inference_mode()
    def _batch(self, images: Tensor) -> Iterator[Written]:
        pictures = _pictures(images)
        if self.text is None:
            inputs = {"pixel_values": self.pixel_values(images)}
        else:
            # Some processors take images as one flat list, others as one list a text.
            texts = [self.text] * len(pictures)
            inputs = self.processor(images=pictures, text=texts, padding=True, return_tensors="pt")
        result = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._room(inputs.get("input_ids")),
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = result.sequences[:, -len(result.logits) :]
        logged = torch.stack([step.float().log_softmax(-1) for step in result.logits], dim=1)
        chosen = logged.gather(2, tokens.unsqueeze(2)).squeeze(2)
        counted = _counted(tokens, self._end_ids())
        scores = (chosen * counted).sum(1) / counted.sum(1)
        texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        counts, ended = counted.sum(1).tolist(), self._ends(tokens).any(1).tolist()
        for text, score, count, end in zip(texts, scores.tolist(), counts, ended, strict=True):
            yield Written(" ".join(text.split()), score, int(count), "end" if end else "length")

    def _room(self, asked: Tensor | None) -> int:
        """Return how many tokens may be written behind a question: places are learned, and there is none beyond."""
        places = getattr(getattr(self.model.config, "text_config", None), "max_position_embeddings", None)
        if asked is None or places is None:
            return self.max_tokens
        return max(1, min(self.max_tokens, places - asked.shape[1]))

    def _ends(self, tokens: Tensor) -> Tensor:
        return torch.isin(tokens, torch.tensor(self._end_ids()))

    def _end_ids(self) -> list[int]:
        generation = self.model.generation_config.eos_token_id
        ids = generation if isinstance(generation, list) else [generation]
        return [i for i in {*ids, self.processor.tokenizer.eos_token_id} if i is not None]


def _counted(tokens: Tensor, end_ids: Sequence[int]) -> Tensor:
    """Return 1 for tokens up to the first end, it included, and 0 for what pads behind it."""
    ended = torch.isin(tokens, torch.tensor(end_ids)).long().cumsum(1)
    before = torch.nn.functional.pad(ended[:, :-1], (1, 0))
    return (before == 0).float()


def _refuse_remote_code(directory: Path) -> None:
    """Refuse a model whose architecture is Python code beside its weights.

    Raises:
        InputError: transformers does not know the architecture and the directory brings its own code.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = read_json(directory / "config.json")
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise InputError(
            f"{directory}: its architecture {config.get('model_type')!r} is code of its own, which is never run here; "
            "take a model that transformers knows, or serve this one elsewhere and name its address (http://.../v1)."
        )


def _pictures(images: Tensor) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]


def _prompt(model: Any, processor: Any, prompt: str | None) -> str | None:
    """Return the text that goes with each image: None where the image alone is enough."""
    family = model.config.model_type
    if family in _TASK_PROMPTS:
        return prompt or _TASK_PROMPTS[family]
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt or PROMPT}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    token = getattr(processor, "image_token", None)
    return f"{token}\n{prompt or PROMPT}" if token else prompt


def _image_processor(side: int) -> Any:
    """Return what scales images to a side and to about [-1, 1]; the class that needs no torchvision."""
    from transformers import BlipImageProcessorPil

    return BlipImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2
    )
