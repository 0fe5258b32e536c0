"""What to do with a session: leave it, refuse it, or send it. Asks XNAT and the ledger; notes what became of it.

The ledger says what was done once, XNAT what there is now. Where the two differ a person has changed something there,
and decides by ``overwrite``.
"""

from __future__ import annotations

from collections.abc import Mapping

from icf_utils.xnat.delivery import Delivery, places_of
from icf_utils.xnat.ledger import Ledger
from icf_utils.xnat.parcels import Body, Parcel
from icf_utils.xnat.routes import Sighting
from icf_utils.xnat.values import Outcome
from icf_utils.xnat.watching import Watch


def deliver(watch: Watch, parcel: Parcel, ledger: Ledger, rows: list[Mapping[str, object]] | None) -> Outcome:
    """Bring one session into XNAT. ``rows``: the listing of the prearchive when this run began.

    Raises what is wrong with the input, or with the login or the server as such.
    """
    with parcel.open() as body:
        delivery, last = Delivery(watch, parcel, body, ledger), ledger.last(parcel.subject, parcel.label)
        same = last.get("fingerprint") == body.contents.fingerprint
        found = watch.find(parcel.subject, parcel.label, rows)
        if last.get("state") == "done" and same:
            remembered, found = _remembered(delivery, last, found)
            if remembered:
                return remembered  # not noted: the ledger keeps what was done, whatever XNAT shows now
        if last.get("state") == "sending" and same:
            keys = last.get("known") or []
            delivery.known = tuple(item for item in found if item.key in keys)  # type: ignore[operator]
        else:
            delivery.known = found
            refusal = _standing(delivery)
            if refusal:
                return _noted(ledger, parcel, body, refusal)
        return _noted(ledger, parcel, body, delivery.run())


def _remembered(
    delivery: Delivery, last: Mapping[str, object], found: tuple[Sighting, ...]
) -> tuple[Outcome | None, tuple[Sighting, ...]]:
    """What becomes of a session that the ledger says is done, and the sightings of it that this was decided by.

    It is left alone only if XNAT shows what it showed then. If not, a person has changed it, and one decides by
    ``overwrite`` whether it is sent again; it never is by itself.
    """
    held = _held_then(delivery, last)
    if not delivery.is_there(found, held):
        found = delivery.look_again(found)  # the listing is as old as this run, and XNAT may be at work on it
    if delivery.is_there(found, held):
        return delivery.outcome("before", held=held, uris=[item.uri for item in found]), found
    if delivery.watch.target.overwrite:
        return None, found
    uris = ", ".join(map(str, last.get("uris") or ()))  # type: ignore[call-overload]
    now = f"XNAT has {places_of(found)}" if found else "XNAT has nothing of it under this label"
    again = "'--overwrite delete' sends it again" + (
        ", without --direct-archive" if delivery.watch.target.direct_archive else ""
    )
    problem = f"it was uploaded before, with {held} images ({uris}); now {now}. Was that meant? {again}"
    return delivery.outcome("failed", problem, sum(item.files or 0 for item in found)), found


def _held_then(delivery: Delivery, last: Mapping[str, object]) -> int:
    """How many images XNAT had after the upload. What replaces a session has its own, what was appended others, too."""
    held, sent = last.get("held"), len(delivery.body.contents.images)
    return held if isinstance(held, int) and delivery.watch.target.overwrite != "delete" else sent


def _standing(delivery: Delivery) -> Outcome | None:
    """What is there already decides, unless one was told to append to it or to replace it."""
    found, sent = delivery.known, len(delivery.body.contents.images)
    if not found or delivery.watch.target.overwrite:
        return None
    held = sum(item.files or 0 for item in found)
    uris = [item.uri for item in found]
    if delivery.is_there(found, sent):
        return delivery.outcome("present", held=held, uris=uris)
    problem = f"XNAT has this session already: {places_of(found)}; {sent} images would be sent. See --overwrite"
    return delivery.outcome("failed", problem, held, uris)


def _noted(ledger: Ledger, parcel: Parcel, body: Body, outcome: Outcome) -> Outcome:
    state = "failed" if outcome.state == "failed" else "done"
    ledger.note(
        parcel.subject,
        parcel.label,
        state,
        fingerprint=body.contents.fingerprint,
        result=outcome.state,
        sent=outcome.sent,
        held=outcome.held,
        uris=list(outcome.uris),
        answers=list(outcome.answers),
        problem=outcome.problem,
    )
    return outcome
