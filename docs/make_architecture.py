"""Draw ``architecture.svg`` from the code's import statements: ``python docs/make_architecture.py [--check]``.

The picture is a matrix: a dot says that the room of the row imports the room of the column. Rooms are in the order of
their layers, so that dots above the diagonal would be imports upwards or circles. With ``--check`` nothing is
written; the exit code is 1 if the picture differs from the code, or if there is such a dot.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "icf_utils"
PICTURE = Path(__file__).with_name("architecture.svg")

_CELL, _LEFT, _TOP = 26, 120, 96


def rooms() -> dict[str, set[str]]:
    """The rooms (modules and packages directly below the package) and which others each imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):  # loads the other modules on first use
            continue
        room = parts[0]
        found.setdefault(room, set()).update(set(_imports(path)) - {room})
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "icf_utils" else [f"icf_utils.{item.name}" for item in node.names]
        elif isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if head == "icf_utils" and room and not room.startswith("__"):
                yield room


def in_layers(imports: Mapping[str, set[str]]) -> list[str]:
    """The rooms, those that others build on first. Raises ``ValueError`` for a circle."""
    order: list[str] = []
    waiting = dict(imports)
    while waiting:
        ready = sorted(room for room, needed in waiting.items() if needed <= set(order))
        if not ready:
            raise ValueError(f"rooms import each other in a circle: {', '.join(sorted(waiting))}")
        order += ready
        for room in ready:
            del waiting[room]
    return order


def picture(imports: Mapping[str, set[str]]) -> str:
    """The matrix as SVG."""
    order = in_layers(imports)
    width, height = _LEFT + _CELL * len(order) + 16, _TOP + _CELL * len(order) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13" role="img" aria-label="Which room imports which">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for row, room in enumerate(order):
        middle = _TOP + _CELL * row + _CELL // 2
        lines.append(f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end" fill="#222222">{room}</text>')
        at = _LEFT + _CELL * row + _CELL // 2
        turned = f'x="{at + 4}" y="{_TOP - 8}" transform="rotate(-60 {at + 4} {_TOP - 8})"'
        lines.append(f'<text {turned} fill="#222222">{room}</text>')
        for column, other in enumerate(order):
            fill = "#e4e9ef" if row == column else "#f7f9fb"
            x, y = _LEFT + _CELL * column, _TOP + _CELL * row
            lines.append(f'<rect x="{x}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{fill}"/>')
            if other in imports[room]:
                title = f"<title>{room} imports {other}</title>"
                lines.append(
                    f'<circle cx="{x + _CELL // 2}" cy="{y + _CELL // 2}" r="6" fill="#0b5fa5">{title}</circle>'
                )
    return "\n".join([*lines, "</svg>", ""])


def main(arguments: list[str]) -> int:
    """Draw the picture, or compare it."""
    made = picture(rooms())
    if arguments == ["--check"]:
        if PICTURE.read_text(encoding="utf-8") == made:
            return 0
        sys.stderr.write(f"{PICTURE.name} differs from the code; run: python docs/make_architecture.py\n")
        return 1
    PICTURE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
