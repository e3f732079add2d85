"""Medians of the lines that measure.sh printed: a table, and JSON with stable names.

    table.py ROWS WHERE FILE
"""

import json
import sys
from collections import defaultdict
from statistics import median

YARDSTICKS = {"get": "ib_write_bw", "put": "ib_read_bw"}


def main() -> None:
    rows, where, file = sys.argv[1:]
    speeds: dict[tuple[int, str], list[float]] = defaultdict(list)
    counts: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    messages: dict[tuple[int, str], list[float]] = defaultdict(list)
    for line in open(rows, encoding="utf-8"):
        words = line.split()
        # In the lab lines begin with the guest.
        if "message" in words:
            _, _, size, what, took = words[words.index("message") :]
            messages[int(size), what].append(float(took))
        if "row" not in words:
            continue
        _, _, size, what, speed, *told = words[words.index("row") :]
        speeds[int(size), what].append(float(speed))
        for at, count in enumerate(told):
            counts[int(size), what][at] += int(count)
    lines = []
    for size, what in sorted(counts):
        here, there = speeds[size, what], speeds[size, YARDSTICKS[what]]
        objects, by_card, works, doorbells = counts[size, what]
        lines.append(
            {
                "op": what,
                "size": size,
                "mib_per_s": round(median(here), 2),
                "yardstick": YARDSTICKS[what],
                "yardstick_mib_per_s": round(median(there), 2),
                "ratio": round(median(a / b for a, b in zip(here, there, strict=True)), 3),
                "share_by_card": round(by_card / (objects * size), 3),
                "works_per_object": round(works / objects, 2),
                "doorbells_per_object": round(doorbells / objects, 3),
                "objects": objects,
            }
        )
    trips = []
    for size in sorted({size for size, _ in messages}):
        by_card, by_tcp = messages[size, "send"], messages[size, "tcp"]
        trips.append(
            {
                "size": size,
                "send_us": round(median(by_card), 1),
                "tcp_us": round(median(by_tcp), 1),
                "ratio": round(median(a / b for a, b in zip(by_card, by_tcp, strict=True)), 3),
            }
        )
    rounds = max(map(len, [*speeds.values(), *messages.values()]))
    told = {"where": where, "rounds": rounds, "lines": lines, "messages": trips}
    with open(file, "w", encoding="utf-8") as out:
        json.dump({name: value for name, value in told.items() if value}, out, indent=2)
        out.write("\n")
    names = ["op", "size", "mib_per_s", "yardstick_mib_per_s", "ratio", "share_by_card"]
    print_table(names + ["works_per_object", "doorbells_per_object"], lines)
    print_table(["size", "send_us", "tcp_us", "ratio"], trips)


def print_table(names: list[str], lines: list[dict[str, object]]) -> None:
    if not lines:
        return
    print(f"| {' | '.join(names)} |\n|---{'|---:' * (len(names) - 1)}|")
    for line in lines:
        print(f"| {' | '.join(str(line[name]) for name in names)} |")


main()
