"""Who a thing is, on every machine: version-5 UUIDs of a store's identity, a study and a visit. Pure.

The store's identity is its URL, unless the settings or ``--store-id`` name something that outlives a move.
"""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

#: Everything derived here hangs below this namespace; changing it changes every dataset.
_NAMESPACE = uuid5(NAMESPACE_URL, "https://icf-utils.invalid/identity/1")


def store_identity(url: str, store_id: str) -> str:
    """What identifies the store: ``store_id`` if there is one, else its URL without trailing slashes."""
    return store_id or url.rstrip("/")


def study_uuid(identity: str, study: str, role: str) -> UUID:
    """The UUID of something that belongs to a study as a whole; ``role`` is a fixed word such as ``catalog``."""
    return uuid5(_NAMESPACE, f"{identity}\n{study}\n\n{role}")


def visit_uuid(identity: str, study: str, visit: str, role: str) -> UUID:
    """The UUID of something that belongs to one visit, such as its ``dataset`` or its ``archivist`` remote."""
    return uuid5(_NAMESPACE, f"{identity}\n{study}\n{visit}\n{role}")
