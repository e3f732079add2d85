"""`larder.transformers` in one process, with a tiny real model and a real node.

What needs fresh processes, and the negative control, is in runtimes/transformers_proof.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from node_process import Node

import larder
import larder.transformers as prefixes

LAYERS, HEADS, WIDTH = 2, 2, 16
SHAPE = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=HEADS,
    head_dim=WIDTH,
    initializer_range=0.1,
)


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[larder.Client]:
    with larder.connect(node.endpoint, deadline=5.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    return made.to(torch.bfloat16).eval()


@pytest.fixture
def store(client: larder.Client, model: Any, request: pytest.FixtureRequest) -> larder.Store:
    return prefixes.namespace(client, model, revision="1", name=request.node.name)


def ids(count: int, seed: int = 0) -> list[int]:
    return [(31 * i + 7 * seed + i * i % 57) % 500 for i in range(count)]


def prefill(model: Any, tokens: list[int]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=True).past_key_values


def same(one: Any, other: Any, tokens: int) -> bool:
    return all(
        torch.equal(a[:, :, :tokens], b[:, :, :tokens])
        for x, y in zip(one.layers, other.layers, strict=True)
        for a, b in ((x.keys, y.keys), (x.values, y.values))
    )


def test_what_was_saved_is_loaded_bit_by_bit(store: larder.Store, model: Any) -> None:
    tokens = ids(400)
    cache = prefill(model, tokens)
    assert prefixes.save_prefix(store, cache, tokens) == 384
    loaded, count = prefixes.load_prefix(store, model, tokens)
    assert count == loaded.get_seq_length() == 384
    assert same(cache, loaded, 384)


def test_the_model_goes_on_from_a_loaded_prefix(store: larder.Store, model: Any) -> None:
    tokens = torch.tensor([ids(300)])
    options = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    options |= dict(return_dict_in_generate=True)
    first = model.generate(tokens, **options)
    assert prefixes.save_prefix(store, first.past_key_values, first.sequences) == 256
    cache, count = prefixes.load_prefix(store, model, tokens)
    second = model.generate(tokens, past_key_values=cache, **options)
    assert count == 256
    assert torch.equal(first.sequences, second.sequences)


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 0), (128, 0), (129, 128), (256, 128), (257, 256)]
)
def test_one_token_is_left_to_compute(
    store: larder.Store, model: Any, length: int, expected: int
) -> None:
    tokens = ids(257)
    assert prefixes.save_prefix(store, prefill(model, tokens), tokens) == 256
    assert prefixes.load_prefix(store, model, tokens[:length])[1] == expected


def test_only_the_common_prefix_is_shared(store: larder.Store, model: Any) -> None:
    one, other = ids(390), ids(390)
    other[200] += 1
    prefixes.save_prefix(store, prefill(model, one), one)
    assert prefixes.load_prefix(store, model, other)[1] == 128
    other[0] += 1
    assert prefixes.load_prefix(store, model, other)[1] == 0


def test_a_gap_ends_the_prefix_and_is_filled_by_the_next_save(
    store: larder.Store, model: Any
) -> None:
    tokens = ids(520)
    cache = prefill(model, tokens)
    assert prefixes.save_prefix(store, cache, tokens) == 512
    geometry = prefixes.Geometry.of_cache(cache)
    keys = prefixes.prefix_keys(store, geometry, tokens)
    store.remove(keys[1:2])
    assert prefixes.load_prefix(store, model, tokens)[1] == 128
    assert prefixes.save_prefix(store, cache, tokens) == 512
    assert same(prefixes.load_prefix(store, model, tokens)[0], cache, 512)


def test_an_object_of_another_length_ends_the_prefix(store: larder.Store, model: Any) -> None:
    tokens = ids(390)
    cache = prefill(model, tokens)
    prefixes.save_prefix(store, cache, tokens)
    keys = prefixes.prefix_keys(store, prefixes.Geometry.of_cache(cache), tokens)
    store.put(keys[1:3], [b"short", bytes(1 << 20)])
    assert prefixes.load_prefix(store, model, tokens)[1] == 128
    store.put(keys[:1], [b"short"])
    loaded, count = prefixes.load_prefix(store, model, tokens)
    assert count == 0 and loaded.get_seq_length() == 0


def test_weights_names_and_extras_share_nothing(client: larder.Client, model: Any) -> None:
    tokens = ids(130)
    mine = prefixes.namespace(client, model, revision="1", name="a")
    prefixes.save_prefix(mine, prefill(model, tokens), tokens)
    assert prefixes.load_prefix(mine, model, tokens)[1] == 128
    for difference in (dict(revision="2"), dict(name="b"), dict(extra="x"), dict(tenant="t")):
        other = prefixes.namespace(client, model, **{"revision": "1", "name": "a"} | difference)
        assert prefixes.load_prefix(other, model, tokens)[1] == 0, difference


def test_keys_are_the_same_for_lists_arrays_and_tensors_and_for_ever(store: larder.Store) -> None:
    geometry = prefixes.Geometry(2, 2, 16, "bfloat16")
    tokens = ids(256)
    keys = prefixes.prefix_keys(store, geometry, tokens)
    assert len(keys) == 2 and {len(key) for key in keys} == {32}
    for form in (torch.tensor([tokens]), torch.tensor(tokens, dtype=torch.int32).numpy()):
        assert prefixes.prefix_keys(store, geometry, form) == keys


def test_keys_depend_on_model_weights_and_geometry(client: larder.Client) -> None:
    base = prefixes.Geometry(2, 2, 16, "bfloat16")
    spaces = [client.namespace(model=m, revision=r) for m in "ab" for r in "12"]
    geometries = [base, base._replace(layers=4), base._replace(heads=1), base._replace(head_dim=8)]
    geometries.append(base._replace(dtype="float16"))
    found = {prefixes.prefix_keys(s, g, ids(128))[0] for s in spaces for g in geometries}
    assert len(found) == len(spaces) * len(geometries)


def test_a_run_is_halved_until_it_fits_an_object() -> None:
    assert prefixes.Geometry(80, 8, 128, "bfloat16").run_tokens == 128
    large = prefixes.Geometry(40, 40, 128, "bfloat16")
    assert large.run_tokens == 64
    assert large.run_tokens * large.token_bytes <= 64 << 20


def test_what_cannot_be_right_is_refused(client: larder.Client, model: Any) -> None:
    tokens = ids(130)
    store = prefixes.namespace(client, model, revision="1", name="refused")
    refused = pytest.raises(larder.InvalidArgument)
    with refused:
        prefixes.namespace(client, model, name="no revision")
    with refused:
        prefixes.save_prefix(store, transformers.DynamicCache(), tokens)
    with refused:
        prefixes.save_prefix(store, prefill(model.float(), tokens), tokens)
    model.to(torch.bfloat16)
    with torch.inference_mode():
        two = model(torch.tensor([tokens] * 2), use_cache=True).past_key_values
    with refused:
        prefixes.save_prefix(store, two, tokens)
    with refused:
        prefixes.load_prefix(store, model, [[1, 2], [3, 4]])
    with refused:
        prefixes.load_prefix(store, model, ["text"])
    sliding = transformers.MistralConfig(**SHAPE, sliding_window=64, dtype="bfloat16")
    with refused:
        prefixes.load_prefix(store, sliding, tokens)


def test_a_dead_node_costs_a_bounded_wait(model: Any) -> None:
    tokens = ids(300)
    with Node() as node:
        client = larder.connect(node.endpoint, deadline=0.5)
        store = prefixes.namespace(client, model, revision="1", name="dead")
        cache = prefill(model, tokens)
        assert prefixes.save_prefix(store, cache, tokens) == 256
        node.kill()
        began = time.monotonic()
        assert prefixes.load_prefix(store, model, tokens)[1] == 0
        assert prefixes.save_prefix(store, cache, tokens) == 0
        assert time.monotonic() - began < 4
