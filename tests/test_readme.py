"""What the README shows is what happens."""

from __future__ import annotations

import doctest
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nvcatalog.cli import main
from nvcatalog.errors import NVCatalogWarning

if TYPE_CHECKING:
    from nvcatalog.demo import DemoServer

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_session_gives_the_output_shown(
    server: DemoServer, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(data_dir))
    monkeypatch.chdir(tmp_path)
    session = "\n".join(blocks("python"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README", str(README), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NVCatalogWarning)  # an id that does not exist is part of what it shows
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).attempted > 5
    assert not runner.failures, "".join(said)


def test_the_commands_work_as_shown(
    server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NILEARN_DATA", str(data_dir))
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("nvcatalog ")]
    assert len(commands) >= 2
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        assert said.out.count("\n") >= 2
