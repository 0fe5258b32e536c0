"""The replaced parts of pynetdicom: what they rely on in the library is there and is used, and the bytes are right."""

from __future__ import annotations

import ast
import inspect
import re
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pynetdicom = pytest.importorskip("pynetdicom")

from pynetdicom import AE, _config, association, dimse, dul, fsm, transport  # noqa: E402

from icf_utils.receiver import pynetdicom_server  # noqa: E402
from icf_utils.receiver.pynetdicom_server import (  # noqa: E402
    AssociationServer,
    ConnectionHandler,
    EventSocket,
    StoreRequest,
    StoreResponse,
    StoreService,
    encode_store_response,
    parse_store_request,
)
from icf_utils.sender import association as association_of_sender  # noqa: E402
from icf_utils.sender import send  # noqa: E402

#: Members that the replacements override, and the library's module that calls each, with how it does.
OVERRIDDEN: dict[type, dict[str, tuple[ModuleType, str]]] = {
    AssociationServer: {
        "get_request": (transport, r"def get_request\(self\)"),  # called by socketserver
        "verify_request": (transport, r"TCPServer\b"),
        "handle_error": (transport, r"self\.handle_error\("),
        "shutdown": (transport, r"def shutdown\(self\)"),
    },
    ConnectionHandler: {
        "handle": (transport, r"def handle\(self\)"),
        "_create_association": (transport, r"self\._create_association\(\)"),
    },
    EventSocket: {
        "ready": (dul, r"socket\.ready\b"),
        "recv": (dul, r"socket\.recv\("),
        "_shutdown_socket": (transport, r"self\._shutdown_socket\(\)"),
    },
    StoreService: {"receive_primitive": (fsm, r"dimse\.receive_primitive\(")},
}

#: Members of the library's objects that the replacements, or the sender, set or read; and where the library uses them.
USED: dict[str, tuple[str, ModuleType, str]] = {
    "_reactor_checkpoint": ("association", association, r"self\._reactor_checkpoint\.wait\(\)"),
    "_is_paused": ("association", association, r"self\._is_paused = True"),
    "_run_loop_delay": ("association.dul", dul, r"time\.sleep\(self\._run_loop_delay\)"),
    "_is_connected": ("socket", transport, r"self\._is_connected = True"),
    "to_provider_queue": ("association.dul", dul, r"self\.to_provider_queue\.put\("),
    "to_user_queue": ("association.dul", dul, r"self\.to_user_queue\.get\("),
    "event_queue": ("association.dul", dul, r"self\.event_queue\.get\("),
    "msg_queue": ("association.dimse", dimse, r"self\.msg_queue\.put\("),
    "message": ("association.dimse", dimse, r"self\.message = DIMSEMessage\(\)"),
    "accepted_contexts": ("association", association, r"def accepted_contexts"),
}


def library_objects() -> dict[str, Any]:
    made = association.Association(AE(), "acceptor")
    connection = transport.AssociationSocket(made, address=transport.AddressInformation("127.0.0.1", 0))
    assert connection.socket is not None
    connection.socket.close()
    return {"association": made, "association.dul": made.dul, "association.dimse": made.dimse, "socket": connection}


@pytest.mark.parametrize("replacement", OVERRIDDEN)
def test_what_is_overridden_is_in_the_library_and_called_by_it(replacement: type) -> None:
    for name, (module, call) in OVERRIDDEN[replacement].items():
        assert name in vars(replacement), f"{replacement.__name__}.{name} is not overridden any more"
        assert any(hasattr(base, name) for base in replacement.__mro__[1:]), f"{name} is gone from pynetdicom"
        assert re.search(call, inspect.getsource(module)), f"{module.__name__} does not use {name} any more"


@pytest.mark.parametrize("name", USED)
def test_what_is_used_is_in_the_library_and_used_by_it(name: str) -> None:
    place, module, use = USED[name]
    assert hasattr(library_objects()[place], name), f"{place}.{name} is gone from pynetdicom"
    assert re.search(use, inspect.getsource(module)), f"{module.__name__} does not use {name} any more"


@pytest.mark.parametrize("module", [pynetdicom_server, association_of_sender, send])
def test_every_private_member_that_is_used_is_in_these_tables(module: ModuleType) -> None:
    """A private attribute that the module neither defines nor assigns is the library's."""
    tree = ast.parse(inspect.getsource(module))
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    private = {node.attr for node in nodes if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr)}
    assert private - own <= set(USED)


def test_the_options_are_in_the_library() -> None:
    for name in ("LOG_HANDLER_LEVEL", "UNRESTRICTED_STORAGE_SERVICE", "STORE_SEND_CHUNKED_DATASET"):
        assert hasattr(_config, name)
    assert "AE" in _config.VALIDATORS


def test_the_version_of_the_library_has_an_upper_bound() -> None:
    text = Path(__file__).resolve().parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    bounds = set(re.findall(r'"pynetdicom([<>=][^"]*)"', text))
    assert bounds == {">=3.0,<4"}


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_without_an_error(raw: bytes) -> None:
    parse_store_request(raw)


def test_responses_are_read_by_pynetdicom() -> None:
    from pynetdicom.dsutils import decode

    request = StoreRequest(7, "1.2.840.10008.5.1.4.1.1.4", "1.2.345", True)
    raw = encode_store_response(request, StoreResponse(0xC002, "conflict"))
    found = decode(BytesIO(raw), True, True)
    assert (found.CommandField, found.MessageIDBeingRespondedTo, found.Status) == (0x8001, 7, 0xC002)
    assert (found.AffectedSOPInstanceUID, found.ErrorComment) == ("1.2.345", "conflict")
    assert found.CommandGroupLength == len(raw) - 12
