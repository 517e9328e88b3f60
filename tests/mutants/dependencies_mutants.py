"""Broken rules of what lock files name: reading, fetching, and the list of what went in."""

from tests.mutants.mutation_runner import Mutant

_FETCH_TEST = "tests/node/dependencies/test_fetch.py::"
_READ_TEST = "tests/common/dependencies/test_reading.py::"

DEPENDENCIES_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="Z1 bytes are stored under any digest",
        file="node/dependencies/input_store.py",
        old="        if found != digest:\n            raise WrongBytes(found)\n        with",
        new="        with",
        test=_FETCH_TEST + "test_other_bytes_are_told_with_what_came",
    ),
    Mutant(
        name="Z2 a stored file is not checked again",
        file="node/dependencies/input_store.py",
        old="        if found != digest:\n            path.unlink(missing_ok=True)\n",
        new="        if False:\n            path.unlink(missing_ok=True)\n",
        test=_FETCH_TEST + "test_a_changed_file_of_the_store_is_noticed",
    ),
    Mutant(
        name="Z3 the last server that matches is asked",
        file="node/dependencies/fetch_plan.py",
        old="    for server in servers:\n",
        new="    for server in reversed(servers):\n",
        test=_FETCH_TEST + "test_the_operators_rule_alone_decides_who_is_asked",
    ),
    Mutant(
        name="Z4 a redirect may lead anywhere",
        file="node/dependencies/fetcher.py",
        old="        if not is_meant(server.hosts, host, port or 443):\n",
        new="        if False:\n",
        test=_FETCH_TEST + "test_a_redirect_leads_only_where_the_operator_allows",
    ),
    Mutant(
        name="Z5 an index may leave files out",
        file="node/dependencies/fetcher.py",
        old="        if missing:\n",
        new="        if missing == len(set(wanted.digests)):\n",
        test=_FETCH_TEST + "test_an_index_that_leaves_files_out_is_told",
    ),
    Mutant(
        name="Z6 a requirement needs no hash",
        file="common/dependencies/pip_requirements.py",
        old="    if not hashes:\n",
        new="    if False:\n",
        test=_READ_TEST + "test_a_flaw_says_where_and_what_to_do",
    ),
    Mutant(
        name="Z7 a build may make the list of what went in",
        file="node/builds/build_runner.py",
        old="    if any(artifact.path == BILL_OF_MATERIALS for artifact in result.artifacts):\n",
        new="    if False:\n",
        test="tests/node/builds/test_build_runner.py"
        "::test_the_name_of_the_list_of_what_went_in_is_taken",
    ),
    Mutant(
        name="Z8 any artifact is the list of what went in",
        file="ci/policy.py",
        old="        if bill != policy.bill_sha256:\n",
        new="        if policy.bill_sha256 not in artifacts(statement).values():\n",
        test="tests/scripts/test_verify_build.py::test_the_list_of_what_went_in_must_match",
    ),
)
