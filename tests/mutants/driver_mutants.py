"""Mutants of what node and simulator share: the turn, the ballots, and missing ledger entries.

Those that name seeds die in the simulator, which runs the same code as a node.
"""

from tests.mutants.mutation_runner import Mutant

_FETCHER = "driver/ledger_fetcher.py"
_GAP = "ci/ledger_gap.py"
_SCHEDULER = "driver/build_scheduler.py"
_TURN = "driver/turn.py"

_FETCHER_TEST = "tests/driver/test_ledger_fetcher.py::"
_TURN_TEST = "tests/driver/test_turn.py::"
_SCHEDULER_TEST = "tests/driver/test_build_scheduler.py::"

DRIVER_MUTANTS: tuple[Mutant, ...] = (
    # --- driver/turn.py ---------------------------------------------------------------------------
    Mutant(
        name="D1 a turn is sent before it is saved",
        file=_TURN,
        old="        self.to_save = to_save if to_save.records or to_save.evidence else None\n",
        new="        self.to_save = None\n",
        seeds=(1,),
    ),
    Mutant(
        name="D2 only the last output of a turn is saved",
        file=_TURN,
        old="            self.records += output.records\n",
        new="            self.records = output.records\n",
        seeds=(2,),
    ),
    Mutant(
        name="D3 the core is fed while a turn waits for the disk",
        file=_TURN,
        old="        return self._is_unsaved\n",
        new="        return False\n",
        seeds=(3,),
    ),
    Mutant(
        name="D4 what arrives while a turn waits for the disk is lost",
        file=_TURN,
        old="        self.inbox += envelopes\n",
        new="        self.inbox += () if self._is_unsaved else envelopes\n",
        test=_TURN_TEST + "test_nothing_is_fed_in_while_a_turn_waits_for_the_disk",
    ),
    Mutant(
        name="D5 a timer that is due is not handled with other input",
        file=_TURN,
        old="        is_due = now >= self.deadline\n",
        new="        is_due = now >= self.deadline and not inbox\n",
        test=_TURN_TEST + "test_the_timer_is_handled_when_it_is_due_and_after_the_messages",
    ),
    # --- driver/build_scheduler.py ----------------------------------------------------------------
    Mutant(
        name="D6 a ballot is sent before it is saved",
        file=_SCHEDULER,
        old="        try:\n            self._disk.add_request(request, instead_of)\n",
        new="        self._send([request.signed])\n"
        "        try:\n            self._disk.add_request(request, instead_of)\n",
        test=_SCHEDULER_TEST
        + "test_a_build_is_begun_once_and_its_ballot_is_saved_before_it_is_sent",
    ),
    Mutant(
        name="D7 a build is run again after a restart, and a second ballot is cast",
        file=_SCHEDULER,
        old="key in self._running or self._disk.has_request(BALLOT, key)",
        new="key in self._running",
        seeds=(2,),
    ),
    Mutant(
        name="D8 a ballot is cast under a fresh timestamp after a restart",
        file=_SCHEDULER,
        old="        self._requests.take_up(self._disk.pending_requests())\n",
        new="        from ci.operations import decode_operation\n"
        "        from pbft.codec import decode_request\n"
        "        for request in list(self._disk.pending_requests()):\n"
        "            operation = decode_operation(decode_request(request.signed).operation)\n"
        "            self.cast(request.purpose, request.key, operation,"
        " now=0.0, instead_of=request.timestamp)\n",
        seeds=(2,),
    ),
    Mutant(
        name="D9 a ballot is never sent again",
        file=_SCHEDULER,
        old="        self._send(self._requests.due(now))\n",
        new="",
        seeds=(2,),
    ),
    Mutant(
        name="D10 a ballot is sent again without end",
        file=_SCHEDULER,
        old="        if done := self._requests.settled():\n"
        "            self._disk.forget_requests(done)\n",
        new="",
        seeds=(2,),
    ),
    Mutant(
        name="D11 a ballot that the disk refused is forgotten",
        file=_SCHEDULER,
        old="        if self.cast(BALLOT, key, CastBallot(*key, ballot), now=now):\n"
        "            del self._running[key]\n",
        new="        self.cast(BALLOT, key, CastBallot(*key, ballot), now=now)\n"
        "        self._running[key] = None\n",
        test=_SCHEDULER_TEST + "test_a_ballot_that_the_disk_refuses_is_not_sent_until_it_is_saved",
    ),
    # --- driver/ledger_fetcher.py, ci/ledger_gap.py -----------------------------------------------
    Mutant(
        name="D12 fetched ledger entries are kept unchecked",
        file=_GAP,
        old="    if entries[-1].head != gap.head_after:\n",
        new="    if False:\n",
        test=_FETCHER_TEST + "test_a_wrong_page_changes_nothing_and_the_next_peer_is_asked",
    ),
    Mutant(
        name="D13 one peer alone is asked for ledger entries",
        file=_FETCHER,
        old="            peer.seconds += min(now - since, self._timeout_seconds)\n",
        new="            peer.asked = 0\n",
        test=_FETCHER_TEST + "test_a_gap_is_filled_from_its_end_by_peers_in_turn",
    ),
    Mutant(
        name="D14 a page that never comes is waited for",
        file=_FETCHER,
        old="            if now - since < self._timeout_seconds:\n",
        new="            if since <= now:\n",
        seeds=(27,),
    ),
    Mutant(
        name="D15 the answer to another request fills the gap",
        file=_FETCHER,
        old="        if request is not self._asked:\n",
        new="        if self._asked is None:\n",
        test=_FETCHER_TEST + "test_an_answer_that_comes_too_late_is_dropped",
    ),
)
