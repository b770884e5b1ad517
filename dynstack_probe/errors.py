# SPDX-License-Identifier: GPL-2.0-or-later
"""An exception type per exit code; each message is one line that the user can act on."""


class ProbeError(Exception):
    """The tool failed.

    The message says what happened, why, and what to do. `details` are further lines, such
    as the output of bcc, shown below it with --verbose.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class UsageError(ProbeError):
    """Invalid arguments or input, or an output path that can't be written."""

    exit_code = 2


class WriteError(ProbeError):
    """A file or standard output could not be written: the disk is full, broken or read-only."""


class UnmeasurableError(ProbeError):
    """This kernel or machine can't be measured."""

    exit_code = 3


class NotPermittedError(ProbeError):
    """A capability is missing."""

    exit_code = 4
