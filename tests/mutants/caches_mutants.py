"""Mutants of caches: who writes, what a key is of, what is kept, what evicts, and cold builds."""

from tests.mutants.mutation_runner import Mutant

_APPLICATION = "ci/application.py"
_BUILDS = "ci/builds.py"
_CACHES = "node/caches/build_caches.py"
_KEY = "node/caches/entry_key.py"
_OPERATIONS = "ci/operations.py"
_RUNS = "node/builds/cached_runs.py"
_SCHEDULER = "driver/build_scheduler.py"
_SCOPE = "node/caches/scope.py"
_STATEMENT = "ci/statement.py"
_STORE = "node/caches/cache_store.py"
_VERDICT = "ci/verdict.py"

_CACHES_TEST = "tests/node/caches/test_build_caches.py::"
_COLD_TEST = "tests/ci/test_cold_builds.py::"
_KEY_TEST = "tests/node/caches/test_entry_key.py::"
_RUNS_TEST = "tests/node/builds/test_cold_runs.py::"
_SCHEDULER_TEST = "tests/driver/test_build_scheduler.py::"
_SCOPE_TEST = "tests/node/caches/test_scope.py::"
_STORE_TEST = "tests/node/caches/test_cache_store.py::"
_VERDICT_TEST = "tests/ci/test_verdict.py::"

CACHES_MUTANTS: tuple[Mutant, ...] = (
    # --- who writes -------------------------------------------------------------------------------
    Mutant(
        name="K1 a commit below the head writes",
        file=_SCOPE,
        old="is_written=branches.tip == commit)",
        new="is_written=True)",
        test=_SCOPE_TEST + "test_a_commit_below_the_head_only_reads",
    ),
    Mutant(
        name="K2 a request that claims to be a push writes",
        file=_SCOPE,
        old="        own = reference.removeprefix(BRANCH_PREFIX)\n",
        new="        own = target\n",
        test=_SCOPE_TEST + "test_others_only_read_what_the_branch_of_head_wrote",
    ),
    Mutant(
        name="K3 a pull request writes",
        file=_SCOPE,
        old="        return Scope(target, is_written=False)\n",
        new="        return Scope(target, is_written=True)\n",
        test=_SCOPE_TEST + "test_others_only_read_what_the_branch_of_head_wrote",
    ),
    Mutant(
        name="K4 a tag reads",
        file=_SCOPE,
        old="    if event is Event.TAG:\n        return None\n",
        new="",
        test=_SCOPE_TEST + "test_a_tag_neither_reads_nor_writes",
    ),
    # --- what a key is of -------------------------------------------------------------------------
    Mutant(
        name="K5 branches share entries",
        file=_KEY,
        old="        owner.branch,\n",
        new="",
        test=_KEY_TEST + "test_whatever_differs_makes_another_key",
    ),
    Mutant(
        name="K6 repositories share entries",
        file=_KEY,
        old="        owner.repository,\n",
        new="",
        test=_KEY_TEST + "test_whatever_differs_makes_another_key",
    ),
    Mutant(
        name="K7 other files, the same entry",
        file=_KEY,
        old="        tuple((name, files[name]) for name in sorted(cache.files)),\n",
        new="        tuple(sorted(cache.files)),\n",
        test=_KEY_TEST + "test_whatever_differs_makes_another_key",
    ),
    Mutant(
        name="K8 other images, the same entry",
        file=_KEY,
        old="        tuple(sorted(set(image_ids))),\n",
        new="",
        test=_KEY_TEST + "test_whatever_differs_makes_another_key",
    ),
    # --- what is kept, and what evicts ------------------------------------------------------------
    Mutant(
        name="K9 what a red build left is kept",
        file=_CACHES,
        old="is_confirmed = verdict.outcome is Outcome.PASSED and replica in verdict.agreeing",
        new="is_confirmed = replica in verdict.agreeing",
        test=_CACHES_TEST + "test_what_a_build_left_is_kept_only_if_a_passed_verdict_confirms_it",
    ),
    Mutant(
        name="K10 what this replica alone saw pass is kept",
        file=_CACHES,
        old="is_confirmed = entry.agrees is True and",
        new="is_confirmed = entry.agrees is not None and",
        test=_CACHES_TEST + "test_what_a_build_left_is_kept_only_if_a_passed_verdict_confirms_it",
    ),
    Mutant(
        name="K11 dissent evicts nothing",
        file=_CACHES,
        old="is_dissent=standing.is_dissent)",
        new="is_dissent=False)",
        test=_CACHES_TEST + "test_what_a_build_used_goes_if_its_finding_differs",
    ),
    Mutant(
        name="K12 agreement evicts, too",
        file=_CACHES,
        old="is_dissent=standing.is_dissent)",
        new="is_dissent=True)",
        test=_CACHES_TEST + "test_what_a_build_used_goes_if_its_finding_differs",
    ),
    # --- cold before red --------------------------------------------------------------------------
    Mutant(
        name="K13 one other makes a replica build again",
        file=_VERDICT,
        old="    return any(len(replicas) >= quorums.weak for replicas in found.values())\n",
        new="    return bool(found)\n",
        test=_VERDICT_TEST + "test_f_plus_one_others_contradict_a_finding",
    ),
    Mutant(
        name="K14 a replica's own ballot contradicts it",
        file=_VERDICT,
        old=" and name != replica and ballot.compared != own:",
        new=" and ballot.compared != own:",
        test=_VERDICT_TEST + "test_f_plus_one_others_contradict_a_finding",
    ),
    Mutant(
        name="K15 what others contradict is voted",
        file=_RUNS,
        old="self._has_time(order, seconds) and self._is_contradicted(order.key, own)",
        new="False",
        test=_RUNS_TEST + "test_what_others_contradict_is_run_again_without_caches",
    ),
    Mutant(
        name="K16 what nobody contradicts is run again",
        file=_RUNS,
        old="self._has_time(order, seconds) and self._is_contradicted(order.key, own)",
        new="self._has_time(order, seconds)",
        test=_RUNS_TEST + "test_what_nobody_contradicts_is_voted",
    ),
    Mutant(
        name="K17 the second run has caches",
        file=_RUNS,
        old="await attempt(msgspec.structs.replace(work, caches=None))",
        new="await attempt(work)",
        test=_RUNS_TEST + "test_what_others_contradict_is_run_again_without_caches",
    ),
    Mutant(
        name="K18 a cold finding names the entries of the warm one",
        file=_RUNS,
        old="                access.forget()\n",
        new="",
        test=_RUNS_TEST + "test_what_others_contradict_is_run_again_without_caches",
    ),
    Mutant(
        name="K19 a second run that is out of time",
        file=_RUNS,
        old="self._has_time(order, seconds) and ",
        new="",
        test=_RUNS_TEST + "test_without_time_for_a_second_run_the_first_is_voted",
    ),
    # --- builds that are asked for without caches -------------------------------------------------
    Mutant(
        name="K20 a cold build uses caches",
        file=_RUNS,
        old="        if order.is_cold:\n",
        new="        if False:\n",
        test=_RUNS_TEST + "test_a_build_that_was_asked_for_without_caches_has_none",
    ),
    Mutant(
        name="K21 the open build forgets that it is cold",
        file=_APPLICATION,
        old="                is_cold=operation.is_cold,\n",
        new="",
        test=_COLD_TEST + "test_the_statement_says_that_a_build_was_cold",
    ),
    Mutant(
        name="K22 a cold build under the id of a warm one",
        file=_STATEMENT,
        old="            *((True,) if operation.is_cold else ()),\n",
        new="",
        test=_COLD_TEST + "test_a_cold_build_is_another_build",
    ),
    Mutant(
        name="K23 every state has other bytes than before",
        file=_BUILDS,
        old="    while len(fields) > _FIRST_FIELDS and not fields[-1]:\n",
        new="    while len(fields) > _FIRST_FIELDS + 2 and not fields[-1]:\n",
        test=_COLD_TEST + "test_a_state_without_a_cold_build_has_the_bytes_that_it_had_before",
    ),
    Mutant(
        name="K24 every ballot has other bytes than before",
        file=_OPERATIONS,
        old="    if isinstance(ballot, Abstain) or ballot.evidence.caches:\n",
        new="    if True:\n",
        test=_COLD_TEST + "test_a_ballot_without_caches_has_the_bytes_that_it_had_before",
    ),
    Mutant(
        name="K25 the order to build does not say that it is cold",
        file=_SCHEDULER,
        old="        is_cold=build.is_cold,\n",
        new="",
        test=_SCHEDULER_TEST + "test_what_is_ordered_is_what_was_asked_for",
    ),
)
