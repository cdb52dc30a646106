"""The Procfile is read as foreman and honcho read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from okuru import procfile


def test_each_line_is_a_process(tmp_path: Path) -> None:
    path = tmp_path / "Procfile"
    path.write_text("# what runs\nweb: serve 'a:b()'\n\nhub-2:  listen --on 1:2 \nBig_One:x\n")

    assert procfile.read(path) == {
        "web": "serve 'a:b()'",
        "hub-2": "listen --on 1:2",
        "Big_One": "x",
    }
    assert list(procfile.read(path)) == ["web", "hub-2", "Big_One"]


@pytest.mark.parametrize("line", ["web", "web:", "web:   ", "two words: x", ": x", "  web: x"])
def test_a_line_that_is_no_process_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "Procfile"
    path.write_text(f"relay: x\n{line}\n")

    with pytest.raises(procfile.ProcfileError, match="no `process: command line`") as refused:
        procfile.read(path)
    assert refused.value.message.endswith(f": {line}")
