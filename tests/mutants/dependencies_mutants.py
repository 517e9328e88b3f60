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
    Mutant(
        name="Z9 a stage that begins with another one gets a second copy of inputs",
        file="node/sources/dockerfile.py",
        old="            if not stage.has_inputs:\n",
        new="            if True:\n",
        test="tests/node/sources/test_dockerfile.py"
        "::test_inputs_are_copied_once_into_each_line_of_stages_that_run_something",
    ),
    Mutant(
        name="Z10 a line of provenance takes any list",
        file="ci/provenance.py",
        old="    if bill is None or hashlib.sha256(bill).hexdigest() != ran.bill_sha256:\n",
        new="    if bill is None:\n",
        test="tests/ci/test_provenance.py::test_a_replica_without_the_list_names_it_and_no_input",
    ),
    Mutant(
        name="Z11 the network of the pipeline hides that of a step",
        file="common/pipeline/step_networks.py",
        old='each.get("network", pipeline.get("network"))',
        new='pipeline.get("network")',
        test="tests/common/pipeline/test_step_networks.py::test_it_reads_networks_as_replicas_do",
    ),
    Mutant(
        name="Z12 any file is the agreed pipeline file",
        file="client/commands/envelope.py",
        old="    if (found := hashlib.sha256(pipeline).hexdigest()) != agreed:\n",
        new="    if (found := agreed) != agreed:\n",
        test="tests/scripts/test_verify_build.py::test_no_step_that_ran_may_have_a_network",
    ),
)
