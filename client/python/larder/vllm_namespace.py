"""What vLLM's hashes lack, as namespaces: model, weights, dtype, layout, topology, version.

What a reader would get wrong: vLLM hashes tokens (or pixels), nothing else. Two engines that differ
in anything named here make the same keys for different bytes, so whatever is left out is wrong
text.
"""

# vLLM is not there where this is checked.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import vllm

from larder._limits import fit

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_offload.base import OffloadingSpec


def tier_namespace(
    spec: OffloadingSpec,
    row_bytes: int,
    *,
    revision: str,
    tenant: str,
    model: str | None,
) -> dict[str, Any]:
    """Everything that vLLM's block hashes lack, as fields of `larder.Client.namespace`.

    Rows hold rank after rank, so bytes of one topology are wrong in another: only a canonical
    layout that vLLM certifies as free of it may leave the topology out. The row's length is always
    in.

    The hash algorithm is not in: vLLM does not tell a tier, and keys of two algorithms differ
    anyway.
    """
    config = spec.config
    parallel = config.parallel
    layout = str(config.kv_cache_layout)
    if config.canonical_layout:
        from vllm.distributed.kv_transfer.kv_connector.v1.offloading.canonical_mapping import (
            canonical_format_id,
        )

        layout = f"canonical {canonical_format_id(layout)}"
    if config.canonical_layout and parallel.is_parallelism_agnostic:
        rank = "all"
    else:
        rank = (
            f"tp{parallel.tp_size} pp{parallel.pp_size} pcp{parallel.pcp_size} "
            f"dcp{parallel.dcp_size} of {parallel.world_size}"
        )
    if spec.replicated_layout:
        rank += " replicated"
    groups = [[group.tokens_per_block, list(group.layer_names)] for group in config.groups]
    digest = hashlib.sha256(json.dumps(groups).encode()).hexdigest()[:32]
    return {
        "tenant": tenant,
        "model": fit(model or config.model.name),
        "revision": fit(revision),
        "dtype": config.model.dtype,
        "layout": fit(f"vllm {vllm.__version__} tier {layout}"),
        "rank": rank,
        "extra": (
            f"tokens_per_hash={config.cache.tokens_per_hash};"
            f"blocks_per_chunk={config.cache.blocks_per_chunk};row={row_bytes};groups={digest}"
        ),
    }


def encoder_namespace(config: VllmConfig, extra: dict[str, Any]) -> dict[str, Any]:
    """What identifiers lack: they hash the item and its processor's options, not the encoder."""
    model = config.model_config
    multimodal = model.multimodal_config
    options = {
        "quantization": model.quantization,
        "hf_overrides": model.hf_overrides,
        "processor": getattr(multimodal, "mm_processor_kwargs", None),
        "media": getattr(multimodal, "media_io_kwargs", None),
        "hasher": getattr(multimodal, "mm_hasher_algorithm", None),
        "normalize": getattr(multimodal, "mm_device_do_normalize", None),
    }
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()
    return {
        "tenant": str(extra.get("tenant", "")),
        "model": fit(str(extra.get("model") or model.model)),
        "revision": fit(str(extra["revision"])),
        "dtype": str(model.dtype).removeprefix("torch."),
        "layout": fit(f"vllm {vllm.__version__} encoder outputs"),
        "rank": "all",
        "extra": f"options={digest[:32]}",
    }
