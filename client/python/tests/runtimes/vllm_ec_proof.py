"""Proves `larder.vllm_ec` with vLLM's own scheduler and model runner and a small LLaVA, on a CPU.

What a reader would get wrong: the encoder "not run" is what vLLM itself says, for it calls
`save_caches` after each run of its encoder, whatever the connector answered before.

    python vllm_ec_proof.py --models DIR --work DIR      # 6 to 12 minutes on two cores
"""

from __future__ import annotations

import os
import sys
from typing import Any

from node_process import Node
from vllm_driver import Answer, Objects, Proof, opened, run, stopping

EVERYBODY = [0, 1, 2, 3, 4, 5]
FETCH_SECONDS = 0.25
# Room for two outputs of 32 KiB.
STAGING_BYTES_FEW = 64 << 10


def transfer_config(endpoint: str, **extra: Any) -> dict[str, Any]:
    return {
        # In production: "LarderEncoderCache" of "larder.vllm_ec".
        "ec_connector": "RecordingEncoderCache",
        "ec_connector_module_path": "vllm_hooks",
        "ec_role": "ec_both",
        "ec_connector_extra_config": {
            "endpoint": endpoint,
            "revision": "1",
            "fetch_timeout": FETCH_SECONDS,
            "staging_bytes": 16 << 20,
            **extra,
        },
    }


def prove(proof: Proof) -> None:
    base = {"model": str(proof.model), "images": True}
    plain = proof.engine("plain", {**base, "batches": [{"images": EVERYBODY}]})
    want = plain.texts()
    with Node("256MiB") as node, Node("16MiB") as small:
        job = {**base, "ec": transfer_config(node.endpoint)}
        cold = proof.engine("cold", {**job, "batches": [{"images": EVERYBODY}]})
        space = cold.events["ec"][0]["namespace"]
        # In the order of the encoder's runs, which is that of the prompts.
        identifiers = [e["identifier"] for e in cold.events["encoded"]]
        with opened(node.endpoint, space) as store:
            there = sum(store.match(identifiers).hits)
        proof.claim(
            "cold: same text, encoder run for each image",
            cold.texts() == want and len(identifiers) == len(EVERYBODY),
        )
        size = cold.events["encoded"][0]["bytes"]
        proof.claim("cold: every output is stored", there == len(EVERYBODY), f"{there} of {size} B")

        stored = Objects(node.endpoint, space, identifiers)
        stored.put_back(small.endpoint)
        stored.put_zeros()
        zeros = proof.engine("zeros", {**job, "batches": [{"images": [0, 1, 2]}]})
        differ = sum(a != b for a, b in zip(zeros.tokens(), [t for t, _ in want]))
        proof.claim(
            "negative control: zeros instead of bytes, other text",
            differ == 3 and runs(zeros) == (0, 3),
            f"{differ} of 3 differ",
        )
        stored.put_back()
        with_faults(proof, job, node, want)
        eviction(proof, base, small, want, space, identifiers)
    unreachable(proof, base, node.endpoint, want)


def with_faults(proof: Proof, job: dict[str, Any], node: Node, want: list[Any]) -> None:
    """Fresh processes, several and one, that load; then a stopped node, then a killed one."""
    apart = proof.engine(
        "three processes", {**job, "batches": [{"images": [0, 1, 2]}]}, processes=True
    )
    proof.claim(
        "fresh, scheduler and worker apart: same text, encoder not run",
        apart.texts() == want[:3] and runs(apart) == (0, 3),
        f"{runs(apart)[1]} outputs loaded",
    )
    stop, go_on = stopping(node)
    fresh = proof.engine(
        "fresh",
        {
            **job,
            "batches": [
                {"images": [0, 1, 2]},
                {"images": [3], "command": stop},
                {"images": [4], "command": go_on, "fault": "kill", "pause_seconds": 3},
            ],
        },
        faults=node,
    )
    encoded, loaded = runs(fresh)
    proof.claim(
        "fresh process: same text and logprobs, encoder not run",
        fresh.texts(0) == want[:3] and loaded == 3,
        f"{loaded} outputs loaded",
    )
    proof.claim(
        "node stopped before asking: encoder runs",
        fresh.texts(1) == want[3:4],
        f"{fresh.batches[1]['seconds']:.1f} s, bound {2 * FETCH_SECONDS} s over a miss",
    )
    proof.claim(
        "node killed between asking and fetching: encoder runs",
        fresh.texts(2) == want[4:5] and bool(fresh.events["killed"]) and encoded == 2,
        f"{fresh.batches[2]['seconds']:.1f} s, bound {2 * FETCH_SECONDS} s over a miss",
    )


def eviction(
    proof: Proof,
    base: dict[str, Any],
    node: Node,
    want: list[Any],
    space: dict[str, Any],
    identifiers: list[str],
) -> None:
    """A node that has evicted half of them, and staging memory for two at a time."""
    with opened(node.endpoint, space) as store:
        kept, others = identifiers[::2], 0
        while all(store.match(identifiers).hits) or others < 600:
            store.match(kept, touch=True)
            names = [f"other {others + i}" for i in range(20)]
            # As long as an output: room for a longer object would be made of its neighbours.
            store.put(names, [os.urandom(32 << 10)] * len(names))
            others += len(names)
        there = sum(store.match(identifiers).hits)
    job = {**base, "ec": transfer_config(node.endpoint, staging_bytes=STAGING_BYTES_FEW)}
    full = proof.engine("full", {**job, "batches": [{"images": EVERYBODY}]})
    encoded, loaded = runs(full)
    proof.claim(
        "full node, two places to stage: same text, some loaded",
        full.texts() == want and 0 < loaded <= there < 6 and encoded + loaded == len(EVERYBODY),
        f"{there} were there, {loaded} loaded, {encoded} encoded",
    )


def unreachable(proof: Proof, base: dict[str, Any], endpoint: str, want: list[Any]) -> None:
    job = {**base, "ec": transfer_config(endpoint)}
    alone = proof.engine("unreachable", {**job, "batches": [{"images": [0, 1]}]})
    proof.claim(
        "node unreachable: engine starts and serves, encoder runs",
        alone.texts() == want[:2] and runs(alone) == (2, 0),
    )


def runs(answer: Answer) -> tuple[int, int]:
    """Runs of the encoder, and outputs loaded instead."""
    return len(answer.events["encoded"]), len(answer.events["loaded"])


if __name__ == "__main__":
    sys.exit(run("vllm-ec", "llava", prove, __doc__))
