"""Mutants of what a node has on disk, and when."""

from tests.mutants.mutation_runner import Mutant

_RUNTIME = "node/replica/runtime.py"
_STORE = "node/storage/store.py"
_RECORD_CHAIN = "node/storage/record_chain.py"
_REDO_LOG = "node/storage/redo_log.py"
_LEDGER_TABLE = "node/storage/ledger_table.py"
_OWN_REQUEST_TABLE = "node/storage/own_request_table.py"
_RECOVERY_FILES = "node/storage/recovery_files.py"

_LEDGER_TABLE_TEST = "tests/node/storage/test_ledger_table.py::"
_RECOVERY_FILES_TEST = "tests/node/storage/test_recovery_files.py::"
_REDO_LOG_TEST = "tests/node/storage/test_redo_log.py::"
_RUNTIME_TEST = "tests/node/replica/test_runtime.py::"
_STORE_TEST = "tests/node/storage/test_store.py::"
_STORE_REFUSALS_TEST = "tests/node/storage/test_store_refusals.py::"

STORAGE_MUTANTS: tuple[Mutant, ...] = (
    # --- node/replica/runtime.py ------------------------------------------------------------------
    Mutant(
        name="48 a real process sends what it has not saved",
        file=_RUNTIME,
        old="            await self._save(turn.to_save)\n",
        new="            pass\n",
        test=_RUNTIME_TEST + "test_nothing_is_sent_while_the_disk_refuses",
    ),
    # --- node/storage/store.py --------------------------------------------------------------------
    Mutant(
        name="100 a refused commit may come back before what was saved in its place",
        file=_STORE,
        old=" and not self._is_doubtful:",
        new=":",
        test=_STORE_REFUSALS_TEST
        + "test_what_was_refused_does_not_come_back_before_what_was_saved_then",
    ),
    Mutant(
        name="E18 what is done again is not compared with the chain",
        file=_STORE,
        old="            if (self._position, self._chain) != (entry.ends, entry.chain):\n",
        new="            if self._position != entry.ends:\n",
        test=_STORE_TEST + "test_what_is_done_again_must_come_to_the_same_chain",
    ),
    Mutant(
        name="E30 an entry of the redo log that cannot be read is left out",
        file=_STORE,
        old="        if self._redo.is_broken:\n",
        new="        if False:\n",
        test=_STORE_TEST + "test_an_acknowledged_save_that_neither_file_has_is_damage",
    ),
    Mutant(
        name="E31 what is saved beside the records is not in the redo log",
        file=_STORE,
        old="            if self._next == before:\n"
        "                self._insert(SideWriteRecord())\n",
        new="",
        test=_STORE_TEST + "test_what_is_saved_beside_the_records_is_done_again_too",
    ),
    # --- node/storage/record_chain.py -------------------------------------------------------------
    Mutant(
        name="24d the store ignores a torn tail",
        file=_RECORD_CHAIN,
        old="if not is_next or next_chain(chain, row_position, body) != row_chain:",
        new="if not is_next:",
        test=_STORE_TEST + "test_a_tail_above_the_mark_that_breaks_the_chain_is_cut",
    ),
    # --- node/storage/redo_log.py -----------------------------------------------------------------
    Mutant(
        name="101 an entry of another generation is one of this one",
        file=_REDO_LOG,
        old="    if secret is not None and head[8:24] != secret:\n        return None\n",
        new="",
        test=_REDO_LOG_TEST + "test_a_full_area_is_followed_by_the_other_one",
    ),
    # --- node/storage/ledger_table.py -------------------------------------------------------------
    Mutant(
        name="E34 a rotten index gives another build's statement",
        file=_LEDGER_TABLE,
        old=" or bytes.fromhex(decoded.build) != build:\n",
        new=":\n",
        test=_LEDGER_TABLE_TEST + "test_a_row_that_leads_to_another_builds_statement_gives_none",
    ),
    # --- node/storage/own_request_table.py --------------------------------------------------------
    Mutant(
        name="E32 an own request is what stands there under its build",
        file=_OWN_REQUEST_TABLE,
        old="            if row is None or _digest(*row) != digest:\n",
        new="            if row is None:\n",
        test=_STORE_TEST + "test_a_lost_own_request_is_damage",
    ),
    # --- node/storage/recovery_files.py -----------------------------------------------------------
    Mutant(
        name="E33 the marker of a recovery is not on disk before the files are moved",
        file=_RECOVERY_FILES,
        old="    (directory / MARKER_NAME).touch()\n    folders.sync(directory)\n",
        new="    (directory / MARKER_NAME).touch()\n",
        test=_RECOVERY_FILES_TEST + "test_each_step_is_on_disk_before_the_next",
    ),
    Mutant(
        name="E33b the moved files are not on disk before the new store",
        file=_RECOVERY_FILES,
        old="    folders.sync(kept)\n    folders.sync(directory)\n    return kept",
        new="    return kept",
        test=_RECOVERY_FILES_TEST + "test_each_step_is_on_disk_before_the_next",
    ),
)
