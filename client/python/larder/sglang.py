"""Larder as a HiCache storage backend of SGLang: type `dynamic`, interface v1.

One object holds one page: keys and values, all layers, wherever the host pool has them; Larder
reads and writes the pool itself. SGLang's keys are hashes of tokens alone, and equally long pages
of another layout or rank are well-formed and wrong, so all of that is in the namespace, and a page
is taken only if it has every byte that the pool expects.

    --enable-hierarchical-cache --hicache-mem-layout page_first --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "larder", "interface_v1": 1,
      "module_path": "larder.sglang", "class_name": "LarderStorage",
      "endpoint": "127.0.0.1:7400", "revision": "…"}'
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

import larder
from larder._limits import DEPTH_MAX, fit
from larder._link import Link, Settings, Stores, number

if TYPE_CHECKING:
    # SGLang has no types that a strict checker accepts.
    torch: Any
    HiCacheStorage = object
    sglang_version: str
else:
    import torch
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage
    from sglang.version import __version__ as sglang_version

__all__ = ["LarderStorage"]

logger = logging.getLogger(__name__)


class LarderStorage(HiCacheStorage):
    """One rank's view of the cache. Usable from any thread; calls block, up to their deadline.

    `storage_config.extra_config` may say, besides what SGLang itself reads in it:

    - `endpoint`: `"host:port"` or `"unix:PATH"`, several as a list or with commas between them;
      `LARDER_NODES` if absent.
    - `revision` (required): of the weights, and whatever is changed together with them.
    - `dtype`: the KV's logical type; required where the pool holds plain bytes (fp8).
    - `tenant`, `extra`, `extra_backend_tag`: more that readers must agree on with writers.
    - `path`, `credential`, `connect_timeout`, `retry`: as in `larder.connect`; seconds between
      attempts to reach a node, while there is none and everything is a miss.
    - `lookup_deadline`, `transfer_deadline`: seconds, for a call of up to 128 pages.

    Raises `larder.InvalidArgument` for a configuration under which bytes could be mistaken for
    others, and for what v1 cannot store: pools of hybrid models, and KV shards of decode context
    parallelism.
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        given = dict(storage_config.extra_config or {})
        if not given.get("revision"):
            raise larder.InvalidArgument("revision: which weights? Give it in the extra config")
        if not given.get("interface_v1"):
            raise larder.InvalidArgument("interface_v1: must be 1, pages are not copied in Python")
        if getattr(storage_config, "dcp_size", 1) > 1:
            raise larder.InvalidArgument("decode context parallelism is not supported")
        if not storage_config.model_name:
            raise larder.InvalidArgument("model_name: is empty")
        self._config = storage_config
        self._given = given
        self._lookup = number(given, "lookup_deadline", 0.25)
        self._transfer = number(given, "transfer_deadline", 5.0)
        self._settings = Settings.of(given, self._transfer)
        self._pool: Any = None
        self._link: Link | None = None
        self._page_bytes = 0

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Takes the host pool: registers its memory and opens the namespace of its pages."""
        buffers = _buffers(mem_pool_host)
        if not buffers:
            raise larder.InvalidArgument("pool: has no memory of its own (hybrid models need v2)")
        self.mem_pool_host = self._pool = mem_pool_host
        one_page = torch.zeros(mem_pool_host.page_size, dtype=torch.int64)
        self._page_bytes = sum(mem_pool_host.get_page_buffer_meta(one_page)[1])
        self._space = _namespace(self._config, self._given, mem_pool_host)
        self._link = Link(
            self._settings,
            self._space,
            name="sglang",
            logger=logger,
            memory=[(buffer,) for buffer in buffers],
        )

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Refuses every pool but the KV pool, which `register_mem_pool_host` took already."""
        if str(host_pool_name) != "kv":
            raise larder.InvalidArgument(f"pool {host_pool_name}: only v1, the KV pool, is stored")

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """How many of `keys`, from the first on, are there as whole pages."""
        store = self._store()
        if store is None or not keys:
            return 0
        found = store.match(keys, timeout=self._lookup)
        for index, (hit, size) in enumerate(zip(found.hits, found.sizes, strict=True)):
            if not hit or size != self._page_bytes:
                return index
        return len(keys)

    def batch_get_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Fills the pages at `host_indices` (page_size of them a key); True where all bytes came.

        Afterwards nothing writes to any of the pages, also to those that are False.
        """
        store = self._store()
        if store is None or not keys:
            return [False] * len(keys)
        ptrs, sizes = self._pieces(keys, host_indices)
        results = store.batch_get_into(keys, ptrs, sizes, timeout=self._transfer)
        return [result == sum(want) for result, want in zip(results, sizes, strict=True)]

    def batch_set_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Stores the pages at `host_indices`; True where the cache now has the page, or wants it not.

        SGLang gives up the rest of a backup at the first False. Ranks that hold a replica of what
        another one writes store nothing. Somebody else's `clear` is noticed here, and only here: an
        engine that just reads goes on with the old generation, in which nothing is found.
        """
        store = self._store()
        if store is None or not keys:
            return [False] * len(keys)
        if not self._config.is_storage_writer:
            return [True] * len(keys)
        statuses = self._set(store, keys, host_indices, extra_info)
        if larder.Status.STALE in statuses:
            store = store.client.namespace(**self._space)
            self._replace(store)
            statuses = self._set(store, keys, host_indices, extra_info)
        return [status in DONE for status in statuses]

    def clear(self) -> None:
        """Lets nobody find a page of this namespace any more: a new generation, on every node."""
        store = self._store()
        if store is not None:
            self._replace(store.bump())

    def close(self) -> None:
        """Waits for what touches the pool, then gives up memory, store and connections."""
        # From here on calls of other threads are misses, so nothing new touches the pool.
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def exists(self, key: str) -> bool:
        """Whether the page is there."""
        return self.batch_exists([key]) == 1

    # Abstract in the base class, and never called under `interface_v1`.

    def get(self, *_: Any, **__: Any) -> NoReturn:
        """Not part of v1."""
        raise NotImplementedError(ONLY_V1)

    batch_get = set = batch_set = get

    def _store(self) -> larder.Store | None:
        stores = self._link.stores if self._link is not None else None
        return stores.reads if stores is not None else None

    def _replace(self, store: larder.Store) -> None:
        """Another generation of the namespace, from now on."""
        if self._link is not None:
            self._link.replace(Stores(store, store))

    def _set(
        self, store: larder.Store, keys: list[str], host_indices: Any, extra_info: Any
    ) -> list[int]:
        """A status for each key; only pages that are not there yet are sent."""
        there = store.match(keys, touch=True, timeout=self._lookup).hits
        missing = [index for index, hit in enumerate(there) if not hit]
        statuses = [int(larder.Status.OK)] * len(keys)
        if missing:
            ptrs, sizes = self._pieces(keys, host_indices)
            before = getattr(extra_info, "prefix_keys", None)
            depths = None if before is None else [min(len(before) + i, DEPTH_MAX) for i in missing]
            answers = store.batch_put_from(
                [keys[i] for i in missing],
                [ptrs[i] for i in missing],
                [sizes[i] for i in missing],
                if_absent=True,
                depths=depths,
                timeout=self._transfer,
            )
            for index, status in zip(missing, answers, strict=True):
                statuses[index] = status
        return statuses

    def _pieces(
        self, keys: list[str], host_indices: Any
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Addresses and lengths of each key's pieces: K and V, or those of each layer, or one."""
        ptrs, sizes = self._pool.get_page_buffer_meta(host_indices)
        each, rest = divmod(len(ptrs), len(keys))
        if rest or len(sizes) != len(ptrs):
            raise larder.InvalidArgument(f"host_indices: {len(ptrs)} pieces, {len(keys)} keys")
        starts = range(0, len(ptrs), each)
        return [ptrs[s : s + each] for s in starts], [sizes[s : s + each] for s in starts]


def _buffers(pool: Any) -> list[Any]:
    """The tensors that hold a pool's pages; none for a pool that is only an index of others."""
    several = getattr(pool, "get_hybrid_pool_buffer", None)
    found = several() if several is not None else getattr(pool, "kv_buffer", None)
    tensors = found if isinstance(found, (list, tuple)) else [found]
    return [tensor for tensor in tensors if tensor is not None and tensor.numel()]


def _namespace(config: Any, given: dict[str, Any], pool: Any) -> dict[str, Any]:
    """What the bytes of a page depend on beyond its tokens, as the fields of a namespace."""
    dtype = str(pool.dtype).removeprefix("torch.")
    if pool.dtype.itemsize == 1:
        # Pools keep every 8-bit format as bytes, and an e4m3 page read as e5m2 is a wrong answer.
        if not given.get("dtype"):
            raise larder.InvalidArgument(f"dtype: the pool holds {dtype}; say which 8-bit format")
        dtype = f"{given['dtype']} in {dtype}"
    shape = {name: getattr(pool, name, None) for name in POOL_SHAPE}
    said = " ".join(f"{name}={value}" for name, value in shape.items() if value is not None)
    layout = f"sglang {sglang_version} {type(pool).__name__} {said}"
    rank = {
        "pp": (config.pp_rank, config.pp_size),
        "cp": (config.attn_cp_rank, config.attn_cp_size),
    }
    if not config.is_mla_model:
        # Latent attention has one KV for all tensor-parallel ranks, everything else a slice each.
        rank["tp"] = (config.tp_rank, config.tp_size)
    return {
        "tenant": fit(str(given.get("tenant", ""))),
        "model": fit(config.model_name),
        "revision": fit(str(given["revision"])),
        "dtype": fit(dtype),
        "layout": fit(layout),
        "rank": " ".join(f"{name} {index}/{of}" for name, (index, of) in rank.items()),
        "extra": fit(f"{given.get('extra', '')}{given.get('extra_backend_tag') or ''}"),
    }


# Attributes of host pools that decide which byte of a page means what.
POOL_SHAPE = (
    "layout",
    "page_size",
    "start_layer",
    "end_layer",
    "layer_num",
    "head_num",
    "head_dim",
    "v_head_dim",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "kv_cache_dim",
    "head_group_num",
    "dsa_kv_cache_store_fp8",
)
# What a node does not want it expects nobody to ask for: SGLang need not try again, nor give up.
DONE = (larder.Status.OK, larder.Status.EXISTS, larder.Status.NOT_WANTED)
ONLY_V1 = "larder stores pages by address only (interface_v1)"
