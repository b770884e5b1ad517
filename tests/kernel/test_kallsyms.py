# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from dynstack_probe.errors import NotPermittedError, UnmeasurableError
from dynstack_probe.kernel.kallsyms import read_symbols

TEXT = """\
ffffffff81000000 T _stext
ffffffff81000100 t local.isra.0
ffffffff81000200 T _etext
ffffffff82000000 D data
ffffffffc0000000 t inside\t[module]
"""


def test_functions_by_address(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(TEXT)
    symbols = read_symbols(path)
    assert symbols.name(0xFFFFFFFF81000000) == "_stext"
    assert symbols.name(0xFFFFFFFF810000FF) == "_stext"
    assert symbols.name(0xFFFFFFFF81000100) == "local.isra.0"
    assert symbols.name(0xFFFFFFFFC0000010) == "inside [module]"
    assert symbols.name(0x1000) == "0x1000"
    assert symbols.name(0xFFFFFFFF810001FF) == "local.isra.0"
    assert symbols.name(0xFFFFFFFF81000200) == "0xffffffff81000200"


def test_hidden_addresses(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text("0000000000000000 T _stext\n0000000000000000 t other\n")
    with pytest.raises(NotPermittedError, match="CAP_SYSLOG"):
        read_symbols(path)


def test_no_symbols(tmp_path: Path) -> None:
    with pytest.raises(UnmeasurableError, match="CONFIG_KALLSYMS"):
        read_symbols(tmp_path / "none")
