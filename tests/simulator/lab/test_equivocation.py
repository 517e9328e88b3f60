"""The same lie under two protocols: BSMR forks, PBFT agrees (tests/seeds/test_s3_bsmr.py)."""

from pathlib import Path

import pytest

from simulator.main import main


def last_lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["equivocation", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("replicas", [4, 7])
def test_bsmr_forks_and_pbft_does_not(
    capsys: pytest.CaptureFixture[str], seed: int, replicas: int
) -> None:
    flags = ("--seed", str(seed), "--replicas", str(replicas))
    assert last_lines(capsys, "--protocol", "bsmr", *flags)[-1] == "forked"
    lines = last_lines(capsys, "--protocol", "pbft", *flags)
    assert lines[-1] == "agreed"
    states = [line for line in lines if " state: " in line and "(faulty)" not in line]
    assert len(states) == replicas - 1
    assert len({line.split(" state: ")[1] for line in states}) == 1
    assert "view 1" in states[0], "they changed the view to go on"


def test_an_honest_leader_forks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in ("bsmr", "pbft"):
        assert last_lines(capsys, "--protocol", protocol, "--faults", "0")[-1] == "agreed"


def test_every_message_is_printed_and_a_seed_gives_the_same_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = last_lines(capsys, "--protocol", "pbft", "--seed", "9")
    assert any(" r0 > r1: PrePrepare" in line for line in lines)
    assert any(": ViewChange" in line for line in lines)
    assert last_lines(capsys, "--protocol", "pbft", "--seed", "9") == lines
    told = last_lines(capsys, "--protocol", "bsmr", "--seed", "9")
    assert any("r1 > r0: VALUE" in line for line in told)
    assert any("r0 > r3: ANNOUNCE" in line for line in told)


@pytest.mark.parametrize(
    ("flags", "says"),
    [(("--replicas", "5"), "--replicas"), (("--faults", "3"), "--faults"), (("--faults=-1",), "0")],
)
def test_a_wrong_number_is_refused(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], says: str
) -> None:
    assert main(["equivocation", *flags]) == 2
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("protocol", "verdict"), [("pbft", "agreed"), ("bsmr", "forked")])
def test_the_picture_of_each_protocol(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, protocol: str, verdict: str
) -> None:
    file = tmp_path / "page.html"
    lines = last_lines(capsys, "--protocol", protocol, "--html", str(file))
    assert lines[0] == str(file)
    assert lines[-1] == verdict
    page = file.read_text()
    assert f"<h2>Afterwards: {verdict}</h2>" in page
    assert "a lie, or an old message again" in page
    assert ("correct replicas fork" in page) == (verdict == "forked")
    assert main(["equivocation", "--html", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().out
