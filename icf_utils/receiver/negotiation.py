"""Which presentation contexts of an association request are accepted, in which transfer syntax and role. Pure.

Accepted are C-ECHO, storage commitment, and every storage class: those of the standard, retired and private ones, and
classes that no dictionary knows yet. Other services of the standard (worklist, performed procedure steps, queries,
printing) are refused one by one, which a sender that also stores is prepared for. Of several transfer syntaxes of a
context the first is accepted: data sets are stored as they come, so that every transfer syntax will do.
"""

from __future__ import annotations

from functools import lru_cache

from icf_utils.dicom.constants import (
    APPLICATION_CONTEXT,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    VERIFICATION_SOP_CLASS,
)
from icf_utils.dicom.pdu import AcceptedContext, AssociateRequest, ProposedContext, RejectionCodes, Role

# -- results of a presentation context (PS3.8 table 9-18)
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 0, 3, 4

# -- rejections by the service provider (PS3.8 table 9-21)
_WRONG_VERSION = RejectionCodes(1, 2, 2)
_WRONG_APPLICATION_CONTEXT = RejectionCodes(1, 1, 2)

#: In which the receiver itself reads and writes the data sets of storage commitment.
_OWN_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


def check_protocol(request: AssociateRequest) -> tuple[RejectionCodes, str] | None:
    """Why a request cannot be served whoever sends it; ``None`` if it can.

    Of the protocol version only bit 0 counts (PS3.8 table 9-11). A request without an application context is served.
    """
    if not request.protocol_version & 1:
        return _WRONG_VERSION, "the request is of another version of the protocol"
    if request.application_context not in ("", APPLICATION_CONTEXT):
        return _WRONG_APPLICATION_CONTEXT, "the application context is not the one of DICOM"
    return None


def accept_contexts(request: AssociateRequest) -> list[AcceptedContext]:
    """The reply to each proposed context."""
    return [_accept(context) for context in request.contexts]


def _accept(context: ProposedContext) -> AcceptedContext:
    syntaxes = context.transfer_syntaxes
    if context.abstract_syntax == STORAGE_COMMITMENT_PUSH_MODEL:
        syntaxes = tuple(syntax for syntax in syntaxes if syntax in _OWN_SYNTAXES)
    elif not is_own_service(context.abstract_syntax) and not is_storage_class(context.abstract_syntax):
        first = context.transfer_syntaxes[0] if context.transfer_syntaxes else ""
        return AcceptedContext(context.id, _NO_ABSTRACT_SYNTAX, context.abstract_syntax, first)
    if not syntaxes:
        return AcceptedContext(context.id, _NO_TRANSFER_SYNTAX, context.abstract_syntax, "")
    return AcceptedContext(context.id, _ACCEPTED, context.abstract_syntax, syntaxes[0])


def is_own_service(abstract_syntax: str) -> bool:
    """Whether it is a service other than storage that the receiver provides."""
    return abstract_syntax in (VERIFICATION_SOP_CLASS, STORAGE_COMMITMENT_PUSH_MODEL)


@lru_cache(maxsize=4096)
def is_storage_class(abstract_syntax: str) -> bool:
    """Whether images of this class are stored: any but the standard's other services."""
    if not abstract_syntax or is_own_service(abstract_syntax):
        return False
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    known = UID(abstract_syntax, validation_mode=IGNORE)
    if known.type not in ("SOP Class", "Meta SOP Class"):
        return known.type == ""  # a transfer syntax, for example, is nothing to store
    return "Storage" in known.name


def accept_roles(request: AssociateRequest) -> list[Role]:
    """The reply to role selections: the peer is the SCU, as without them; nothing is ever sent to it to store."""
    return [Role(role.abstract_syntax, role.scu, False) for role in request.roles]
