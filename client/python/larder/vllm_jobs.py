"""A transfer of rows as vLLM numbers it, and what its completion says of each key.

What a reader would get wrong: a key has come only if its object is as long as a row. A shorter one
leaves the row's end as it was.
"""

# vLLM is not there where this is checked.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import larder

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadKey
    from vllm.v1.kv_offload.tiering.base import TransferJob


@dataclasses.dataclass
class Job:
    """A transfer in flight, as vLLM numbers it."""

    job_id: int
    keys: list[OffloadKey]
    since: float
    # Of a store: the keys' places in their chains.
    depths: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, job: TransferJob) -> Job:
        return cls(job.job_id, list(job.keys), time.monotonic())


def sort_out(
    job: Job, completion: larder.Completion, row_bytes: int
) -> tuple[list[OffloadKey], list[OffloadKey], list[OffloadKey]]:
    """The keys that came, those that did not, and those of them that no node has."""
    ok = int(larder.Status.OK)
    came, failed, gone = [], [], []
    for key, status, size in zip(job.keys, completion.statuses, completion.sizes):
        if status == ok and size == row_bytes:
            came.append(key)
        else:
            failed.append(key)
            if status in GONE:
                gone.append(key)
    # Where nothing was said of a key, it did not come.
    failed += job.keys[len(came) + len(failed) :]
    return came, failed, gone


def reasons(statuses: Iterable[int]) -> str:
    """The statuses other than OK, each once."""
    names = {NAMES.get(status, str(status)) for status in statuses if status != larder.Status.OK}
    return ", ".join(sorted(names)) or "too short"


# Their bytes are there and right, or were there already.
STORED = frozenset((int(larder.Status.OK), int(larder.Status.EXISTS)))
# Nothing is left to be done for these.
DONE = STORED | {int(larder.Status.NOT_WANTED)}
# The nodes said that these are gone, as opposed to not having said anything in time.
GONE = frozenset((int(larder.Status.MISS), int(larder.Status.MISS_SIZE)))
NAMES = {int(status): status.name for status in larder.Status}
