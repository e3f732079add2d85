"""vLLM's KV offload tier over Larder: rows of vLLM's host memory go to nodes and come back.

Configured by module path, see `examples/vllm`. What a reader would get wrong: everything here but
`batch_lookup` runs on the scheduler's thread, inside a step, so nothing here waits. A row belongs
to a job until the job is reported; the client promises that nothing writes to it after that.

Works with vLLM 0.32 and 0.33 (`TieringOffloadingSpec`).
"""

# vLLM and torch are not there where this is checked.
# mypy: disable-error-code="import-not-found", allow-subclassing-any

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import (
    OffloadingConnectorStats,
)
from vllm.logger import init_logger
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadingMetricMetadata,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
    get_offload_group_idx,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
from vllm.v1.metrics.cache_hit_source import CacheHitSource

import larder
from larder._limits import DEPTH_MAX, OBJECT_BYTES_MAX, fit
from larder._link import Link, PathChoice, Settings, Stores, positive
from larder._seldom import Seldom
from larder.vllm_jobs import DONE, STORED, Job, reasons, sort_out
from larder.vllm_lookups import Lookups
from larder.vllm_namespace import tier_namespace
from larder.vllm_tier_stats import TierCounts, metric_definitions

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadingSpec
    from vllm.v1.kv_offload.tiering.backpressure import BackpressureDetector

# Under vLLM's logger, or nobody would see what is logged.
logger = init_logger("vllm.larder.tier")


class LarderTier(SecondaryTierManager):
    """One per engine (and data-parallel replica), in the scheduler's process.

    Args:
        offloading_spec, primary_kv_view, tier_type, backpressure_detector: from vLLM.
        revision: which weights. Anything that changes when the weights do; vLLM knows no such
            thing, and wrong text is the price of two revisions under one name.
        endpoint: "host:port" or "unix:PATH", several as a list or with commas between them. None:
            the environment's LARDER_NODES.
        tenant: who owns the bytes; tenants share nothing.
        model: the model's name if paths differ between hosts. None: as vLLM was started.
        path: "auto", "tcp" or "shm".
        connect_timeout: seconds; holds up the engine's start by at most this (and half a second) if
            no node answers.
        retry: seconds between two attempts to reach a node, while none was reached.
        lookup_timeout: seconds; a lookup that takes longer is a miss.
        load_timeout: seconds; keys that take longer are recomputed.
        store_timeout: seconds; keys that take longer are not stored.
        ttl: seconds that stored keys live, None: until evicted.
        on_reset: what a reset of vLLM's caches means for what was stored (sleep, pause, a weight
            update: the tier cannot tell which). "leave" goes on in a namespace of this engine's
            own, for the weights may be others now; "keep" goes on as before, which is right if
            weights never change in place.
        locality: "REMOTE" or "LOCAL", what KV events and per-request tier filters say.
        enable_kv_events: emit KV events, if vLLM does.
        credential: what the nodes ask for, if anything (UTF-8).

    Raises:
        larder.InvalidArgument: the configuration cannot work, and no node would make it work.
        larder.Denied: the nodes refuse the credential. Nodes that do not answer are not an error.
    """

    medium: ClassVar[Medium] = Medium.CPU
    # Not HOST, which vLLM uses for its own memory: hits would be counted as local ones.
    cache_hit_source: ClassVar[CacheHitSource] = CacheHitSource.EXTERNAL_UNSPECIFIED

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: BackpressureDetector | None = None,
        *,
        revision: str,
        endpoint: str | list[str] | None = None,
        tenant: str = "",
        model: str | None = None,
        path: PathChoice = "auto",
        connect_timeout: float = 1.0,
        retry: float = 1.0,
        lookup_timeout: float = 0.25,
        load_timeout: float = 1.0,
        store_timeout: float = 2.0,
        ttl: float | None = None,
        on_reset: str = "leave",
        locality: str = "REMOTE",
        enable_kv_events: bool = False,
        credential: str = "",
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        if not revision:
            raise larder.InvalidArgument("revision: which weights? vLLM's keys do not say")
        if on_reset not in ("leave", "keep"):
            raise larder.InvalidArgument(f"on_reset: is leave or keep, not {on_reset!r}")
        row_bytes = self._block_size_bytes
        if row_bytes > OBJECT_BYTES_MAX:
            raise larder.InvalidArgument(
                f"blocks_per_chunk: a chunk of {row_bytes} bytes is more than an object may hold "
                f"({OBJECT_BYTES_MAX})"
            )
        lookup_timeout = positive("lookup_timeout", lookup_timeout)
        self.locality = Locality(locality)
        self._row_bytes = row_bytes
        self._load_timeout = positive("load_timeout", load_timeout)
        self._store_timeout = positive("store_timeout", store_timeout)
        self._ttl = None if ttl is None else positive("ttl", ttl)
        self._on_reset = on_reset
        self._chunk_tokens = [
            group.tokens_per_block * offloading_spec.config.cache.blocks_per_chunk
            for group in offloading_spec.config.groups
        ]
        self._namespace = tier_namespace(
            offloading_spec,
            row_bytes,
            revision=revision,
            tenant=tenant,
            model=model,
        )
        self._events: list[OffloadingEvent] | None = None
        if enable_kv_events and offloading_spec.kv_events_config.enable_kv_cache_events:
            self._events = []

        # Only the address: vLLM releases the view at shutdown, which fails while anybody holds it.
        self._address = int(np.asarray(primary_kv_view).ctypes.data)
        self._link = Link(
            Settings(
                endpoint=endpoint,
                path=path,
                deadline=max(lookup_timeout, load_timeout),
                connect_timeout=connect_timeout,
                credential=credential,
                retry=retry,
            ),
            self._namespace,
            name=f"vllm-tier-{os.getpid()}",
            logger=logger,
            memory=[(self._address, primary_kv_view.nbytes)],
            apart=True,
        )
        self._lookups = Lookups(tier_type, self._link, row_bytes, lookup_timeout)
        # Jobs by the number that their store gave them.
        self._loads: dict[int, Job] = {}
        self._writes: dict[int, Job] = {}
        self._ended: list[JobResult] = []
        self._counts = TierCounts()
        self._seen_hit = False
        self._unstored = Seldom(logger, "Larder did not store %d chunks (%s).")

    # What vLLM asks, in the order of a step.

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Chunks are stored as they are made."""
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """HIT or MISS, or RETRY as long as the nodes were not heard. MISS without nodes."""
        if self._link.stores is None:
            return LookupResult.MISS
        found = self._lookups.lookup(key, req_context)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Starts filling rows. Always reported, by `get_finished_jobs`."""
        job = Job.of(job_metadata)
        stores = self._link.stores
        try:
            if stores is None:
                raise larder.Closed("no node was reached yet")
            number = stores.reads.submit_get_ptrs(
                job.keys,
                self._rows(job_metadata),
                self._row_bytes,
                timeout=self._load_timeout,
            )
        except Exception as e:
            # Nothing was started, so nothing touches the rows: the job may be reported.
            logger.warning("Larder could not start a load of %d chunks: %s", len(job.keys), e)
            self._fail_load(job, job.keys)
            return
        self._loads[number] = job

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Starts storing rows. Always reported; what the nodes have already is not sent again."""
        job = Job.of(job_metadata)
        job.depths = self._depths(job_metadata)
        stores = self._link.stores
        if stores is None:
            self._counts.add("store", "unconnected", len(job.keys))
            self._ended.append(JobResult(job.job_id, success=False))
            return
        try:
            number = stores.writes.submit_put_ptrs(
                job.keys,
                self._rows(job_metadata),
                self._row_bytes,
                timeout=self._store_timeout,
                if_absent=True,
                ttl=self._ttl,
                depths=job.depths,
            )
        except Exception as e:
            logger.warning("Larder could not start a store of %d chunks: %s", len(job.keys), e)
            self._counts.add("store", "failed", len(job.keys))
            self._ended.append(JobResult(job.job_id, success=False))
            return
        self._writes[number] = job

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Each job once, when nothing touches its rows any more."""
        stores = self._link.stores
        if stores is not None:
            self._collect(stores)
        ended, self._ended = self._ended, []
        return ended

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Sends the step's lookups off."""
        self._lookups.flush()

    def on_request_finished(self, req_context: ReqContext) -> None:
        """Forgets what the request looked up."""
        self._lookups.cleanup(req_context.req_id)

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Keeps a prefix that vLLM finds in its own memory young on the nodes as well."""
        self._link.touch(keys)

    def drain_jobs(self) -> None:
        """Blocks until nothing touches the rows; results wait for `get_finished_jobs`.

        Bounded by the jobs' timeouts: transfers are not cut short.
        """
        stores = self._link.stores
        if stores is not None:
            _await_jobs(stores)
            self._collect(stores)
        if self._on_reset == "leave":
            own = fit(f"{self._namespace['extra']};since={os.urandom(16).hex()}")
            before = self._link.reopen({**self._namespace, "extra": own})
            if before is not None:
                before.close()
            logger.warning(
                "vLLM's caches were reset, and the weights may have changed: Larder goes on in a "
                "namespace of this engine alone (on_reset=keep if weights never change in place)."
            )

    def shutdown(self) -> None:
        """Waits for what is in flight, then lets go of the rows and the nodes."""
        self._lookups.shutdown()
        stores = self._link.stores
        if stores is not None:
            _await_jobs(stores)
        self._link.close()

    # What vLLM publishes.

    def take_events(self) -> Iterable[OffloadingEvent]:
        """What was stored, and what a load found to be gone."""
        if self._events:
            events, self._events = self._events, []
            return events
        return ()

    def get_stats(self) -> OffloadingConnectorStats | None:
        """Counts since the last call."""
        return self._counts.take(self._lookups.take_counts(), self._link.stores is not None)

    @classmethod
    def build_metric_definitions(
        cls, extra_config: dict[str, Any]
    ) -> dict[str, OffloadingMetricMetadata]:
        """Keys by operation and outcome, bytes by operation, and whether nodes were reached."""
        return metric_definitions()

    # Rows, and what became of them.

    def _rows(self, job: TransferJob) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The addresses of a job's rows."""
        chunks = np.asarray(job.chunk_ids, dtype=np.int64)
        rows: np.ndarray[Any, np.dtype[np.int64]] = self._address + chunks * self._row_bytes
        return rows

    def _depths(self, job: TransferJob) -> list[int]:
        """Places in the prefix, for eviction from the far end; 0 where vLLM does not know."""
        depths = []
        for key in job.keys:
            end = job.req_context.get_offload_key_position(key)
            tokens = self._chunk_tokens[get_offload_group_idx(key)]
            depths.append(min(max(0, end // tokens - 1), DEPTH_MAX) if end else 0)
        return depths

    def _collect(self, stores: Stores) -> None:
        """Takes completions and makes results of them. In most steps there are none to come."""
        if self._loads:
            for completion in stores.reads.drain():
                job = self._loads.pop(completion.job, None)
                if job is not None:
                    self._loaded(job, completion)
        if self._writes:
            for completion in stores.writes.drain():
                job = self._writes.pop(completion.job, None)
                if job is not None:
                    self._stored(job, completion)

    def _loaded(self, job: Job, completion: larder.Completion) -> None:
        """A shorter object than a row leaves the row's end as it was, so it is a failure too."""
        took = time.monotonic() - job.since
        came = job.keys
        failed: list[OffloadKey] = []
        gone: list[OffloadKey] = []
        # No object is longer than its row, so the sum tells whether all have its length.
        if not (completion.ok and completion.bytes == len(job.keys) * self._row_bytes):
            came, failed, gone = sort_out(job, completion, self._row_bytes)
        self._counts.add("load", "loaded", len(came), len(came) * self._row_bytes)
        if not self._seen_hit and came:
            self._seen_hit = True
            logger.info(
                "Larder: first hit, %d chunks of %d bytes in %.1f ms.",
                len(came),
                self._row_bytes,
                took * 1e3,
            )
        if not failed:
            self._ended.append(
                JobResult(
                    job.job_id,
                    success=True,
                    transfer_time=took,
                    transfer_bytes=len(came) * self._row_bytes,
                )
            )
            return
        logger.info(
            "Larder: %d of %d chunks did not come and are recomputed (%s).",
            len(failed),
            len(job.keys),
            completion.error or reasons(completion.statuses),
        )
        self._event(gone, removed=True)
        self._fail_load(job, failed, came, took)

    def _fail_load(
        self,
        job: Job,
        failed: list[OffloadKey],
        came: Sequence[OffloadKey] = (),
        took: float = 0.0,
    ) -> None:
        """Reports, and makes sure that vLLM does not ask for the failed keys for ever."""
        self._lookups.mark_miss(failed)
        self._counts.add("load", "failed", len(failed))
        self._ended.append(
            JobResult(
                job.job_id,
                success=False,
                successful_keys=tuple(came) or None,
                transfer_time=took,
                transfer_bytes=len(came) * self._row_bytes,
            )
        )

    def _stored(self, job: Job, completion: larder.Completion) -> None:
        """A key that another engine stored meanwhile counts as stored: same key, same bytes.

        One that its node does not want is not there, and no failure either.
        """
        took = time.monotonic() - job.since
        new = sum(status == larder.Status.OK for status in completion.statuses)
        there = [k for k, status in zip(job.keys, completion.statuses) if status in STORED]
        stored = set(there)
        unwanted = sum(status == larder.Status.NOT_WANTED for status in completion.statuses)
        lost = len(job.keys) - len(there) - unwanted
        self._counts.add("store", "stored", new, new * self._row_bytes)
        self._counts.add("store", "present", len(there) - new)
        self._counts.add("store", "unwanted", unwanted)
        self._counts.add("store", "failed", lost)
        if lost:
            failed = (status for status in completion.statuses if status not in DONE)
            self._unstored.add(lost, completion.error or reasons(failed))
        # A node evicts what was stored first, so as stored it would lose the head of a chain before
        # its tail. Touching in the chain's order makes it the other way round.
        self._link.touch(key for _, key in sorted(zip(job.depths, job.keys)) if key in stored)
        self._event(there, removed=False)
        self._ended.append(
            JobResult(
                job.job_id,
                success=not lost,
                transfer_time=took,
                transfer_bytes=len(there) * self._row_bytes,
            )
        )

    def _event(self, keys: list[OffloadKey], *, removed: bool) -> None:
        if self._events is not None and keys:
            self._events.append(
                OffloadingEvent(
                    keys=keys,
                    medium=self.medium,
                    removed=removed,
                    locality=self.locality,
                    ownership=self.tier_type,
                )
            )


def _await_jobs(stores: Stores) -> None:
    """Waits until no job is in flight. Each ends at its deadline at the latest."""
    for store in stores.each():
        while not store.drain_all(timeout=5.0):
            logger.warning("Larder waits for jobs that are still in flight.")
