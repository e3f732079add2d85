"""Keeps the attention KV of a prompt's prefix in Larder, and gives it back to `transformers`.

A prefix is cut into runs of 128 tokens, one object a run. The key of a run hashes *all* tokens up
to its end, so a run is found only behind the very prefix it was computed behind. What token ids do
not say (images, adapters, a changed RoPE) must be in the namespace, as `extra`: keys do not know.

    store = larder.transformers.namespace(client, model, revision="2026-11")
    cache, restored = larder.transformers.load_prefix(store, model, ids)
    out = model.generate(ids, past_key_values=cache, return_dict_in_generate=True)
    larder.transformers.save_prefix(store, out.past_key_values, out.sequences)
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import larder
from larder._limits import DEPTH_MAX, OBJECT_BYTES_MAX, fit

if TYPE_CHECKING:
    # Neither has types that a strict checker accepts.
    np: Any
    torch: Any
    DynamicCache: Any
    DynamicLayer: Any
else:
    import numpy as np
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

__all__ = ["Geometry", "load_prefix", "namespace", "prefix_keys", "save_prefix"]


class Geometry(NamedTuple):
    """What one token's KV looks like in a model, as numbers of things."""

    layers: int
    heads: int
    """KV heads, not query heads."""
    head_dim: int
    dtype: str
    """As torch names it, without `torch.`: `bfloat16`."""

    @classmethod
    def of_config(cls, config: Any, dtype: str) -> Geometry:
        """The geometry that a `PreTrainedConfig` promises; `save_prefix` checks that it is kept."""
        text = config.get_text_config(decoder=True)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(len(_layers(DynamicCache(config=config))), heads, head_dim, dtype)

    @classmethod
    def of_cache(cls, cache: Any) -> Geometry:
        """The geometry of a filled cache of one sequence.

        Raises `larder.InvalidArgument` for an empty cache, a batch of several sequences, layers
        that keep a window or a state instead of all tokens, and layers that differ in shape.
        """
        layers = _layers(cache)
        if any(layer.keys is None for layer in layers):
            raise larder.InvalidArgument("cache: is empty")
        shapes = {tuple(t.shape) for layer in layers for t in (layer.keys, layer.values)}
        dtypes = {t.dtype for layer in layers for t in (layer.keys, layer.values)}
        if len(shapes) != 1 or len(dtypes) != 1:
            raise larder.InvalidArgument(f"cache: layers of unlike shape: {shapes}, {dtypes}")
        batch, heads, _, head_dim = shapes.pop()
        if batch != 1:
            raise larder.InvalidArgument(f"cache: holds {batch} sequences, must be 1")
        return cls(len(layers), heads, head_dim, _dtype_name(dtypes.pop()))

    @property
    def token_bytes(self) -> int:
        """Bytes of KV that one token has in all layers."""
        item_bytes: int = getattr(torch, self.dtype).itemsize
        return 2 * self.layers * self.heads * self.head_dim * item_bytes

    @property
    def run_tokens(self) -> int:
        """Tokens of one object: 128, or the longest half of it that an object has room for."""
        tokens = RUN_TOKENS
        while tokens > 1 and tokens * self.token_bytes > OBJECT_BYTES_MAX:
            tokens //= 2
        return tokens

    @property
    def run_shape(self) -> tuple[int, int, int, int, int]:
        """`[layers, 2 (keys, values), heads, tokens, head_dim]` of one object."""
        return (self.layers, 2, self.heads, self.run_tokens, self.head_dim)


def namespace(
    client: larder.Client,
    model: Any,
    *,
    revision: str | None = None,
    tenant: str = "",
    name: str | None = None,
    extra: str = "",
) -> larder.Store:
    """The store for what `model` computes: two models share one only if all of this agrees.

    `model` is a model, or its configuration if that says the dtype. `revision` is of the *weights*;
    without it the commit is taken that the hub gave them, and `larder.InvalidArgument` is raised if
    there is none, for KV of other weights is well-formed and wrong. `name` defaults to
    `config.name_or_path`: give one if it is a directory and hosts should share. `extra` is for what
    else changes the KV of equal tokens, as an adapter's name.
    """
    config = _config(model)
    revision = revision or getattr(config, "_commit_hash", None)
    if not revision:
        raise larder.InvalidArgument("revision: which weights? The configuration does not say")
    dtype = getattr(model, "dtype", None) or getattr(config, "dtype", None)
    if dtype is None:
        raise larder.InvalidArgument("model: says no dtype; give the model, not its configuration")
    geometry = Geometry.of_config(config, _dtype_name(dtype))
    return client.namespace(
        tenant=tenant,
        model=fit(name or config.name_or_path),
        revision=revision,
        dtype=geometry.dtype,
        layout=f"transformers-v1 {'x'.join(map(str, geometry.run_shape))}",
        extra=extra,
    )


def prefix_keys(store: larder.Store, geometry: Geometry, token_ids: Any) -> list[bytes]:
    """The key (32 bytes) of every full run of `token_ids`, in order: a SHA-256 chain.

    `token_ids` is one sequence: a list, an array or a tensor, `[tokens]` or `[1, tokens]`.
    """
    spec = store.spec
    seed = repr((KEY_FORMAT, spec["model"], spec["revision"], *geometry, geometry.run_tokens))
    link = hashlib.sha256(seed.encode()).digest()
    ids = _token_ids(token_ids)
    keys = []
    for end in range(geometry.run_tokens, len(ids) + 1, geometry.run_tokens):
        link = hashlib.sha256(link + ids[end - geometry.run_tokens : end].tobytes()).digest()
        keys.append(link)
    return keys


def save_prefix(
    store: larder.Store, cache: Any, token_ids: Any, *, timeout: float | None = None
) -> int:
    """Puts the full runs of `cache` that Larder does not have yet; returns the tokens it then has.

    `cache` is a `DynamicCache` of one sequence whose first tokens are `token_ids`; what one has and
    the other has not is left out. The count is of the leading tokens only, for the rest is of no
    use. A run that finds no room or no node just is not counted: nothing of Larder's trouble is
    raised here. `timeout` is in seconds, for each call: one for the lookup and one for every 64
    MiB; the first that stores nothing is the last. `larder.InvalidArgument`: see
    `Geometry.of_cache`, and a cache of another dtype than the store's.
    """
    geometry = Geometry.of_cache(cache)
    if geometry.dtype != store.spec["dtype"]:
        raise larder.InvalidArgument(
            f"cache: is {geometry.dtype}, the store is for {store.spec['dtype']}"
        )
    ids = _token_ids(token_ids)[: cache.get_seq_length()]
    keys = prefix_keys(store, geometry, ids)
    if not keys:
        return 0
    there = store.match(keys, touch=True, timeout=timeout).hits
    missing = [index for index, hit in enumerate(there) if not hit]
    for indices in _batches(missing, _runs_at_once(geometry)):
        statuses = store.put(
            [keys[index] for index in indices],
            [_run(cache, geometry, index) for index in indices],
            if_absent=True,
            depths=[min(index, DEPTH_MAX) for index in indices],
            timeout=timeout,
        )
        for index, status in zip(indices, statuses, strict=True):
            there[index] = status in (larder.Status.OK, larder.Status.EXISTS)
        if not any(there[index] for index in indices):
            break
    return _leading(there) * geometry.run_tokens


def load_prefix(
    store: larder.Store,
    model: Any,
    token_ids: Any,
    *,
    device: Any = None,
    timeout: float | None = None,
) -> tuple[Any, int]:
    """A `DynamicCache` with as much of `token_ids` as Larder has, and the number of tokens in it.

    Ready for `model.generate(token_ids, past_key_values=cache)`: at least one token is left to
    compute. What is missing, late, damaged or unreachable ends the prefix there; with nothing at
    all the cache is empty and the number 0. `model` is a model or its configuration; `device` is
    where the tensors go (the model's own, else the CPU). `timeout` is in seconds, for each call:
    one for the lookup and one for every 64 MiB; the first of these that fails is the last.
    `larder.InvalidArgument`: the model's layers do not keep all tokens, or its dtype is not the
    store's.
    """
    config = _config(model)
    geometry = Geometry.of_config(config, store.spec["dtype"])
    dtype = getattr(torch, geometry.dtype)
    if getattr(model, "dtype", dtype) not in (dtype, None):
        raise larder.InvalidArgument(f"model: is {model.dtype}, the store is for {geometry.dtype}")
    cache = DynamicCache(config=config)
    # The last token must be computed: without it there are no logits to go on from.
    keys = prefix_keys(store, geometry, _token_ids(token_ids)[:-1])
    found = store.match(keys, timeout=timeout).leading if keys else 0
    if not found:
        return cache, 0
    runs = torch.empty((found, *geometry.run_shape), dtype=dtype)
    count = 0
    for indices in _batches(range(found), _runs_at_once(geometry)):
        landings = [runs[index] for index in indices]
        lengths = store.get_into([keys[index] for index in indices], landings, timeout=timeout)
        # No byte behind the first failure may be used, though later runs may have landed.
        whole = _leading([length == runs[0].nbytes for length in lengths])
        count += whole
        if whole < len(indices):
            break
    if not count:
        return cache, 0
    device = device or getattr(model, "device", "cpu")
    for layer in range(geometry.layers):
        # [runs, 2, heads, tokens, head_dim] → [2, 1, heads, runs × tokens, head_dim]
        joined = runs[:count, layer].permute(1, 2, 0, 3, 4).flatten(2, 3).unsqueeze(1).to(device)
        cache.update(joined[0], joined[1], layer)
    return cache, count * geometry.run_tokens


def _run(cache: Any, geometry: Geometry, index: int) -> Any:
    """One object: the KV of run `index` in all layers, in memory of its own, on the CPU."""
    span = slice(index * geometry.run_tokens, (index + 1) * geometry.run_tokens)
    out = torch.empty(geometry.run_shape, dtype=getattr(torch, geometry.dtype))
    for layer, source in enumerate(cache.layers):
        out[layer, 0].copy_(source.keys[0, :, span])
        out[layer, 1].copy_(source.values[0, :, span])
    return out


def _layers(cache: Any) -> list[Any]:
    """The layers of a cache in which every layer keeps every token."""
    odd = {type(layer).__name__ for layer in cache.layers if type(layer) is not DynamicLayer}
    if odd or not cache.layers:
        raise larder.InvalidArgument(f"cache: layers must all be DynamicLayer, not {sorted(odd)}")
    if cache.offloading:
        raise larder.InvalidArgument("cache: is offloaded, its layers may be on their way")
    return list(cache.layers)


def _config(model: Any) -> Any:
    """The configuration of a model, or what already is one."""
    return getattr(model, "config", model)


def _token_ids(token_ids: Any) -> Any:
    """Token ids as a one-dimensional little-endian int64 array: their bytes are hashed."""
    if isinstance(token_ids, torch.Tensor):
        token_ids = token_ids.detach().cpu().numpy()
    ids = np.asarray(token_ids)
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise larder.InvalidArgument(
            f"token_ids: must be one sequence of integers, not {ids.dtype} {list(ids.shape)}"
        )
    return ids.astype("<i8")


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _leading(flags: Sequence[bool]) -> int:
    return sum(1 for _ in itertools.takewhile(bool, flags))


def _batches(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _runs_at_once(geometry: Geometry) -> int:
    """How many runs are put or got with one call."""
    return max(1, CALL_BYTES_MAX // (geometry.run_tokens * geometry.token_bytes))


# Tokens of one object. A guess: a prompt loses half of it on average, and pays per object.
RUN_TOKENS = 128
# Most bytes of one call, but for larger objects: so a deadline need not grow with the prompt.
CALL_BYTES_MAX = 64 << 20
# Changes with anything that the keys or the objects are made of.
KEY_FORMAT = "larder transformers v1"
