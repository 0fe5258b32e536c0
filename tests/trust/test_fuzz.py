"""Hostile input, a bounded part; the long trial: ``python -m tests.trust.trials --fuzz 600``.

What is refused and why stands in tests/sources, tests/archive/test_refused.py and tests/test_hard_inputs.py; here
nothing may crash, take unbounded memory or leave the store, whatever it is.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.program import icf
from tests.data.make_dicom import dicom_bytes
from tests.trust.fuzz import Readers, hostile_tar, mutated
from tests.trust.scene import visible

#: Names of the readers, for parametrised tests.
NAMES = (
    *("image", "zip", "tar", "tar.gz", "tar.xz", "archive", "metadata"),
    *("dataset", "checksum", "page", "settings", "tags", "table"),
)

CHANGES = st.lists(
    st.tuples(st.integers(0, 6), st.floats(0, 1, allow_nan=False), st.integers(0, 65535)), min_size=1, max_size=8
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("fuzz") / "here")


def test_no_reader_is_left_out(readers: Readers) -> None:
    assert set(NAMES) == set(readers.targets)


@pytest.mark.parametrize("name", NAMES)
def test_anything(readers: Readers, name: str) -> None:
    target = readers.targets[name]
    for data in target.seeds:
        readers.attempt(target, data)

    @settings(
        max_examples=int(os.environ.get("ICF_TRIALS", "40")),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHANGES, st.sampled_from(target.seeds), st.sampled_from(target.seeds))
    def read(changes: list[tuple[int, float, int]], data: bytes, other: bytes) -> None:
        readers.attempt(target, mutated(data, changes, other))

    read()


#: Runs a command with 1 GiB of address space and says how much memory it took.
_LIMITED = r"""
import re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from icf_utils.cli.main import main
code = main(sys.argv[1:])
# of the program alone, which getrusage is not: it remembers the process that started it
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""


def _hostile_images() -> dict[str, bytes]:
    plain = dicom_bytes()
    explicit = "1.2.840.10008.1.2.1"
    sequence = struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = dicom_bytes(transfer_syntax="1.2.840.10008.1.2.1.99")
    start = deflated.index(b"1.2.840.10008.1.2.1.99")
    head = deflated[: 132 + 12 + struct.unpack_from("<I", deflated, 140)[0]]
    assert start < len(head)
    text = struct.pack("<HH", 0x0008, 0x103E)
    return {
        "nested": dicom_bytes(transfer_syntax=explicit) + sequence * 100_000,
        "gigantic": dicom_bytes(transfer_syntax=explicit) + text + b"UN\0\0" + struct.pack("<I", 0xFFFFFFF0),
        "bomb": head + bomb.compress(bytes(100 << 20)) + bomb.flush(),
        "long text": dicom_bytes(transfer_syntax="1.2.840.10008.1.2", SeriesDescription="x" * (1 << 20)),
        "script": dicom_bytes(SeriesDescription="<script>alert(1)</script>", ProtocolName="\x1b[2J\x1b]0;x\x07"),
        "paths": dicom_bytes(SeriesDescription="../../../etc/passwd", ProtocolName="a/b\\c"),
        "nul": dicom_bytes(SeriesDescription=b"a\0b\0<c>\0"),
        "short length": plain.replace(b"DICM", b"DICM\x02\0\0\0UL\xff\xff", 1),
    }


def test_hostile_images_go_through_the_chain_in_little_memory(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    source.mkdir()
    for number, (name, content) in enumerate(_hostile_images().items()):
        (source / f"{number} {name}.dcm").write_bytes(content)
    table = tmp_path / "t.csv"
    table.write_text("study,visit,input\ns,v,in\n")
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, "run", "-j", "1", "-o", store, "--table", table],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done
    assert "\x1b" not in done.stdout + done.stderr
    assert int(done.stderr.splitlines()[-1]) < 300 << 10, "KiB"
    assert all(b"<script>alert" not in data for path, data in visible(store).items() if path.endswith(".html"))
    json.loads((store / "s" / "v_metadata_dicoms.json").read_bytes())
    assert sorted(os.listdir(tmp_path)) == ["in", "store", "t.csv"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "x\0", "..", "a//../../x", "\x1b[2J/../../x"])
def test_nothing_outside_the_store_by_a_members_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.tar").write_bytes(hostile_tar([name]))
    done = icf("make_studyvisit_archive", "-o", tmp_path / "store", "--id", "s", "v", tmp_path / "t.tar")
    assert done.code in (0, 3)
    assert "\x1b" not in done.out + done.err
    if done.code == 3:
        assert os.listdir(tmp_path) == ["t.tar"], "not even the store's folder"


@pytest.mark.parametrize("value", ["..", "../x", "a/b", "/etc", "a\nb", ".icf", "-o", "", "x" * 101, "\x1b[2J", "a\\b"])
@pytest.mark.parametrize("which", [0, 1])
def test_identifiers_that_would_leave_the_store(tmp_path: Path, value: str, which: int) -> None:
    (tmp_path / "in").mkdir()
    names = ["s", "v"]
    names[which] = value
    done = icf("make_studyvisit_archive", "-o", tmp_path / "store", "--id", *names, tmp_path / "in")
    assert done.code == 2
    assert "\x1b" not in done.err
    assert os.listdir(tmp_path) == ["in"]
