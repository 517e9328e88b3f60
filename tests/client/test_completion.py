"""client.completion: a real bash completes the commands, their flags and actions."""

import subprocess

import pytest

from client.main import main


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    script += """
for words in "l" "list --outc" "limits p"; do
  COMP_WORDS=(pbft-ci $words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _shtab_pbft_ci
  echo "${COMPREPLY[@]}"
done
"""
    answer = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    lines = answer.stdout.splitlines()
    assert {"list", "log", "limits"} <= set(lines[0].split())
    assert lines[1:] == ["--outcome", "pending propose"]


def test_zsh_gets_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef pbft-ci")
