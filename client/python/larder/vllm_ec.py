"""vLLM's encoder cache over Larder: outputs of vision and audio encoders, by content hash.

Configured by module path, see `examples/vllm`. What a reader would get wrong: to say "cached" and
not deliver ends vLLM's engine. So `has_cache_item` says yes only for bytes that already lie in this
host's memory, checked, and that stay there until every worker has copied them. Everything else is
"not cached": the encoder runs and the request is fine.

Works with vLLM 0.32 and 0.33.
"""

# vLLM and torch are not there where this is checked.
# mypy: disable-error-code="import-not-found", allow-subclassing-any

from __future__ import annotations

import dataclasses
import os
import queue
import struct
import threading
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.ec_transfer.ec_connector.base import (
    ECConnectorBase,
    ECConnectorMetadata,
    ECConnectorRole,
)
from vllm.logger import init_logger

import larder
from larder._limits import OBJECT_BYTES_MAX
from larder._link import Link, Settings, number, positive
from larder._prefetch import Item, Prefetch, Wanted
from larder._staging import HEADER_BYTES, Staging
from larder.vllm_ec_stats import LarderECPromMetrics, LarderECStats
from larder.vllm_namespace import encoder_namespace

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.ec_transfer.ec_connector.metrics import (
        ECConnectorPromMetrics,
        ECConnectorStats,
        PromMetric,
        PromMetricT,
    )
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

logger = init_logger("vllm.larder.encoder")


@dataclasses.dataclass
class Loads(ECConnectorMetadata):
    """What workers are to copy in this step: number of the load, and the items."""

    number: int = 0
    items: list[Item] = dataclasses.field(default_factory=list)


class LarderEncoderCache(ECConnectorBase):
    """One in the scheduler's process, one in each worker's.

    `ec_connector_extra_config` takes:
        revision (required): which weights. Anything that changes when the weights do.
        endpoint, tenant, model, path, connect_timeout, retry, credential: as of
            `larder.vllm_tier.LarderTier`.
        fetch_timeout: seconds, default 0.25. A request waits for its items no longer than twice
            this (asking, then fetching); then its encoder runs.
        store_timeout: seconds, default 2; outputs that take longer are not stored.
        ttl: seconds that outputs live, default until evicted.
        staging_bytes: of /dev/shm for items on their way to workers, default 256 MiB.

    Raises:
        larder.InvalidArgument: the configuration cannot work, and no node would make it work.
        larder.Denied: the nodes refuse the credential. Nodes that do not answer are not an error.
        ValueError, OSError: the host cannot stage as much for as many workers.
    """

    def __init__(self, vllm_config: VllmConfig, role: ECConnectorRole) -> None:
        super().__init__(vllm_config=vllm_config, role=role)
        transfer = vllm_config.ec_transfer_config
        assert transfer is not None
        extra: dict[str, Any] = dict(transfer.ec_connector_extra_config)
        if not extra.get("revision"):
            raise larder.InvalidArgument("revision: which weights? vLLM's keys do not say")
        parallel = vllm_config.parallel_config
        # Encoders run where embeddings go in: in the first stage of a pipeline.
        ranks = max(1, parallel.world_size // parallel.pipeline_parallel_size)
        engine = f"{vllm_config.instance_id}_{transfer.engine_id}"
        name = f"larder_ec_{engine}_{parallel.data_parallel_index}"
        staging_bytes = int(number(extra, "staging_bytes", STAGING_BYTES))
        self._staging: Staging | None = None
        self._scheduler: _Scheduler | None = None
        self._worker: _Worker | None = None
        if role == ECConnectorRole.SCHEDULER:
            if self.is_consumer:
                self._staging = Staging(name, staging_bytes, ranks)
                self._scheduler = _Scheduler(vllm_config, extra, self._staging)
        else:
            rank = parallel.rank
            if self.is_consumer and rank < ranks:
                self._staging = Staging(name, staging_bytes, ranks)
                self._staging.attach(rank)
            # All ranks have the same output; one stores it.
            stores = self.is_producer and rank == 0
            self._worker = _Worker(vllm_config, extra, self._staging, rank, stores)

    # In workers.

    def start_load_caches(self, encoder_cache: dict[str, torch.Tensor], **kwargs: Any) -> None:
        """Copies what the scheduler said yes to, before it returns."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, Loads) and self._worker is not None
        if metadata.items:
            self._worker.load(encoder_cache, metadata)

    def save_caches(
        self, encoder_cache: dict[str, torch.Tensor], mm_hash: str, **kwargs: Any
    ) -> None:
        """Has an output stored, later, by a thread of its own."""
        if self._worker is not None:
            self._worker.save(mm_hash, encoder_cache[mm_hash])

    # In the scheduler.

    def ensure_cache_available(self, request: Request, num_computed_tokens: int) -> bool:
        """False while an item is on its way, for at most twice `fetch_timeout`."""
        if self._scheduler is None:
            return True
        return self._scheduler.ensure(request, num_computed_tokens)

    def has_cache_item(self, identifier: str) -> bool:
        """Whether the bytes are on this host, and stay until the workers have them."""
        return self._scheduler is not None and self._scheduler.prefetch.holds(identifier)

    def update_state_after_alloc(self, request: Request, index: int) -> None:
        """Has the item loaded in this step, if `has_cache_item` said yes."""
        if self._scheduler is not None:
            self._scheduler.prefetch.use(request.mm_features[index].identifier)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> Loads:
        """What this step loads."""
        if self._scheduler is None:
            return Loads()
        number, items = self._scheduler.prefetch.take_loads()
        return Loads(number, items)

    # Either.

    def get_ec_connector_stats(self) -> ECConnectorStats | None:
        """Counts of the scheduler's side since the last call."""
        if self._scheduler is None:
            return None
        return LarderECStats(data=self._scheduler.prefetch.take_counts())

    @classmethod
    def build_ec_connector_stats(
        cls, data: dict[str, Any] | None = None
    ) -> ECConnectorStats | None:
        """Stats from what was sent between processes."""
        return LarderECStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[type[PromMetric], type[PromMetricT]],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> ECConnectorPromMetrics | None:
        """Counters of items by outcome, and of bytes, registered once for each process."""
        return LarderECPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        """Waits for what is in flight and lets go of memory and nodes. Idempotent."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.close()
        staging, self._staging = self._staging, None
        if staging is not None:
            if self.role == ECConnectorRole.SCHEDULER:
                staging.unlink()
            staging.close()


class _Scheduler:
    """Prefetches what waiting requests will need."""

    def __init__(self, config: VllmConfig, extra: dict[str, Any], staging: Staging) -> None:
        self._staging = staging
        self._named = True
        self._reaches_all()
        self.link = _link(config, extra, [(staging.address, staging.length)])
        timeout = number(extra, "fetch_timeout", 0.25)
        self.prefetch = Prefetch(self.link, staging, shape_of, timeout, logger)

    def ensure(self, request: Request, computed: int) -> bool:
        """A dictionary look-up for each item that is not yet behind the request."""
        if not self._reaches_all():
            return True
        ready = True
        for index, feature in enumerate(request.mm_features):
            position = feature.mm_position
            if position.offset + position.length > computed:
                rows = request.get_num_encoder_embeds(index)
                ready &= self.prefetch.ready(Wanted(feature.identifier, rows))
        return ready

    def _reaches_all(self) -> bool:
        """False with a worker on another host, or none: nothing staged here would reach it.

        vLLM makes its workers first, so this is settled when the scheduler is made.
        """
        if self._staging.done_by_all() < 0:
            return False
        if self._named:
            self._named = False
            self._staging.unlink()
        return True

    def close(self) -> None:
        self.prefetch.close()
        self.link.close()


class _Worker:
    """Copies staged items to the device, stores outputs from a thread."""

    def __init__(
        self,
        config: VllmConfig,
        extra: dict[str, Any],
        staging: Staging | None,
        rank: int,
        stores: bool,
    ) -> None:
        self._staging = staging
        self._rank = rank
        self._timeout = number(extra, "store_timeout", 2.0)
        ttl = extra.get("ttl")
        self._ttl = None if ttl is None else positive("ttl", ttl)
        self._link = _link(config, extra, []) if stores else None
        self._waiting: queue.SimpleQueue[_Output | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="larder-save", daemon=True)
        if stores:
            self._thread.start()

    def load(self, encoder_cache: dict[str, torch.Tensor], loads: Loads) -> None:
        """Puts items into vLLM's dictionary; they may be overwritten afterwards."""
        if self._staging is None:
            # A later stage of a pipeline: embeddings have gone in before it.
            return
        from vllm.platforms import current_platform

        for item in loads.items:
            if item.identifier in encoder_cache:
                continue
            dtype = getattr(torch, item.dtype)
            count = item.length // dtype.itemsize
            offset = HEADER_BYTES + item.offset
            staged = torch.frombuffer(self._staging.map, dtype=dtype, count=count, offset=offset)
            staged = staged.view(item.shape)
            if current_platform.is_cuda_alike():
                # Waits until the bytes have left the staging memory.
                device = torch.device("cuda", current_platform.current_device())
                encoder_cache[item.identifier] = staged.to(device)
            elif current_platform.device_type in ("cpu", ""):
                # "" is what a vLLM built for GPUs says where there is none.
                encoder_cache[item.identifier] = staged.clone()
            else:
                encoder_cache[item.identifier] = staged.to(current_platform.device_type)
        self._staging.done(self._rank, loads.number)

    def save(self, identifier: str, tensor: torch.Tensor) -> None:
        """Queues, or forgets where too much waits already."""
        if self._link is None or self._link.stores is None:
            return
        tensor = tensor.detach()
        length = tensor.nbytes
        meta = pack_shape(tensor)
        if meta is None or not 0 < length <= OBJECT_BYTES_MAX:
            return
        with self._lock:
            if self._waiting_bytes + length > SAVE_BYTES_MAX:
                logger.warning_once("Larder: encoder outputs come faster than they are stored.")
                return
            self._waiting_bytes += length
        event = None
        if tensor.is_cuda:
            # The copy is ordered behind the encoder on its stream; the thread waits for it.
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            tensor = host
        elif tensor.device.type != "cpu":
            tensor = tensor.cpu()
        self._waiting.put(_Output(identifier, tensor.contiguous(), meta, event))

    def close(self) -> None:
        """Stores what still waits: each within its timeout."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        if self._link is not None:
            self._link.close()

    def _run(self) -> None:
        while (output := self._waiting.get()) is not None:
            try:
                self._store(output)
            except Exception as e:
                logger.warning("Larder could not store an encoder output: %s", e)
            with self._lock:
                self._waiting_bytes -= output.tensor.nbytes

    def _store(self, output: _Output) -> None:
        stores = self._link.stores if self._link is not None else None
        if stores is None:
            return
        if output.event is not None:
            output.event.synchronize()
        (status,) = stores.writes.put(
            [output.identifier],
            [output.tensor],
            metas=[output.meta],
            if_absent=True,
            ttl=self._ttl,
            timeout=self._timeout,
        )
        if status not in (larder.Status.OK, larder.Status.EXISTS):
            logger.debug("Larder did not store an encoder output: %s", larder.Status(status).name)


@dataclasses.dataclass
class _Output:
    """An encoder output in host memory, once `event` has happened."""

    identifier: str
    tensor: torch.Tensor
    meta: bytes
    event: Any


def pack_shape(tensor: torch.Tensor) -> bytes | None:
    """Shape and dtype as user metadata; None if it is no matrix, as every output should be."""
    dtype = str(tensor.dtype).removeprefix("torch.").encode()
    if tensor.dim() != 2:
        return None
    return MAGIC + struct.pack("<II", *tensor.shape) + dtype


def shape_of(meta: bytes, length: int) -> tuple[tuple[int, int], str] | None:
    """Shape and dtype from user metadata, or None if it does not describe `length` bytes."""
    head = len(MAGIC) + 8
    if not meta.startswith(MAGIC) or len(meta) <= head:
        return None
    rows, width = struct.unpack_from("<II", meta, len(MAGIC))
    name = meta[head:].decode("ascii", "replace")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or rows * width * dtype.itemsize != length:
        return None
    return (rows, width), name


def _link(config: VllmConfig, extra: dict[str, Any], memory: list[tuple[int, int]]) -> Link:
    return Link(
        Settings.of(extra, deadline=Settings.deadline),
        encoder_namespace(config, extra),
        name=f"vllm-ec-{os.getpid()}",
        logger=logger,
        memory=memory,
    )


# Of /dev/shm, if nothing else is configured. Guessed: some hundred images.
STAGING_BYTES = 256 << 20
# Of outputs that wait to be stored. Guessed likewise; more are not stored.
SAVE_BYTES_MAX = 256 << 20
# Of the metadata's format.
MAGIC = b"LEC1"
