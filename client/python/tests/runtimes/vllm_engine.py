"""One start of a vLLM engine in a process of its own, told by JSON what to do, answering in JSON.

What a reader would get wrong: the process is fresh for every start, so that nothing but the nodes
can carry anything from one to the next.

    python vllm_engine.py '{"model": …, "kv": {…}, "ec": {…}, "batches": [{"prompts": [0, 1]}]}'

A batch has "prompts" (numbers of prompts) or "images" (numbers of image prompts), and may have
"fault" (see vllm_hooks.py, set before it), "command" (run before it: ["path", "args", …], left
running, its process id is reported), "pause_seconds" (after that) and "wait_connected" (seconds to
wait for the tier's nodes).
The answer is the last line of standard output, behind ANSWER.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

ANSWER = "ANSWER "
NEW_TOKENS = 24


def prompt_tokens(number: int) -> list[int]:
    """700 tokens and some: 5 full blocks of 128. No two prompts share a block."""
    return [(37 * i + 11 * number + i * i % 91) % 2000 + 3 for i in range(700 + 13 * (number % 3))]


def image(number: int) -> Any:
    """Noise, so that no two images are alike to any encoder."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def image_prompt(number: int) -> dict[str, Any]:
    words = " ".join(f"w{(17 * i + 5 * number) % 2000 + 3}" for i in range(40))
    return {
        "prompt": f"<s> {words} <image> w7 w8 w9",
        "multi_modal_data": {"image": image(number)},
    }


def start(job: dict[str, Any]) -> Any:
    from vllm import LLM

    options: dict[str, Any] = dict(
        model=job["model"],
        dtype="bfloat16",
        max_model_len=2048,
        enforce_eager=True,
        seed=0,
        max_num_seqs=4,
        disable_log_stats=False,
    )
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        options["distributed_executor_backend"] = "uni"
    if job.get("images"):
        options |= dict(limit_mm_per_prompt={"image": 2}, mm_processor_cache_gb=0)
    else:
        options |= dict(skip_tokenizer_init=True)
    if "kv" in job:
        options["kv_transfer_config"] = job["kv"]
    if "ec" in job:
        options["ec_transfer_config"] = job["ec"]
    if job.get("kv_events"):
        options["kv_events_config"] = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": job["kv_events"],
        }
    options |= job.get("options", {})
    return LLM(**options)


def run_batch(llm: Any, batch: dict[str, Any]) -> list[dict[str, Any]]:
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0,
        max_tokens=NEW_TOKENS,
        ignore_eos=True,
        detokenize=False,
        logprobs=1,
    )
    if "images" in batch:
        prompts = [image_prompt(number) for number in batch["images"]]
    else:
        prompts = [{"prompt_token_ids": prompt_tokens(number)} for number in batch["prompts"]]
    answers = []
    for out in llm.generate(prompts, params, use_tqdm=False):
        completion = out.outputs[0]
        answers.append(
            {
                "tokens": list(completion.token_ids),
                "logprob": round(completion.cumulative_logprob, 4),
                "cached": out.num_cached_tokens,
                "finish": completion.finish_reason,
            }
        )
    return answers


def wait_connected(llm: Any, seconds: float) -> bool:
    """Whether the tier (single process only) reached a node in time."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    tier = scheduler.connector.connector_scheduler.manager.secondary_tiers[0]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if tier._link.stores is not None:
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    job = json.loads(sys.argv[1])
    began = time.monotonic()
    llm = start(job)
    answer: dict[str, Any] = {"start_seconds": time.monotonic() - began, "batches": []}
    for batch in job["batches"]:
        extra: dict[str, Any] = {}
        if batch.get("fault"):
            with open(os.environ["PROOF_FAULT_FILE"], "w") as file:
                file.write(batch["fault"])
        if batch.get("command"):
            # In this process's group, with which the driver ends it.
            extra["pid"] = subprocess.Popen(batch["command"]).pid
        time.sleep(batch.get("pause_seconds", 0.3))
        if batch.get("wait_connected"):
            extra["connected"] = wait_connected(llm, batch["wait_connected"])
        began = time.monotonic()
        answers = run_batch(llm, batch)
        # Stores run behind the last step; a step of the engine is what collects them.
        time.sleep(batch.get("settle_seconds", 1.0))
        answer["batches"].append({"seconds": time.monotonic() - began, "answers": answers, **extra})
    llm.llm_engine.engine_core.shutdown()
    print(ANSWER + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
