"""What a monitoring system asks for: the health of a receiver, and its figures in Prometheus's text format.

Reads the journal and the file system.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.spool import free_space, is_held, space_problem


class Metric(NamedTuple):
    """A figure with its kind (``counter``, ``gauge``), its description, and its values by their labels."""

    name: str
    kind: str
    description: str
    values: Mapping[str, float]


def health_problem(spool: Path, reserve: int) -> str:
    """Why a receiver does not take images at present; empty if it does. ``reserve`` is in bytes."""
    if not is_held(spool):
        return "no receiver is running"
    return space_problem(spool, reserve)


def collect_metrics(journal: Journal, reserve: int) -> list[Metric]:
    """The figures of a receiver."""
    totals, oldest = journal.image_totals(), journal.oldest_queued()
    images = {f'{{result="{name}"}}': totals[name] for name in ("images", "duplicates", "quarantined", "refused")}
    states = {f'{{state="{state}"}}': count for state, count in journal.counts().items()}
    associations = {f'{{state="{state}"}}': count for state, count in journal.association_counts().items()}
    age = max(0.0, time.time() - oldest) if oldest is not None else 0.0
    deliveries = {f'{{state="{state}"}}': count for state, count in journal.events.counts().items()}
    waiting = journal.events.oldest_waiting()
    waited = max(0.0, time.time() - waiting) if waiting is not None else 0.0
    return [
        Metric("icf_receiver_up", "gauge", "Whether a receiver is using the spool.", {"": is_held(journal.spool)}),
        Metric("icf_sessions", "gauge", "Sessions by state.", states),
        Metric("icf_images_total", "counter", "Images by what became of them; images: stored.", images),
        Metric("icf_received_bytes_total", "counter", "Bytes of images that were received.", {"": totals["size"]}),
        Metric("icf_associations", "gauge", "Associations in the journal by state.", associations),
        Metric("icf_oldest_queued_seconds", "gauge", "How long the oldest queued session has waited.", {"": age}),
        Metric("icf_event_deliveries", "gauge", "Deliveries of events in the journal by state.", deliveries),
        Metric("icf_oldest_event_seconds", "gauge", "How long the oldest undelivered event has waited.", {"": waited}),
        Metric("icf_spool_free_bytes", "gauge", "Free space on the spool's disk.", {"": free_space(journal.spool)}),
        Metric("icf_spool_reserve_bytes", "gauge", "Space that stays free on the spool's disk.", {"": reserve}),
    ]


def format_metrics(metrics: Iterable[Metric]) -> str:
    """The figures in the text format of Prometheus, version 0.0.4.

    >>> print(format_metrics([Metric("up", "gauge", "Whether it runs.", {"": True})]), end="")
    # HELP up Whether it runs.
    # TYPE up gauge
    up 1
    """
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.description}", f"# TYPE {metric.name} {metric.kind}"]
        lines += [f"{metric.name}{labels} {value:.15g}" for labels, value in metric.values.items()]
    return "".join(f"{line}\n" for line in lines)
