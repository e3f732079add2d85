"""Proves `larder.transformers` with a real model, a real node and a fresh process for every step.

The model has random weights, but large enough ones that attention decides the next token: the
negative control (stored bytes replaced by zeros) must change the text, or the rest proves nothing.

    python transformers_proof.py [--work DIR]    # two minutes on two cores; exit 1 on failure
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from claims import Claims
from node_process import Node

PROMPTS = 3
FILLING = 30
NEW_TOKENS = 24
RUN_TOKENS = 128
OBJECT = 256 * 1024
"""Bytes of a run of this model: 4 layers, keys and values, 4 heads, 128 tokens, 32 × 2 bytes."""


def prompt(number: int) -> list[int]:
    """700 + 13 × `number` token ids: 5 full runs, and something left to compute."""
    return [(37 * i + 11 * number + i * i % 91) % 2000 + 3 for i in range(700 + 13 * number)]


def restorable(number: int) -> int:
    return (len(prompt(number)) - 1) // RUN_TOKENS * RUN_TOKENS


# ---- the child: one process, one model, one mode ----


def child(mode: str, directory: pathlib.Path, endpoint: str, node_pid: int) -> dict[str, Any]:
    """Runs the prompts; `mode` says what is done with Larder besides."""
    import torch
    import transformers
    from transformers import LlamaForCausalLM

    import larder
    import larder.transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    out: dict[str, Any] = {"tokens": [], "restored": [], "saved": [], "load": [], "generate": []}
    store: Any = None
    if mode != "without":
        started = time.monotonic()
        try:
            # Wide: on machines that are shared, an answer may take its time.
            client = larder.connect(endpoint, name="proof", connect_timeout=1.0, deadline=1.0)
        except larder.Unavailable:
            out["unavailable"] = time.monotonic() - started
        else:
            store = larder.transformers.namespace(client, model, revision="1", name="proof")
    if mode == "kill":
        store = KillsAfterMatch(store, node_pid)
    # What fills the node ends with the prompts that are asked for afterwards.
    for number in range(PROMPTS) if mode != "fill" else reversed(range(FILLING)):
        ids = prompt(number)
        if mode == "zero":
            zero(store, model, ids)
        cache, restored, started = None, 0, time.monotonic()
        if store is not None:
            cache, restored = larder.transformers.load_prefix(store, model, ids)
        loaded = time.monotonic()
        with torch.inference_mode():
            made = model.generate(
                torch.tensor([ids]),
                past_key_values=cache,
                max_new_tokens=NEW_TOKENS if mode != "fill" else 1,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                return_dict_in_generate=True,
            )
        out["load"].append(loaded - started)
        out["generate"].append(time.monotonic() - loaded)
        out["tokens"].append(made.sequences[0, len(ids) :].tolist())
        out["restored"].append(restored)
        if mode in ("cold", "fill", "kill"):
            saved = larder.transformers.save_prefix(store, made.past_key_values, made.sequences)
            out["saved"].append(saved)
    return out


class KillsAfterMatch:
    """A store whose node dies each time between its answer to a match and the get."""

    def __init__(self, store: Any, pid: int) -> None:
        self._store, self._pid = store, pid

    def match(self, *args: Any, **options: Any) -> Any:
        found = self._store.match(*args, **options)
        if self._pid:
            os.kill(self._pid, 9)
            self._pid = 0
            if found.leading != restorable(0) // RUN_TOKENS:
                raise AssertionError(f"nothing to lose: {found.leading}")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def zero(store: Any, model: Any, ids: list[int]) -> None:
    """Puts zeros, well sealed, over what is stored of a prompt."""
    import larder
    import larder.transformers

    geometry = larder.transformers.Geometry.of_config(model.config, store.spec["dtype"])
    keys = larder.transformers.prefix_keys(store, geometry, ids)
    zeros = bytes(geometry.run_tokens * geometry.token_bytes)
    if set(store.put(keys, [zeros] * len(keys))) != {larder.Status.OK}:
        raise AssertionError("zeros were not stored")


# ---- the parent: nodes, children, and what must be true of them ----


class Proof(Claims):
    """The claims, and the children that support them."""

    def __init__(self, work: pathlib.Path) -> None:
        super().__init__("transformers")
        self.model = work / "llama"

    def run(self, mode: str, endpoint: str = "", node_pid: int = 0) -> dict[str, Any]:
        command = [sys.executable, __file__, "--child", mode, "--work", str(self.model.parent)]
        command += ["--endpoint", endpoint, "--node-pid", str(node_pid)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{mode}: exit {done.returncode}")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def prove(work: pathlib.Path) -> int:
    # Here, for children must not pay for it.
    import models

    proof = Proof(work)
    if not proof.model.exists():
        models.make_llama(proof.model)
    whole = [restorable(number) for number in range(PROMPTS)]
    want = proof.run("without")["tokens"]
    with Node() as node:
        cold = proof.run("cold", node.endpoint)
        holds = cold["tokens"] == want and cold["restored"] == [0] * PROMPTS
        proof.claim("cold", holds and cold["saved"] == whole, f"saved {cold['saved']} tokens")
        fresh = proof.run("fresh", node.endpoint)
        holds = fresh["tokens"] == want and fresh["restored"] == whole
        detail = (
            f"restored {fresh['restored']} of {[len(prompt(n)) for n in range(PROMPTS)]} tokens"
        )
        detail += f", load {min(fresh['load']) * 1e3:.1f} ms"
        detail += f", generate {min(cold['generate']):.3f} → {min(fresh['generate']):.3f} s"
        proof.claim("fresh process", holds, detail)
        killed = proof.run("kill", node.endpoint, node.pid)
        holds = killed["tokens"] == want and killed["restored"] == [0] * PROMPTS
        detail = f"recomputed, slowest load {max(killed['load']) * 1e3:.0f} ms"
        proof.claim("node killed between match and get", holds and max(killed["load"]) < 3, detail)
        gone = proof.run("fresh", node.endpoint)
        holds = gone["tokens"] == want and 0 <= gone.get("unavailable", -1) < 2
        detail = f"connect says so in {gone.get('unavailable', -1):.2f} s, tokens equal"
        proof.claim("node unreachable", holds, detail)
    with Node() as node:
        zeroed = proof.run("zero", node.endpoint)
        differ = [a != b for a, b in zip(zeroed["tokens"], want, strict=True)]
        holds = all(differ) and zeroed["restored"] == whole
        proof.claim("negative control (zeros)", holds, f"tokens differ: {differ}")
    with Node("16MiB") as node:
        filled = proof.run("fill", node.endpoint)
        kept = proof.run("fresh", node.endpoint)
        stored = sum(filled["saved"]) // RUN_TOKENS
        holds = kept["tokens"] == want and kept["restored"] == whole and stored * OBJECT > 32 << 20
        detail = f"{stored} objects of 256 KiB into 16 MiB, the latest restored {kept['restored']}"
        proof.claim("full cache, evicting", holds, detail)
    return proof.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, help="directory for the model, kept")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", default="", help=argparse.SUPPRESS)
    parser.add_argument("--node-pid", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child, given.work / "llama", given.endpoint, given.node_pid)))
        return 0
    if given.work is not None:
        given.work.mkdir(parents=True, exist_ok=True)
        return prove(given.work)
    with tempfile.TemporaryDirectory(prefix="larder-proof-") as work:
        return prove(pathlib.Path(work))


if __name__ == "__main__":
    sys.exit(main())
