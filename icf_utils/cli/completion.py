"""``icf-utils completion``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console

NAME = "completion"
HELP = "print a script that completes commands in a shell"
DETAILS = """\
The script completes commands, options, files, and the studies and visits of the
store that -o names. Load it in the shell's start-up file:

  bash   eval "$(icf-utils completion bash)"      in ~/.bashrc
  zsh    eval "$(icf-utils completion zsh)"       in ~/.zshrc, after compinit
  fish   icf-utils completion fish | source       in ~/.config/fish/config.fish"""
EXAMPLE = "icf-utils completion bash"

_SHELLS = ("bash", "zsh", "fish")
_PROGRAMS = (
    "icf-utils",
    "make_studyvisit_archive",
    "deposit_visit_metadata",
    "deposit_visit_dataset",
    "catalogify_studyvisit_from_meta",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=f"{', '.join(_SHELLS[:-1])} or {_SHELLS[-1]}")


def run(args: argparse.Namespace, _console: Console) -> int:
    from argcomplete.shell_integration import shellcode

    script = shellcode(_PROGRAMS, shell=args.shell)
    speaker = Console(quiet=False, as_json=args.json)  # the script is what was asked for, also with --quiet
    speaker.result(args.command, {"script": script}, [script])
    return 0
