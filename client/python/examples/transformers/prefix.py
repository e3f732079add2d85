"""Shares the KV of a prompt's prefix between processes: run it twice against one node.

The second run finds what the first one saved, and computes only the rest of the prompt. Without
`--model` a tiny Llama with random weights is made, so it runs anywhere in seconds. The name and the
revision say then what the weights are, because a made-up model has no commit on the hub.

    larder-node --memory 1GiB &
    pip install torch transformers ../..
    python prefix.py
    python prefix.py
    python prefix.py --model meta-llama/Llama-3.2-1B --prompt "$(cat some-long-text)"
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import larder
import larder.transformers


def tiny_model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        initializer_range=0.08,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", default="127.0.0.1:7400")
    parser.add_argument("--model", help="a model of the hub, or a directory with --revision")
    parser.add_argument("--prompt", default="", help="text, of 128 tokens at least; with --model")
    parser.add_argument("--revision", help="of the weights; the hub's commit if not given")
    given = parser.parse_args()

    if given.model:
        model = AutoModelForCausalLM.from_pretrained(given.model).eval()
        tokenizer = AutoTokenizer.from_pretrained(given.model)
        ids = tokenizer(given.prompt, return_tensors="pt").input_ids
        revision, name = given.revision, None
    else:
        model = tiny_model()
        ids = torch.tensor([[(37 * i + i * i % 91) % 2000 + 3 for i in range(700)]])
        revision, name = given.revision or "seed 0", "tiny"

    store, cache, restored = None, None, 0
    try:
        client = larder.connect(given.node)
        store = larder.transformers.namespace(client, model, revision=revision, name=name)
    except larder.Unavailable as error:
        print(f"no node, so everything is computed: {error}")
    began = time.monotonic()
    if store is not None:
        cache, restored = larder.transformers.load_prefix(store, model, ids)
    loaded = time.monotonic()
    with torch.inference_mode():
        out = model.generate(
            ids.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            past_key_values=cache,
            max_new_tokens=24,
            do_sample=False,
            return_dict_in_generate=True,
        )
    done = time.monotonic()
    print(f"restored {restored} of {ids.shape[1]} tokens in {(loaded - began) * 1e3:.1f} ms")
    new_tokens = out.sequences[0, ids.shape[1] :].tolist()
    print(f"generated in {(done - loaded) * 1e3:.0f} ms: {new_tokens}")
    if store is not None:
        saved = larder.transformers.save_prefix(store, out.past_key_values, out.sequences)
        print(f"Larder now has {saved} tokens of it")


if __name__ == "__main__":
    main()
