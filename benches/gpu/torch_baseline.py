"""What people write without a library: pages into a paged cache on a GPU, with torch alone.

256 objects of 2 MiB go from pinned memory to random pages, by `index_copy_` of a tensor that was
copied whole before, and by one `copy_` for each piece; beside them one plain copy of as many bytes.
Bytes are checked after each. Medians of rounds that are interleaved.
"""

import argparse
import json
import statistics
import time

import torch

OBJECTS, PAGES, ROUNDS = 256, 386, 5
LAYERS, ROW_BYTES = 64, 32 << 10


def timed(work):
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    submitted = time.perf_counter()
    torch.cuda.synchronize()
    return time.perf_counter() - start, submitted - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    device = torch.device("cuda")
    # Each of 32 layers has K and V: 64 rows of 32 KiB for each page.
    source = torch.randint(0, 255, (LAYERS, OBJECTS, ROW_BYTES), dtype=torch.uint8).pin_memory()
    cache = torch.empty((LAYERS, PAGES, ROW_BYTES), dtype=torch.uint8, device=device)
    row = torch.empty((LAYERS, OBJECTS, ROW_BYTES), dtype=torch.uint8, device=device)
    total = source.numel()
    rounds = {"plain": [], "index_copy_": [], "copy_ a piece": []}
    for number in range(ROUNDS + 1):
        pages = torch.randperm(PAGES)[:OBJECTS]
        on_device, as_list = pages.to(device), pages.tolist()

        def plain():
            row.copy_(source, non_blocking=True)

        def index_copy():
            staged = source.to(device, non_blocking=True)
            cache.index_copy_(1, on_device, staged)

        def each_piece():
            for layer in range(LAYERS):
                for at, page in enumerate(as_list):
                    cache[layer, page].copy_(source[layer, at], non_blocking=True)

        for name, work in (("plain", plain), ("index_copy_", index_copy), ("copy_ a piece", each_piece)):
            cache.fill_(0xEE)
            row.fill_(0xEE)
            took = timed(work)
            found = row if name == "plain" else cache[:, on_device]
            assert torch.equal(found.cpu(), source), name
            if number > 0:
                rounds[name].append(took)
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "bytes": total}
    speed = lambda name: statistics.median(total / took for took, _ in rounds[name])
    for name in rounds:
        submit_us = statistics.median(submit for _, submit in rounds[name]) * 1e6
        result[name] = {
            "bytes_per_s": speed(name),
            "ratio": speed(name) / speed("plain"),
            "submit_us": submit_us,
        }
        print(f"{name:16} {speed(name) / 1e9:6.1f} GB/s  "
              f"{speed(name) / speed('plain'):.3f} of plain  {submit_us:9.0f} us to submit")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
