"""Mutants of what bounds work and waiting: answers sent again, room, disks, kept requests."""

from simulator.mutants import Mutant

_CATCH_UP = "pbft/catch_up.py"
_CHECKPOINT = "pbft/checkpoint.py"
_CORE = "pbft/core.py"
_NORMAL = "pbft/normal_case.py"
_REPLICA = "pbft/replica.py"
_TIMERS = "pbft/timers.py"

BOUNDS_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="95 each copy of an executed request is answered",
        file=_NORMAL,
        old="    again.numbers.add(message.timestamp)\n",
        new="",
        test="tests/pbft/test_bounds.py",
    ),
    Mutant(
        name="95b what is looked up in one turn has no bound",
        file=_NORMAL,
        old="    if again.cost_bytes >= AGAIN_BYTES_MAX:\n",
        new="    if False:\n",
        test="tests/pbft/test_bounds.py",
    ),
    Mutant(
        name="95c the leaves of states that are gone are kept",
        file=_CHECKPOINT,
        old="    core.leaves = {}\n",
        new="",
        test="tests/pbft/test_bounds.py",
    ),
    Mutant(
        name="96 each new link is sent everything again",
        file=_CATCH_UP,
        old="        core.greeted_at[index] = now\n",
        new="",
        test="tests/pbft/test_bounds.py",
    ),
    Mutant(
        name="97 each contradiction is told",
        file=_CORE,
        old="        elif count.bit_count() == 1:\n",
        new="        else:\n",
        test="tests/pbft/test_bounds.py",
    ),
    Mutant(
        name="100 a refused commit may come back before what was saved in its place",
        file="node/store.py",
        old=" and not self._is_doubtful:",
        new=":",
        test="tests/node/test_store_refusals.py"
        "::test_what_was_refused_does_not_come_back_before_what_was_saved_then",
    ),
    Mutant(
        name="101 an entry of another generation is one of this one",
        file="node/redo_log.py",
        old="    if secret is not None and head[8:24] != secret:\n        return None\n",
        new="",
        test="tests/node/test_redo_log.py::test_a_full_area_is_followed_by_the_other_one",
    ),
    Mutant(
        name="102 asking for a build that waits counts for nothing",
        file="ci/room.py",
        old="    if askings or build.is_approved:\n",
        new="    if True:\n",
        test="tests/ci/test_approval.py",
    ),
    Mutant(
        name="103 a NEW-VIEW of any size is taken",
        file=_REPLICA,
        old="        if len(signed.payload) > self.core.cluster.new_view_bytes_max:\n",
        new="        if False:\n",
        test="tests/pbft/test_bounds.py",
    ),
    Mutant(
        name="104 an operator approves without end",
        file="ci/room.py",
        old="    if len(_undecided(builds)) >= open_max:\n",
        new="    if False:\n",
        test="tests/ci/test_room.py",
    ),
    Mutant(
        name="105 what nobody waits for is kept until somebody waits for something",
        file=_TIMERS,
        old="    return now < timers.batch_due\n",
        new="    return True\n",
        test="tests/paper/test_section_4_2_kept_requests.py",
    ),
    Mutant(
        name="106 the ballot that settles a build waits for others",
        file="ci/application.py",
        old="decide(earlier, len(build.reports), self._thresholds) is not None",
        new="False",
        test="tests/ci/test_may_wait.py",
    ),
    Mutant(
        name="107 what is kept holds up null requests",
        file=_REPLICA,
        old="may_wait = not is_null_wanted and normal_case.may_wait(core)",
        new="may_wait = normal_case.may_wait(core)",
        test="tests/paper/test_section_4_2_kept_requests.py",
    ),
)
