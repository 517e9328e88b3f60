"""Each state of pbft/state.py is written by the part that owns it, and read by all others.

The test reads the source: assignments, deletions and calls that change a container.
"""

import ast
from collections.abc import Iterator

import msgspec
import pytest

from pbft import state
from scripts.folders import ROOT

# The attribute of Core -> the module that writes it.
OWNERS = {
    "peers": "catch_up",
    "views": "view_change",
    "checkpoints": "checkpoint",
    "proposer": "normal_case",
    "retransmit_budgets": "normal_case",
    "pending": "normal_case",
    "recovery": "recovery",
    "execution": "execution",
    "transfers": "state_transfer",
    "timers": "timers",
    "log": "checkpoint",
}
# What a part writes in the name of another one: (module, what it writes) -> why. New ones are a
# sign that a part does another's work.
EXCEPTIONS = {
    ("replica", "peers.status_due"): "the peers are to hear at once what changed in this turn",
    ("replica", "recovery.spare_nonce"): "drawn by the shell, for a loss that is seen later",
    ("replica", "retransmit_budgets"): "they end with the turn",
    ("replica", "timers.batch_due"): "the primary's loop over batches ends here",
    ("replica", "timers.is_null_waiting"): "the primary's loop over batches ends here",
    ("replica", "transfers.current"): "the transfer is given up where others brought us further",
    ("execution", "pending"): "what is executed waits no more",
    ("execution", "proposer.next_sequence"): "a backup that becomes primary goes on above it",
    ("execution", "proposer.proposed"): "what is executed is in no batch under way",
    ("execution", "recovery.requests"): "an executed RECOVER waits no more",
    ("checkpoint", "execution.clients"): "a replicated state is replaced as a whole",
    ("checkpoint", "execution.configuration"): "a replicated state is replaced as a whole",
    ("checkpoint", "execution.ending"): "a replicated state is replaced as a whole",
    ("checkpoint", "execution.epoch"): "a replicated state is replaced as a whole",
    ("checkpoint", "execution.recoveries"): "a replicated state is replaced as a whole",
    ("checkpoint", "transfers.leaves"): "they are of states that are kept no more",
    ("state_transfer", "checkpoints.is_diverged"): "a fetched state is the certified one",
    ("state_transfer", "execution.executed"): "a fetched state has executed it",
    ("state_transfer", "pending"): "what the fetched state has executed waits no more",
    ("state_transfer", "proposer.next_sequence"): "the next number is above the fetched state",
    ("state_transfer", "proposer.proposed"): "what the fetched state has executed is done",
    ("view_change", "pending"): "in a new view no batch is under way",
    ("view_change", "proposer.next_sequence"): "the new primary goes on above O",
    ("view_change", "proposer.proposed"): "in a new view no batch is under way",
    ("view_change", "timers.has_progressed"): "the wait for the next view begins",
    ("view_change", "timers.view_change_due"): "the wait for the next view begins",
    ("recovery", "timers.view_change_due"): "who recovers is in no view that could fail",
    ("recovery", "views.changes"): "a recovery makes VIEW-CHANGEs void",
    ("recovery", "views.current"): "who recovers is as a new replica in view 0",
    ("recovery", "views.has_entered"): "who recovers is as a new replica in view 0",
    ("recovery", "views.min_s"): "who recovers is as a new replica in view 0",
    ("recovery", "views.new_view"): "who recovers is as a new replica in view 0",
    ("recovery", "views.ordered"): "who recovers is as a new replica in view 0",
    ("recovery", "views.overtaken_changes"): "a recovery makes VIEW-CHANGEs void",
    ("recovery", "views.records"): "who recovers is as a new replica in view 0",
}
# Before the first turn it puts everything where the records say, in the name of all parts.
RESTORER = "restoring"
MUTATORS = {
    *("add", "append", "clear", "difference_update", "discard", "extend", "insert"),
    *("intersection_update", "pop", "popitem", "remove", "reverse", "setdefault", "sort"),
    *("symmetric_difference_update", "update"),
    # Those of our own classes: PendingRequests, ClientTable, CheckpointVotes, MessageLog.
    *("forget_all", "forget_up_to", "record", "renew", "restore"),
}
MODULES = sorted(path.stem for path in (ROOT / "pbft").glob("*.py"))


def test_no_part_writes_what_another_one_owns() -> None:
    found = {
        (module, written)
        for module in MODULES
        if module not in ("core", RESTORER)
        for written in written_in((ROOT / "pbft" / f"{module}.py").read_text())
        if OWNERS[written.partition(".")[0]] != module
    }
    assert found == EXCEPTIONS.keys()


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("core.views.current = 3", "views.current"),
        ("core.views.current += 1", "views.current"),
        ("self.core.views.min_s, other = 1, 2", "views.min_s"),
        ("core.peers.status[1] = message", "peers.status"),
        ("del core.recovery.requests[1]", "recovery.requests"),
        ("core.proposer.proposed |= {1}", "proposer.proposed"),
        ("core.proposer.proposed.discard(1)", "proposer.proposed"),
        ("core.checkpoints.votes.add(message, signed)", "checkpoints.votes"),
        ("first = core.transfers.current = transfer", "transfers.current"),
        ("core.timers = timers", "timers"),
        ("timers = core.timers\n    timers.timeout = 1.0", "timers.timeout"),
        ("proposed = core.proposer.proposed\n    proposed |= {1}", "proposer.proposed"),
        ("sent = core.peers.view_sent\n    sent.pop(1)", "peers.view_sent"),
        ("core.pending.remove('client', 1)", "pending"),
    ],
)
def test_each_way_of_writing_is_seen(line: str, written: str) -> None:
    source = f"def broken(core, self):\n    {line}\n"
    assert written_in(source) == {written}


def test_every_state_has_an_owner_and_a_comment_per_field() -> None:
    source = (ROOT / "pbft" / "state.py").read_text().splitlines()
    for name, struct in vars(state).items():
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
            if struct.__module__ != state.__name__:
                continue
            begin = next(i for i, line in enumerate(source) if line.startswith(f"class {name}("))
            for field in struct.__struct_fields__:
                line = next(i for i in range(begin, len(source)) if f"    {field}: " in source[i])
                assert source[line - 1].startswith("    # "), f"{name}.{field}"


def written_in(source: str) -> set[str]:
    """What a module writes of the states of a Core, as `views.current` or `pending`."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            aliases = dict(_aliases(function))
            for target, is_changed in _targets(function):
                path = _path(target, aliases)
                if isinstance(target, ast.Name) and not is_changed:
                    continue  # a local name, for something else from now on
                if path and path[0] in OWNERS:
                    found.add(".".join(path[:2]) if _is_struct(path[0]) else path[0])
    return found


def _is_struct(attribute: str) -> bool:
    return attribute not in ("pending", "log", "retransmit_budgets")


def _aliases(function: ast.FunctionDef) -> Iterator[tuple[str, list[str]]]:
    """Local names of a state: `timers = core.timers`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            path = _path(node.value, {})
            if path and path[0] in OWNERS:
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        yield target.id, path


def _targets(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, bool]]:
    """Whatever is assigned to or deleted, or (True) changed in place."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.Delete):
            for target in node.targets:
                inner = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
                yield from ((one, False) for one in inner)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            yield node.target, isinstance(node, ast.AugAssign)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in MUTATORS
        ):
            yield node.func.value, True


def _path(node: ast.expr, aliases: dict[str, list[str]]) -> list[str]:
    """The attributes behind `core`, outermost first: core.views.changes[1] -> views, changes."""
    names: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            return []
    if node.id == "core":
        return names
    if node.id == "self" and names[:1] == ["core"]:
        return names[1:]
    return [*aliases[node.id], *names] if node.id in aliases else []
