"""Write ``licences.md`` from the packages that are installed here: ``python docs/make_licences.py [--check]``.

It lists what each extra brings, with what each package says of its licence. Run it where all extras are installed, as
in ``.venv-test``. With ``--check`` nothing is written; the exit code is 1 if a package is missing from the page or has
another licence.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).with_name("licences.md")
EXTRAS = ("", "clone", "cloud", "intake", "previews", "xnat")

#: What the metadata of some packages says of their licences, as identifiers of SPDX.
_SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}

_INTRODUCTION = """\
# Licences of what icf-utils uses

icf-utils is under the MIT licence and contains no other package. What installers bring with it has licences of its own,
as each package states them; this page is made by `docs/make_licences.py`.

Parts under the GNU GPL, LGPL and AGPL are marked. They run as programs of their own or are imported, and keep their
licences. If you pass them on, for instance in a container image, pass on their source as well, or an offer of it. The
label `org.opencontainers.image.licenses` of the project's images names them.

Programs of Debian that the container holds are listed in it, in `/usr/share/icf-utils/debian-packages.txt`, with
their licences in `/usr/share/doc/PACKAGE/copyright`.
"""


def packages_of(extra: str) -> set[str]:
    """The normalised names of all packages that an extra (or, empty, the project itself) brings, however deep."""
    found: set[str] = set()
    left = [("icf-utils", frozenset({extra} if extra else ()))]
    seen = set(left)
    while left:
        name, extras = left.pop()
        try:
            listed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in listed:
            wanted = Requirement(text)
            if wanted.marker and not any(wanted.marker.evaluate({"extra": one}) for one in (extras or {""})):
                continue
            if name == "icf-utils" and extra and not (wanted.marker and "extra" in str(wanted.marker)):
                continue
            item = (canonicalize_name(wanted.name), frozenset(wanted.extras))
            found.add(item[0])
            if item not in seen:
                seen.add(item)
                left.append(item)
    return found


def licence_of(package: str) -> str:
    """What a package says of its licence, as an SPDX expression where that is clear."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return ""
    if expression := about["License-Expression"]:
        return expression
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or []
        if text.startswith("License :: OSI Approved")
    ]
    found = classifiers or str(about["License"] or "").strip().splitlines()[:1]
    return (
        " AND ".join(sorted({_SPDX.get(text, text) for text in found if text and text != "OSI Approved"}))
        or "see its page"
    )


def page() -> str:
    """The page's text."""
    lines, base = [_INTRODUCTION], packages_of("")
    for extra in EXTRAS:
        names = sorted(packages_of(extra) - (base if extra else set()))
        rows = [(name, licence_of(name)) for name in names]
        rows = [(name, licence) for name, licence in rows if licence]
        lines.append(f"\n## {f'The extra `{extra}`' if extra else 'Always'}\n\n| package | licence |\n|---|---|")
        lines += [
            f"| {name} | {f'**{licence}**' if re.search(r'GPL', licence) else licence} |" for name, licence in rows
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    if arguments == ["--check"]:
        known = PAGE.read_text(encoding="utf-8").splitlines()
        missing = [line for line in page().splitlines() if line not in known]
        sys.stdout.writelines(f"{line}\n" for line in missing)
        return int(bool(missing))
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
