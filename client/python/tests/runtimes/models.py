"""Tiny models with random weights, made here in seconds, whose output depends on their attention.

What a reader would get wrong: vLLM's `load_format=dummy` draws weights so small that attention
hardly matters, and then a test of equal tokens passes with any KV at all. These weights are drawn
wide, and every test of equality has its negative control.

    python models.py DIRECTORY      # makes DIRECTORY/llama, worded-llama and llava
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 20
VOCABULARY = 2048
IMAGE_TOKEN = 2047
IMAGE_SIDE = 112
PATCH_SIDE = 14
IMAGE_ROWS = (IMAGE_SIDE // PATCH_SIDE) ** 2


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
        initializer_range=0.08,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )


def make_llama(directory: pathlib.Path) -> None:
    """3.4 M parameters; an object of the offload tier is 256 KiB for each 128 tokens."""
    torch.manual_seed(SEED)
    LlamaForCausalLM(llama_config()).to(torch.bfloat16).save_pretrained(directory)


def make_worded_llama(directory: pathlib.Path) -> None:
    """The same with a tokenizer, for servers, which are asked in words: w3 is token 3."""
    make_llama(directory)
    _tokenizer().save_pretrained(directory)


def make_llava(directory: pathlib.Path) -> None:
    """That Llama behind a CLIP tower: 64 rows of 256 bf16 an image, so 32 KiB."""
    # Here, for they want Pillow, and the proof with transformers alone has none.
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(SEED)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
        initializer_range=0.3,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=llama_config(),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_ROWS,
        dtype="bfloat16",
    )
    model = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and ("vision_tower" in name or "projector" in name):
                # Else all images look alike to the text model.
                weight.mul_(3)
    model.save_pretrained(directory)
    _restore_vision_model_level(directory / "model.safetensors")
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(directory)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIDE},
            crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIDE,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(directory)


def _restore_vision_model_level(path: pathlib.Path) -> None:
    """transformers 5 saves CLIP without a level of names that vLLM 0.32 looks for."""
    from safetensors.torch import load_file, save_file

    weights: dict[str, Any] = {}
    for name, weight in load_file(path).items():
        at = name.find("vision_tower.")
        if at >= 0 and "vision_tower.vision_model." not in name:
            at += len("vision_tower.")
            name = f"{name[:at]}vision_model.{name[at:]}"
        weights[name] = weight
    save_file(weights, path, metadata={"format": "pt"})


def _tokenizer() -> Any:
    """One word a token: w3 is token 3."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": 0, "<s>": 1, "</s>": 2, "<image>": IMAGE_TOKEN}
    words = {f"w{i}": i for i in range(VOCABULARY)}
    for token, i in special.items():
        del words[f"w{i}"]
        words[token] = i
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, i in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"},
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def main() -> None:
    root = pathlib.Path(sys.argv[1])
    made = {"llama": make_llama, "worded-llama": make_worded_llama, "llava": make_llava}
    for name, make in made.items():
        directory = root / name
        if (directory / "config.json").exists():
            continue
        # Made aside, so that what is there is whole.
        aside = root / f"{name}.new"
        aside.mkdir(parents=True, exist_ok=True)
        make(aside)
        aside.rename(directory)
        print(f"made {directory}")


if __name__ == "__main__":
    main()
