"""client.command_line: what each command says of itself, and what a start imports."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from client.command_line import COMMANDS, GATEWAY_COMMANDS, add_commands, all_parsers, loaded

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def parsers() -> list[argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="pbft-ci")
    add_commands(parser, (*COMMANDS, *GATEWAY_COMMANDS))
    return all_parsers(loaded(parser))[1:]


def test_each_help_has_exit_codes_and_a_description(
    parsers: list[argparse.ArgumentParser],
) -> None:
    assert len(parsers) > len(COMMANDS) + len(GATEWAY_COMMANDS)
    for parser in parsers:
        assert "exit code" in parser.format_help(), parser.prog
    assert {parser.prog for parser in parsers} >= {"pbft-ci submit", "pbft-ci limits propose"}


def test_a_command_that_lists_itself_is_run_by_its_module(
    parsers: list[argparse.ArgumentParser],
) -> None:
    for parser in parsers:
        is_group = any(isinstance(a, argparse._SubParsersAction) for a in parser._actions)
        assert is_group or callable(parser.get_default("run")), parser.prog


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], ["msgspec", "asyncio", "client.serve"]),
        (["lint", "--help"], ["aiohttp", "nacl", "Crypto", "cryptography"]),
        (["list", "--limit", "x"], ["aiohttp.web", "nacl", "Crypto", "cryptography", "uvloop"]),
    ],
)
def test_a_command_imports_what_it_needs(arguments: list[str], unwanted: list[str]) -> None:
    program = (
        "import sys; from client.main import main\n"
        "try: main(sys.argv[2:])\n"
        "except SystemExit: pass\n"
        "print('loaded', *[name for name in sys.argv[1].split(',') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, ",".join(unwanted), *arguments]
    answer = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert answer.stdout.splitlines()[-1] == "loaded"


def test_the_page_names_each_command_and_whether_it_prints_json(
    parsers: list[argparse.ArgumentParser],
) -> None:
    page = (ROOT / "docs" / "COMMAND_LINE.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    printed = {
        name: row[-1].strip(" |") for row in rows for name in re.findall(r"`([a-z]+)[ `]", row[0])
    }
    assert printed.keys() == {command.name for command in COMMANDS}
    for parser in parsers:
        words = parser.prog.split()
        if words[1] in printed and words[2:] in ([], ["show"]):
            is_group = words[1] == "limits" and len(words) == 2
            is_stated = printed[words[1]] not in ("-", "JSON always") and not is_group
            assert ("--json" in parser.format_help()) is is_stated, parser.prog
