"""vLLM's tiering spec with a worker that copies between "GPU" blocks and host rows on a CPU.

For tests only: vLLM's own worker needs a GPU. What a reader would get wrong: one block is one chunk
and there is one KV group, as in the configurations of these tests; anything else would be wrong
here.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    GPULoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuTieringSpec(TieringOffloadingSpec):
    """`"spec_name": "CpuTieringSpec", "spec_module_path": "cpu_tiering"`."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        assert self.blocks_per_chunk == 1 and len(self.config.groups) == 1
        return CopyingWorker(self, kv_caches)


class CopyingWorker(OffloadingWorker):
    """Copies at once, reports at the next question."""

    def __init__(self, spec: CpuTieringSpec, kv_caches: CanonicalKVCaches) -> None:
        self._region = SharedOffloadRegion(
            engine_id=spec._engine_id,
            num_chunks=spec.num_chunks,
            rank=spec.config.parallel.rank,
            kv_bytes_per_chunk=spec.kv_bytes_per_chunk,
            cpu_page_size=spec.cpu_page_size_per_worker,
        )
        self._tensors = [t.tensor for t in kv_caches.tensors]
        self._rows = [
            self._region.create_next_worker_view(t.page_size_bytes) for t in kv_caches.tensors
        ]
        self._ended: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: Any) -> bool:
        for tensor, rows in zip(self._tensors, self._rows):
            for block, row in zip(src_spec.block_ids, dst_spec.chunk_ids):
                rows[row].copy_(as_bytes(tensor[block].contiguous()))
        self._ended.append(TransferResult(job_id, True, 0, 0.0))
        return True

    def submit_load(
        self, job_id: int, src_spec: Any, dst_spec: GPULoadStoreSpec, expedited: bool = False
    ) -> bool:
        for tensor, rows in zip(self._tensors, self._rows):
            for row, block in zip(src_spec.chunk_ids, dst_spec.block_ids):
                whole = tensor[block]
                whole.copy_(rows[row].view(whole.dtype).view(whole.shape))
        self._ended.append(TransferResult(job_id, True, 0, 0.0))
        return True

    def get_finished(self) -> list[TransferResult]:
        ended, self._ended = self._ended, []
        return ended

    def wait(self, job_ids: set[int]) -> None:
        return

    def shutdown(self) -> None:
        self._rows.clear()
        self._tensors.clear()
        self._region.cleanup()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int8).flatten()
