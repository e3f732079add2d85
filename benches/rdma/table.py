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
    for line in open(rows, encoding="utf-8"):
        words = line.split()
        # In the lab lines begin with the guest.
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
    rounds = max(map(len, speeds.values()))
    with open(file, "w", encoding="utf-8") as out:
        json.dump({"where": where, "rounds": rounds, "lines": lines}, out, indent=2)
        out.write("\n")
    names = ["op", "size", "mib_per_s", "yardstick_mib_per_s", "ratio", "share_by_card"]
    names += ["works_per_object", "doorbells_per_object"]
    print(f"| {' | '.join(names)} |\n|---{'|---:' * (len(names) - 1)}|")
    for line in lines:
        print(f"| {' | '.join(str(line[name]) for name in names)} |")


main()
