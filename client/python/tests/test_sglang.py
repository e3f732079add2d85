"""`larder.sglang` under SGLang's own factory, host pools and storage loops, on the CPU.

No engine runs here, and nothing of SGLang is replaced: the controller is only left unstarted, for
its constructor wants a GPU. Skipped without SGLang: see examples/sglang/README.md for an install
that needs none.
"""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")
hicache = pytest.importorskip("sglang.srt.mem_cache.hicache_storage")

from node_process import Node
from sglang.srt.managers.cache_controller import (
    HiCacheController,
    PrefetchOperation,
    StorageOperation,
)
from sglang.srt.mem_cache import device_pool_info as info
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

import larder

LAYERS, HEADS, WIDTH, PAGE, TOKENS = 3, 2, 8, 4, 2048
LAYOUTS = ["page_first", "page_first_direct", "layer_first", "page_head"]


def mha_pool(layout: str = "page_first", dtype: Any = None, layers: int = LAYERS) -> Any:
    """A host pool of SGLang's, in ordinary memory, behind device tensors that are on the CPU."""
    dtype = dtype or torch.bfloat16
    sides = [tuple(torch.zeros(TOKENS, HEADS, WIDTH, dtype=dtype) for _ in range(layers))] * 2
    ptrs = [torch.tensor([t.data_ptr() for t in s], dtype=torch.uint64) for s in sides]
    buffers = info.KVBuffers(
        k=sides[0],
        v=sides[1],
        k_data_ptrs=ptrs[0],
        v_data_ptrs=ptrs[1],
        layout=info.KVBufferLayout.NHD,
    )
    device = info.MHABufferInfo(
        buffers=buffers,
        page_size=PAGE,
        head_num=HEADS,
        head_dim=WIDTH,
        v_head_dim=WIDTH,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    return filled(
        MHATokenToKVPoolHost(
            device, 2.0, 0, PAGE, layout, pin_memory=False, device_capacity_tokens=TOKENS,
            start_layer=0, end_layer=layers,
        )
    )  # fmt: skip


def mla_pool(layout: str = "page_first") -> Any:
    rows = tuple(torch.zeros(TOKENS, 1, WIDTH, dtype=torch.bfloat16) for _ in range(LAYERS))
    device = info.MLABufferInfo(
        buffers=rows,
        data_ptrs=torch.tensor([row.data_ptr() for row in rows], dtype=torch.uint64),
        layer_indices=tuple(range(LAYERS)),
        device_layer_num=LAYERS,
        page_size=PAGE,
        kv_lora_rank=WIDTH - 2,
        qk_rope_head_dim=2,
        kv_cache_dim=WIDTH,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    return filled(
        MLATokenToKVPoolHost(
            device, 2.0, 0, PAGE, layout, pin_memory=False, device_capacity_tokens=TOKENS,
            start_layer=0, end_layer=LAYERS, target_layer_num=LAYERS,
        )
    )  # fmt: skip


def filled(pool: Any) -> Any:
    torch.manual_seed(1)
    pool.kv_buffer.copy_(torch.randn(pool.kv_buffer.shape))
    return pool


def config(node: Node, mla: bool = False, tp: tuple[int, int] = (0, 1), **extra: Any) -> Any:
    return hicache.HiCacheStorageConfig(
        tp_rank=tp[0],
        tp_size=tp[1],
        pp_rank=0,
        pp_size=1,
        attn_cp_rank=0,
        attn_cp_size=1,
        is_mla_model=mla,
        enable_storage_metrics=False,
        is_page_first_layout=True,
        model_name="acme/tiny",
        extra_config={
            "backend_name": "larder",
            "module_path": "larder.sglang",
            "class_name": "LarderStorage",
            "interface_v1": 1,
            "endpoint": node.endpoint,
            "revision": "1",
            **extra,
        },
    )


def attach(storage_config: Any, pool: Any) -> Any:
    """As the controller does it: by the factory, from the configuration alone."""
    storage = StorageBackendFactory.create_backend("dynamic", storage_config, pool)
    storage.register_mem_pool_host(pool)
    storage.on_host_pools_registered()
    return storage


def controller(storage: Any, pool: Any) -> Any:
    """SGLang's controller without its threads and streams: its loops over a storage backend."""
    from sglang.srt.mem_cache.utils import get_hash_str

    loops = object.__new__(HiCacheController)
    loops.storage_backend = storage
    loops.mem_pool_host = loops.storage_host_pool = pool
    loops.page_size = PAGE
    loops.get_hash_str = get_hash_str
    loops.prefetch_sync_queue = queue.Queue()
    loops.page_get_func = loops._page_get_zero_copy
    loops.page_set_func = loops._page_set_zero_copy
    return loops


def indices(first_page: int, pages: int) -> Any:
    return torch.arange(first_page * PAGE, (first_page + pages) * PAGE)


def page(pool: Any, number: int) -> bytes:
    flat = pool.get_data_page(number * PAGE, flat=True)
    return bytes(flat.contiguous().view(torch.uint8).numpy().tobytes())


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{index:04d}".ljust(64, "0") for index in range(count)]


@pytest.mark.parametrize("path", ["tcp", "shm"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_come_back_into_other_pages_of_another_pool(
    node: Node, layout: str, path: str
) -> None:
    source, target = mha_pool(layout), mha_pool(layout)
    target.kv_buffer.zero_()
    endpoint = node.seed(path)
    writer = attach(config(node, path=path, endpoint=endpoint), source)
    reader = attach(config(node, path=path, endpoint=endpoint), target)
    keys = names(path + layout, 8)
    assert reader.batch_exists(keys) == 0
    assert writer.batch_set_v1(keys, indices(3, 8)) == [True] * 8
    assert reader.batch_exists([*keys, "absent"]) == 8
    assert reader.batch_get_v1(keys, indices(11, 8)) == [True] * 8
    assert all(page(target, 11 + i) == page(source, 3 + i) for i in range(8))
    untouched = target.kv_buffer.numel() - 8 * writer._page_bytes // 2
    assert (target.kv_buffer == 0).sum() >= untouched
    writer.close()
    reader.close()


def test_latent_attention_has_one_copy_for_all_ranks(node: Node) -> None:
    source, target = mla_pool(), mla_pool()
    target.kv_buffer.zero_()
    writer = attach(config(node, mla=True, tp=(0, 2)), source)
    other = attach(config(node, mla=True, tp=(1, 2)), target)
    keys = names("mla", 4)
    assert other.batch_set_v1(keys, indices(0, 4)) == [True] * 4
    assert writer.batch_exists(keys) == 0, "a rank that is no writer wrote"
    assert writer.batch_set_v1(keys, indices(0, 4)) == [True] * 4
    assert other.batch_get_v1(keys, indices(7, 4)) == [True] * 4
    assert all(page(target, 7 + i) == page(source, i) for i in range(4))


def test_what_bytes_depend_on_separates_them(node: Node) -> None:
    keys = names("apart", 2)
    writer = attach(config(node), mha_pool())
    assert writer.batch_set_v1(keys, indices(0, 2)) == [True] * 2
    others = {
        "weights": attach(config(node, revision="2"), mha_pool()),
        "tenant": attach(config(node, tenant="b"), mha_pool()),
        "rank": attach(config(node, tp=(1, 2)), mha_pool()),
        "ranks": attach(config(node, tp=(0, 2)), mha_pool()),
        "layout": attach(config(node), mha_pool("page_first_direct")),
        "dtype": attach(config(node), mha_pool(dtype=torch.float16)),
        "layers": attach(config(node), mha_pool(layers=2)),
        "tag": attach(config(node, extra_backend_tag="x"), mha_pool()),
    }
    assert {name: other.batch_exists(keys) for name, other in others.items()} == dict.fromkeys(
        others, 0
    )
    assert attach(config(node), mha_pool()).batch_exists(keys) == 2


def test_the_controllers_own_loops_save_find_and_load_300_pages(node: Node) -> None:
    if not hashes_pages():
        pytest.skip("SGLang could not compile its page hash (needs ninja, g++, openssl headers)")
    source, target = mha_pool(), mha_pool()
    target.kv_buffer.zero_()
    tokens = [(7 * i) % 1000 for i in range(300 * PAGE)]
    writer = controller(attach(config(node), source), source)
    query = PrefetchOperation("r0", tokens)
    assert writer._storage_hit_query(query) == ([], 0)
    hashes = query.all_hash_values
    assert len(hashes) == 300
    backup = StorageOperation(indices(0, 300), tokens, hash_value=hashes, prefix_keys=[])
    writer._page_backup(backup)
    assert backup.completed_tokens == 300 * PAGE

    reader = controller(attach(config(node), target), target)
    fetch = PrefetchOperation("r1", tokens + [5] * 2 * PAGE, prefix_keys=[])
    fetch.hash_value, hit_tokens = reader._storage_hit_query(fetch)
    assert hit_tokens == 300 * PAGE
    fetch.host_indices = indices(100, 300)
    assert reader._page_transfer(fetch) == 300
    assert all(page(target, 100 + i) == page(source, i) for i in range(300))


def test_a_gap_ends_the_prefix(node: Node) -> None:
    pool = mha_pool()
    storage = attach(config(node), pool)
    keys = names("gap", 6)
    storage.batch_set_v1(keys[:2] + keys[3:], indices(0, 5))
    assert storage.batch_exists(keys) == 2
    assert storage.batch_get_v1(keys, indices(8, 6)) == [True, True, False, True, True, True]
    assert storage.exists(keys[0]) and not storage.exists(keys[2])


def test_a_page_that_is_there_is_not_written_again(node: Node) -> None:
    pool = mha_pool()
    storage = attach(config(node), pool)
    keys = names("once", 2)
    assert storage.batch_set_v1(keys[:1], indices(0, 1)) == [True]
    assert storage.batch_set_v1(keys, indices(5, 2)) == [True, True]
    first = page(pool, 0)
    pool.kv_buffer.zero_()
    assert storage.batch_get_v1(keys[:1], indices(9, 1)) == [True]
    assert page(pool, 9) == first


def test_clear_is_for_everybody_and_everybody_goes_on(node: Node) -> None:
    one, two = (attach(config(node, tenant="clear"), mha_pool()) for _ in range(2))
    keys = names("clear", 3)
    assert one.batch_set_v1(keys, indices(0, 3)) == [True] * 3
    assert two.batch_exists(keys) == 3
    one.clear()
    assert one.batch_exists(keys) == 0
    assert two.batch_exists(keys) == 0
    assert two.batch_set_v1(keys, indices(0, 3)) == [True] * 3
    assert one.batch_exists(keys) == 3


def test_without_a_node_everything_is_a_miss_and_then_is_not() -> None:
    with Node() as node:
        node.kill()
        storage = attach(config(node, retry=0.1, connect_timeout=0.2), mha_pool())
        keys = names("late", 2)
        assert storage.batch_exists(keys) == 0
        assert storage.batch_set_v1(keys, indices(0, 2)) == [False] * 2
        assert storage.batch_get_v1(keys, indices(0, 2)) == [False] * 2
        node.start()
        assert eventually(lambda: storage.batch_set_v1(keys, indices(0, 2)) == [True] * 2)
        node.kill()
        assert storage.batch_get_v1(keys, indices(4, 2)) == [False] * 2
        storage.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"revision": ""}, "revision"),
        ({"interface_v1": 0}, "interface_v1"),
    ],
)
def test_a_configuration_that_says_too_little_is_refused(
    node: Node, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(larder.InvalidArgument, match=says):
        attach(config(node, **change), mha_pool())


def test_bytes_of_unknown_meaning_are_refused(node: Node) -> None:
    with pytest.raises(larder.InvalidArgument, match="dtype"):
        attach(config(node), mha_pool(dtype=torch.uint8))
    e4m3, e5m2 = (attach(config(node, dtype=d), mha_pool(dtype=torch.uint8)) for d in ("a", "b"))
    assert e4m3.batch_set_v1(names("8bit", 1), indices(0, 1)) == [True]
    assert e5m2.batch_exists(names("8bit", 1)) == 0


def test_pools_that_v1_cannot_store_are_refused(node: Node) -> None:
    storage = attach(config(node), mha_pool())
    storage.register_mem_host_pool_v2(None, hicache.PoolName.KV)
    with pytest.raises(larder.InvalidArgument, match="mamba"):
        storage.register_mem_host_pool_v2(None, hicache.PoolName.MAMBA)


def test_failures_that_sglang_injects_pass_through_its_proxy(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0.0")
    storage = attach(config(node), mha_pool())
    assert type(storage).__name__ == "HiCacheStorageFailureInjector"
    assert storage.batch_set_v1(names("proxy", 2), indices(0, 2)) == [True] * 2
    assert storage.batch_exists(names("proxy", 2)) == 2


def hashes_pages() -> bool:
    from sglang.srt.mem_cache.cpp_utils.native_hash import get_native_hash

    try:
        get_native_hash([1] * PAGE, None, PAGE)
    except RuntimeError:
        return False
    return True


def eventually(check: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
