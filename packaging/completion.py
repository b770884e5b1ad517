# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints the completion script for a shell, as typer makes it: completion.py bash|zsh|fish."""

import sys

import typer.completion

NAME = "dynstack-probe"
VARIABLE = "_DYNSTACK_PROBE_COMPLETE"


def script(shell: str) -> str:
    """The script, with a mend for zsh."""
    make = typer.completion.get_completion_script  # type: ignore[attr-defined]
    text: str = make(prog_name=NAME, complete_var=VARIABLE, shell=shell)
    text = text.strip()
    if shell == "zsh":
        # Loaded by the first Tab, it must answer that one too.
        text = text.replace(
            f"compdef _dynstack_probe_completion {NAME}",
            "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n"
            '  _dynstack_probe_completion "$@"\n'
            "else\n"
            f"  compdef _dynstack_probe_completion {NAME}\n"
            "fi",
        )
    return text


print(script(sys.argv[1]))
