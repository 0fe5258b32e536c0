"""Command sets and PDUs: any bytes are read without a crash, and pynetdicom reads what is written."""

from __future__ import annotations

import re
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.dicom.dimse import (
    C_STORE_RQ,
    N_ACTION_RQ,
    N_EVENT_REPORT_RQ,
    Command,
    encode_event_report,
    encode_response,
    parse_command,
)
from icf_utils.dicom.pdu import (
    AcceptedContext,
    MalformedPdu,
    Role,
    encode_associate_accept,
    encode_message,
    parse_associate_request,
)
from icf_utils.receiver.negotiation import accept_contexts, accept_roles, check_protocol, is_storage_class

pynetdicom = pytest.importorskip("pynetdicom")

_MR = "1.2.840.10008.5.1.4.1.1.4"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_a_command_without_an_error(raw: bytes) -> None:
    parse_command(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_a_request_or_are_malformed(raw: bytes) -> None:
    try:
        request = parse_associate_request(bytes(68) + raw)
    except MalformedPdu:
        return
    check_protocol(request)
    encode_associate_accept(request, accept_contexts(request), accept_roles(request), 16384)


def test_responses_are_read_by_pynetdicom() -> None:
    from pynetdicom.dsutils import decode

    request = Command(C_STORE_RQ, 7, _MR, "1.2.345", has_data=True)
    raw = encode_response(request, 0xC002, "conflict")
    found = decode(BytesIO(raw), True, True)
    assert (found.CommandField, found.MessageIDBeingRespondedTo, found.Status) == (0x8001, 7, 0xC002)
    assert (found.AffectedSOPInstanceUID, found.ErrorComment) == ("1.2.345", "conflict")
    assert found.CommandGroupLength == len(raw) - 12


def test_event_reports_are_read_by_pynetdicom_and_by_the_receiver() -> None:
    from pynetdicom.dsutils import decode

    raw = encode_event_report("1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 3, 2)
    found = decode(BytesIO(raw), True, True)
    assert (found.CommandField, found.MessageID, found.EventTypeID) == (N_EVENT_REPORT_RQ, 3, 2)
    own = parse_command(raw)
    assert own is not None
    assert (own.kind, own.sop_instance, own.has_data) == (2, "1.2.840.10008.1.20.1.1", True)


def test_requested_uids_of_an_action() -> None:
    from pynetdicom.dimse_messages import N_ACTION_RQ as Message  # noqa: N811
    from pynetdicom.dimse_primitives import N_ACTION
    from pynetdicom.dsutils import encode

    primitive = N_ACTION()
    primitive.MessageID, primitive.ActionTypeID = 9, 1
    primitive.RequestedSOPClassUID, primitive.RequestedSOPInstanceUID = "1.2.840.10008.1.20.1", "1.2.3"
    message = Message()
    message.primitive_to_message(primitive)
    raw = encode(message.command_set, True, True)
    assert raw is not None
    found = parse_command(raw)
    assert found is not None
    assert (found.operation, found.message_id, found.kind) == (N_ACTION_RQ, 9, 1)
    assert (found.sop_class, found.sop_instance) == ("1.2.840.10008.1.20.1", "1.2.3")


def test_a_request_of_pynetdicom_is_read_and_its_reply_understood() -> None:
    from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification, SCP_SCU_RoleSelectionNegotiation
    from pynetdicom.presentation import build_context

    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "SCANNER1", "STUDYA"
    contexts = [
        build_context(_MR, ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2"]),
        build_context("1.2.840.10008.5.1.4.31"),
    ]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    length, role = MaximumLengthNotification(), SCP_SCU_RoleSelectionNegotiation()
    length.maximum_length_received = 4096
    role.sop_class_uid, role.scu_role, role.scp_role = _MR, True, True
    primitive.user_information = [length, role]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    request = parse_associate_request(pdu.encode()[6:])
    assert (request.called_ae, request.calling_ae, request.max_pdu) == ("STUDYA", "SCANNER1", 4096)
    accepted = accept_contexts(request)
    assert accepted == [
        AcceptedContext(1, 0, _MR, "1.2.840.10008.1.2.4.90"),
        AcceptedContext(3, 3, "1.2.840.10008.5.1.4.31", "1.2.840.10008.1.2"),
    ]
    assert accept_roles(request) == [Role(_MR, True, False)]
    reply = A_ASSOCIATE_AC()
    reply.decode(encode_associate_accept(request, accepted, accept_roles(request), 131072))
    found = reply.to_primitive()
    assert (found.calling_ae_title, found.called_ae_title) == ("SCANNER1", "STUDYA")
    assert [item.result for item in found.presentation_context_definition_results_list] == [0, 3]
    assert found.maximum_length_received == 131072


@pytest.mark.parametrize("longest", [0, 100, 128, 16384])
def test_messages_are_no_longer_than_the_peer_receives(longest: int) -> None:
    raw = encode_message(1, bytes(300), bytes(1000), longest)
    at, pieces = 0, []
    while at < len(raw):
        length = int.from_bytes(raw[at + 2 : at + 6], "big")
        pieces.append(raw[at + 11 : at + 6 + length])
        assert not longest or length <= longest
        at += 6 + length
    assert [piece[0] & 1 for piece in pieces] == sorted((piece[0] & 1 for piece in pieces), reverse=True)
    assert sum(piece[0] >> 1 for piece in pieces) == 2
    assert sum(len(piece) - 1 for piece in pieces) == 1300


def test_storage_classes_are_those_of_pynetdicom_and_more() -> None:
    from pynetdicom import sop_class

    storage = set(map(str, sop_class._STORAGE_CLASSES.values()))
    assert all(map(is_storage_class, storage))
    others = {
        str(uid)
        for name, classes in vars(sop_class).items()
        if re.fullmatch("_(?!STORAGE_C|SERVICE)[A-Z_]+_CLASSES", name) and isinstance(classes, dict)
        for uid in classes.values()
    }
    stored_objects = {uid for uid in others if is_storage_class(uid)}
    assert all("Storage" in pynetdicom.sop_class.SOPClass(uid).name for uid in stored_objects), stored_objects
    assert len(others - stored_objects) > 50
    assert is_storage_class("1.2.3.4.5")  # private
    assert not is_storage_class("1.2.840.10008.1.2")  # a transfer syntax
    assert not is_storage_class("")
