# SPDX-License-Identifier: GPL-2.0-or-later
"""One exception type for each exit code; each message is one line that a person can act on."""


class ProbeError(Exception):
    """The tool failed.

    The message says what happened, why, and what to do. `details` may hold further
    lines, such as what bcc printed, which are shown below it.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class UsageError(ProbeError):
    """What was asked for makes no sense or can't be written."""

    exit_code = 2


class WriteError(ProbeError):
    """A file or standard output could not be written: the disk is full, broken or read-only."""


class UnmeasurableError(ProbeError):
    """This kernel or machine can't be measured."""

    exit_code = 3


class NotPermittedError(ProbeError):
    """A capability is missing."""

    exit_code = 4
