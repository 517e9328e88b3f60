"""Fixes of findings taken back, one by one, so that a kept seed shows what it was kept for."""

import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType

import pytest

from pbft import catch_up, view_change
from pbft.ports import Output
from pbft.replica import Replica
from simulator.campaigns.liveness import Liveness
from simulator.checkers.build_checker import BuildChecker
from simulator.checkers.checkers import Checkers
from simulator.machine.process import Process
from simulator.world.gateways import Gateway

Revert = Callable[[pytest.MonkeyPatch], None]


def _rewrite(owner: object, name: str, old: str, new: str) -> Revert:
    """A revert that puts `new` in the place of `old` in the source of one function."""

    def revert(monkeypatch: pytest.MonkeyPatch) -> None:
        function = getattr(owner, name)
        assert isinstance(function, FunctionType)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(old) == 1, f"{name} has changed: {source.count(old)} times {old!r}"
        made: dict[str, object] = {}
        exec(source.replace(old, new), function.__globals__, made)
        monkeypatch.setattr(owner, name, made[name])

    return revert


def _count_turns_before_they_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    on_turn = Checkers.on_turn

    def on_turn_at_once(
        self: Checkers, process: Process, outputs: list[Output], has_expired: bool
    ) -> None:
        on_turn(self, process, outputs, has_expired)
        unsaved = self._unsaved.pop(process.name, None)
        if unsaved is not None:
            self._check_turn(process, unsaved)

    def on_saved(self: Checkers, process: Process) -> None:
        """Nothing is left to be counted."""

    monkeypatch.setattr(Checkers, "on_turn", on_turn_at_once)
    monkeypatch.setattr(Checkers, "on_saved", on_saved)


REVERTS: dict[str, Revert] = {
    "state transfer lowers what is executed": _rewrite(
        Replica,
        "_adopt_state",
        "certificate.sequence <= right_up_to",
        "False",
    ),
    "views drift apart and nobody's timer runs": _rewrite(
        view_change,
        "has_everybody_left",
        "c.message.view >= core.view",
        "c.message.view == core.view",
    ),
    "a slot that was never executed here is sent again": _rewrite(
        catch_up, "_send_slots", "slot.committed_local()", "slot.decided is not None"
    ),
    "our own forgotten word counts in the others' certificate": _rewrite(
        Replica, "_on_own", "isinstance(message, Commit)", "False"
    ),
    "checkpoints are sent again now and then": _rewrite(
        catch_up, "_send_checkpoints", "core.peers.checkpoints_sent[message.replica]", "_"
    ),
    "who forgot that it has recovered finds out": _rewrite(
        Replica, "handle_timer", "recovery.finish(self.core)", "pass"
    ),
    "a proposal that comes too early may cost a view": _rewrite(
        Liveness, "check", "2 * parameters.status_seconds <= parameters.view_change_seconds", "True"
    ),
    "an approval counts for the rest of its batch": _rewrite(
        BuildChecker,
        "on_execution",
        "self._approved.setdefault((executed.applied.subject, executed.sequence), False)",
        "self._approved[executed.applied.subject, executed.sequence] = False",
    ),
    "an operator approves again what there was no room for": _rewrite(
        Gateway, "_take", "self._again_if_full(asked, answer)", "pass"
    ),
    "a turn counts once it is on disk": _count_turns_before_they_are_saved,
}
