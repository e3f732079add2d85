"""Proves `larder.vllm_tier` with vLLM's own scheduler and tiering, on a CPU.

What a reader would get wrong: "same text" alone proves nothing. Here it goes with the number of
tokens that were not computed, and with a control in which the stored bytes are zeros.

    python vllm_tier_proof.py --models DIR --work DIR      # 6 to 12 minutes on two cores
"""

from __future__ import annotations

import sys
from typing import Any

from node_process import Node
from vllm_driver import Answer, Objects, Proof, counters, opened, run, stopping

CHUNKS = 5
CHUNK_TOKENS = 128
FULL = CHUNKS * CHUNK_TOKENS
EVERYBODY = [0, 1, 2, 3, 4, 5]
MANY = list(range(24))
# Wide: on machines that are shared, an answer may take its time.
LOOKUP_SECONDS = 0.5
LOAD_SECONDS = 1.0
CONNECT_SECONDS = 1.0
# CPU time of the scheduler's thread inside the tier, for a whole engine's life of a few requests.
HELD_UP_SECONDS_MAX = 0.25


def transfer_config(endpoint: str, **tier: Any) -> dict[str, Any]:
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            # In production: "TieringOffloadingSpec", and "LarderTier" of "larder.vllm_tier".
            "spec_name": "CpuTieringSpec",
            "spec_module_path": "cpu_tiering",
            "cpu_bytes_to_use": 64 << 20,
            "blocks_per_chunk": 1,
            "secondary_tiers": [
                {
                    "type": "RecordingTier",
                    "module_path": "vllm_hooks",
                    "endpoint": endpoint,
                    "revision": "1",
                    "connect_timeout": CONNECT_SECONDS,
                    "lookup_timeout": LOOKUP_SECONDS,
                    "load_timeout": LOAD_SECONDS,
                    "enable_kv_events": True,
                    **tier,
                }
            ],
        },
    }


def prove(proof: Proof) -> None:
    model = str(proof.model)
    plain = proof.engine("plain", {"model": model, "batches": [{"prompts": EVERYBODY}]})
    want = plain.texts()
    with Node("256MiB") as node:
        job = {"model": model, "kv": transfer_config(node.endpoint)}
        cold = proof.engine(
            "cold",
            {**job, "kv_events": "tcp://127.0.0.1:0", "batches": [{"prompts": EVERYBODY}]},
        )
        space = cold.events["tier"][0]["namespace"]
        keys = cold.keys("store")
        with opened(node.endpoint, space) as store:
            there = sum(store.match(keys).hits)
        proof.claim(
            "cold: same text, nothing loaded", cold.texts() == want and not any(cold.cached())
        )
        proof.claim(
            "cold: every full chunk is stored",
            there == len(keys) == CHUNKS * len(EVERYBODY),
            f"{there} objects",
        )
        announced = sum(e["keys"] for e in cold.events["kv"] if not e["removed"])
        proof.claim(
            "cold: KV events for what was stored", announced == len(keys), f"{announced} keys"
        )
        held_up(proof, "cold", cold)

        stored = Objects(node.endpoint, space, keys)
        stored.put_zeros()
        zeros = proof.engine("zeros", {**job, "batches": [{"prompts": [0, 1, 2]}]})
        differ = sum(a != b for a, b in zip(zeros.tokens(), [t for t, _ in want]))
        proof.claim(
            "negative control: zeros instead of bytes, other text",
            zeros.cached() == [FULL] * 3 and differ == 3,
            f"{differ} of 3 differ",
        )
        stored.put_back()
        with_faults(proof, job, node, want)
    unreachable(proof, model, want)
    eviction(proof, model, want)


def with_faults(proof: Proof, job: dict[str, Any], node: Node, want: list[Any]) -> None:
    """Fresh processes that load; then a lost chunk, a stopped node, a killed one."""
    apart = proof.engine(
        "three processes", {**job, "batches": [{"prompts": [0, 1, 2]}]}, processes=True
    )
    proof.claim(
        "fresh, scheduler and worker apart: same text, loaded KV",
        apart.texts() == want[:3] and apart.cached() == [FULL] * 3,
        f"{sum(apart.cached())} tokens loaded",
    )
    stop, go_on = stopping(node)
    fresh = proof.engine(
        "fresh",
        {
            **job,
            "batches": [
                {"prompts": [0, 1, 2]},
                {"prompts": [3], "fault": "remove"},
                {"prompts": [4], "command": stop},
                {"prompts": [5], "command": go_on, "fault": "kill", "pause_seconds": 3},
            ],
        },
        faults=node,
    )
    proof.claim(
        "fresh process: same text and logprobs from loaded KV",
        fresh.texts(0) == want[:3] and fresh.cached(0) == [FULL] * 3,
        f"{sum(fresh.cached(0))} tokens loaded",
    )
    proof.claim("fresh process: vLLM's log shows the hit", "Larder: first hit" in fresh.log)
    held_up(proof, "fresh", fresh)
    proof.claim(
        "one chunk gone between lookup and load: recomputed",
        bool(fresh.events["removed"]) and fresh.texts(1) == want[3:4] and fresh.cached(1)[0] < FULL,
        f"{fresh.cached(1)[0]} of {FULL} tokens loaded",
    )
    proof.claim(
        "node stopped before lookup: recomputed",
        fresh.texts(2) == want[4:5] and fresh.cached(2) == [0],
        f"{fresh.batches[2]['seconds']:.1f} s, bound {LOOKUP_SECONDS} s over a miss",
    )
    proof.claim(
        "node killed between lookup and load: recomputed",
        bool(fresh.events["killed"]) and fresh.texts(3) == want[5:6] and fresh.cached(3) == [0],
        f"{fresh.batches[3]['seconds']:.1f} s, bound {LOAD_SECONDS} s over a miss",
    )
    proof.claim(
        "every request ends by its length",
        all(a["finish"] == "length" for b in fresh.batches for a in b["answers"]),
    )


def unreachable(proof: Proof, model: str, want: list[Any]) -> None:
    """No node when the engine starts; one later."""
    with Node("256MiB") as node:
        endpoint = node.endpoint
        node.kill()
        job = {
            "model": model,
            "kv": transfer_config(endpoint),
            "batches": [
                {"prompts": [0]},
                {"prompts": [1], "command": node.command, "wait_connected": 30},
            ],
        }
        alone = proof.engine("unreachable", job)
    bound = CONNECT_SECONDS + 0.5
    took = alone.events["tier"][0]["seconds"]
    proof.claim(
        "node unreachable: engine starts",
        took < bound + 0.5,
        f"{took:.2f} s later, bound {bound} s",
    )
    proof.claim(
        "node unreachable: served, same text",
        alone.texts(0) == want[:1] and alone.cached(0) == [0],
    )
    held_up(proof, "unreachable", alone)
    ends = [e["success"] for e in alone.events["finished"]]
    proof.claim(
        "node comes later: connected in the background, stored",
        alone.batches[1]["connected"] and alone.texts(1) == want[1:2] and ends == [False, True],
    )


def eviction(proof: Proof, model: str, want: list[Any]) -> None:
    """A node with room for half of it."""
    with Node("16MiB") as node:
        job = {"model": model, "kv": transfer_config(node.endpoint)}
        filled = proof.engine("filling", {**job, "batches": [{"prompts": MANY}]})
        # From the newest on, so that some are there, while what is recomputed evicts others.
        again = proof.engine("full", {**job, "batches": [{"prompts": MANY[::-1]}]})
        evicted = sum(n for name, n in counters(node.endpoint).items() if "evict" in name)
    loaded = sum(again.cached()) // CHUNK_TOKENS
    proof.claim(
        "full node: filling it changes no text",
        filled.texts()[: len(want)] == want and not any(filled.cached()),
    )
    proof.claim(
        "full node, evicting: same text, some loaded, some not",
        again.texts() == filled.texts()[::-1] and 0 < loaded < CHUNKS * len(MANY),
        f"{loaded} of {CHUNKS * len(MANY)} chunks loaded, evictions counted {evicted}",
    )
    proof.claim("full node: it did evict", evicted > 0)


def held_up(proof: Proof, name: str, answer: Answer) -> None:
    """The tier never waits on the scheduler's thread."""
    (event,) = answer.events["held_up"]
    proof.claim(
        f"{name}: the scheduler was not held up",
        event["cpu_seconds"] < HELD_UP_SECONDS_MAX,
        f"{event['cpu_seconds'] * 1e3:.1f} ms CPU, longest call {event['longest'] * 1e3:.1f} ms",
    )


if __name__ == "__main__":
    sys.exit(run("vllm-tier", "llama", prove, __doc__))
