"""A straightforward archive: pydicom reads each file for its time, tarfile adds it, hashlib reads the result again."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

import pydicom
from pydicom.valuerep import DA, TM


def main(source: Path, target: Path) -> None:
    """Archive ``source`` as ``target``."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                info = tar.gettarinfo(path, f"study_visit/{path.relative_to(source)}")
                info.uid = info.gid = 0
                info.uname = info.gname = "root"
                info.mode = 0o100644
                info.mtime = time_of(path)
                with path.open("rb") as content:
                    tar.addfile(info, content)
    digest = hashlib.md5(target.read_bytes()).hexdigest()
    Path(f"{target}.md5sum").write_text(f"{digest}  {target.name}\n")


def time_of(path: Path) -> float:
    """StudyDate and StudyTime of a file, in seconds since 1970."""
    data = pydicom.dcmread(path)
    day, clock = DA(data.StudyDate), TM(data.StudyTime)
    assert day is not None
    assert clock is not None
    return datetime.combine(day, clock, tzinfo=timezone.utc).timestamp()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
