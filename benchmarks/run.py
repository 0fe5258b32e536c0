"""Run the benchmarks and write their table.

    python -m benchmarks.run [--work FOLDER] [--runs N] [--only NAME,...] [--quick] [--write docs/performance.md]

Takes about an hour and 40 GB below FOLDER with all sizes; ``--quick`` leaves out 50,000 images. The table goes between
two marks in the page that ``--write`` names, else to standard output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import cases

_CASES = {
    "archive": cases.archive,
    "large_file": cases.large_file,
    "metadata": cases.metadata,
    "handover": cases.handover,
    "whole_visit": cases.whole_visit,
    "dataset": cases.dataset,
    "catalog": cases.catalog,
    "start_up": cases.start_up,
    "chain": cases.chain,
}
_HEADER = [
    "| what | how | wall time | CPU time | peak memory | icf-utils / this |",
    "| --- | --- | --- | --- | --- | --- |",
]
_BEGIN, _END = "<!-- table {name} -->", "<!-- end of table {name} -->"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "icf-utils-benchmarks"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(_CASES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    sizes = (400, 10_000) if args.quick else (400, 10_000, 50_000)
    bench = cases.Bench(args.work.absolute(), args.runs, sizes)
    for name in args.only.split(","):
        print(f"{name} ...", file=sys.stderr, flush=True)
        table = "\n".join([*_HEADER, *_CASES[name](bench)])
        note = (
            f"Medians of {args.runs} runs in turn; the ratio is the median (and range) of the pairs. {cases.machine()}."
        )
        publish(name, f"{table}\n\n{note}", args.write)


def publish(name: str, text: str, page: Path | None) -> None:
    """Put a table between its marks in ``page``, or print it."""
    if page is None:
        print(text)
        return
    begin, end = _BEGIN.format(name=name), _END.format(name=name)
    before, _, rest = page.read_text().partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
