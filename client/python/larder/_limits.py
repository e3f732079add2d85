"""Limits of the protocol that adapters have to keep to before a node has told them anything.

What a reader would get wrong: these are maxima of the format. A node may take less, and then says
so with a status.
"""

from __future__ import annotations

import hashlib

# Of one object.
OBJECT_BYTES_MAX = 64 << 20
# Of one field of a namespace.
FIELD_BYTES_MAX = 256
# Deepest place in a chain that a put can say.
DEPTH_MAX = (1 << 16) - 1


def fit(text: str) -> str:
    """`text` if it fits a namespace's field, else its digest: two that differ stay different."""
    encoded = text.encode()
    if len(encoded) <= FIELD_BYTES_MAX:
        return text
    return "sha256:" + hashlib.sha256(encoded).hexdigest()
