"""client.commands.screen: lines that change, on a terminal and elsewhere."""

import io

import pytest

from client.commands.screen import Screen, coloured


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_file_gets_each_new_line_once() -> None:
    file = io.StringIO()
    screen = Screen(file)
    for lines in (["a", "b"], ["a", "c"], ["a", "c"]):
        screen.show(lines)
    assert file.getvalue() == "a\nb\nc\n"


def test_a_terminal_is_redrawn_from_the_first_line() -> None:
    terminal = Terminal()
    screen = Screen(terminal)
    screen.show(["a", "b"])
    screen.show(["c"])
    assert terminal.getvalue() == ("\033[2Ka\n\033[2Kb\n\033[J" + "\033[2A\033[2Kc\n\033[J")


def test_what_does_not_fit_is_cut() -> None:
    terminal = Terminal()
    Screen(terminal).show(["x" * 30, "2", "3", "4", "5"])
    assert terminal.getvalue() == f"\033[2K{'x' * 19}\n\033[2K2\n\033[2K3\n\033[J"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert coloured("x", "bad", Terminal()) == "\033[31mx\033[0m"
    assert coloured("x", "bad", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("x", "bad", Terminal()) == "x"
