"""attest, verify: a verdict's envelope, from downloading it to checking it offline.

And its supplement: who contradicted it later.
"""

import argparse
import asyncio
import hashlib
import sys
from pathlib import Path

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.case_results import REPORT_BYTES_MAX
from ci.ledger import STEP_SKIPPED
from ci.operations import Event
from ci.policy import (
    Policy,
    artifacts,
    case_mismatches,
    has_skipped,
    has_warned,
    is_green,
    mismatches,
    pipeline_sha256,
)
from ci.provenance import (
    LINE_BYTES_MAX,
    InvalidProvenance,
    provenance_mismatch,
    signer_of,
    verify_provenance,
)
from ci.references import branch_ref
from ci.stated_cases import StatedCases
from ci.statement import (
    ENVELOPE_BYTES_MAX,
    InvalidEnvelope,
    StatementView,
    VerdictFields,
    VerifiedEnvelope,
    verify_envelope,
)
from ci.supplement import (
    SupplementFields,
    VerifiedSupplement,
    contradicting,
    verify_supplement,
)
from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import (
    Commands,
    cluster_and_replicas,
    cluster_flag,
    gateway_flags,
    gateway_to_read,
    nodes_flags,
    read_cluster,
)
from client.network.nodes import NodeFailed, Nodes
from client.network.supplement import NoSupplement, gather_supplement
from common.configuration.config import ConfigError
from common.configuration.keys import verify
from common.english import counted
from common.pipeline.pipeline_file import PIPELINE_BYTES_MAX
from common.pipeline.step_networks import step_networks
from common.ref_names import check_commit
from common.safe_text import escape_controls
from pbft.genesis import Cluster


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this module."""
    attest = commands.add_parser(
        "attest",
        parents=[common],
        description="Check and write the envelope, which at least f+1 replicas signed, and beside "
        "it a line of SLSA v1 provenance from each replica that ran the build.",
    )
    attest.add_argument("build", metavar="BUILD", help="the build's id, or the beginning of it")
    attest.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: <build>.intoto.json)",
    )
    attest.add_argument(
        "--supplement",
        type=Path,
        metavar="FILE",
        help="also write the ballots after the verdict, signed by f+1 replicas, to this file",
    )
    gateway_flags(attest)
    nodes_flags(attest)
    attest.set_defaults(run=lambda options: run(_attest(options)))
    check = commands.add_parser(
        "verify",
        parents=[common],
        description="Check the signatures and that the verdict matches every option. Exit code "
        "0: f+1 replicas signed it, the build passed, and every option matches; 1: the "
        "signatures are valid, and the build did not pass; 2: it proves nothing, or an "
        "option does not match. --repository and --commit are required.",
    )
    check.add_argument("file", metavar="FILE", help="the envelope; - reads it from stdin")
    check.add_argument("--repository", metavar="URL", help="require this repository")
    check.add_argument("--commit", metavar="SHA", help="require this full commit id")
    check.add_argument("--ref", metavar="REF", help="require this full ref, as refs/heads/main")
    check.add_argument(
        "--event", choices=[event.value for event in Event], help="require this event"
    )
    check.add_argument(
        "--target",
        metavar="BRANCH",
        help="require this target of the pull request or merge group, as main",
    )
    check.add_argument(
        "--pipeline-sha256", metavar="HEX", help="require this SHA-256 of the pipeline file"
    )
    check.add_argument(
        "--step", action="append", default=[], metavar="NAME", help="require that this step passed"
    )
    check.add_argument(
        "--artifact", type=Path, metavar="PATH", help="require that this file is an agreed artifact"
    )
    check.add_argument(
        "--sbom",
        type=Path,
        metavar="FILE",
        help="require that this file is the agreed list of all that went in by lock files",
    )
    check.add_argument(
        "--provenance",
        type=Path,
        metavar="FILE",
        help="require that these lines of provenance (attest writes them) name all that went in",
    )
    check.add_argument(
        "--no-network",
        type=Path,
        metavar="FILE",
        help="require that this file is the agreed pipeline file (or Dockerfile), and that none "
        "of its steps that ran has a network",
    )
    check.add_argument(
        "--tests",
        metavar="FILE",
        help="require that this file is the report of test cases that n-f replicas agreed on",
    )
    check.add_argument(
        "--require-test",
        action="append",
        default=[],
        metavar="ID",
        help="require that this test case ran and passed, by the report of --tests",
    )
    check.add_argument(
        "--no-warnings",
        action="store_true",
        help="exit with 1 if the build passed, but with test cases that warned",
    )
    check.add_argument(
        "--no-skipped",
        action="store_true",
        help="exit with 1 if the build passed, but its pipeline's when left a step out",
    )
    check.add_argument(
        "--any", action="store_true", help="accept any build, and show which build it is"
    )
    check.add_argument(
        "--threshold", type=int, metavar="N", help="require N signatures (default and minimum: f+1)"
    )
    check.add_argument(
        "--supplement",
        metavar="FILE",
        help="show from this file which replicas contradicted it later",
    )
    check.add_argument(
        "--no-contradiction",
        action="store_true",
        help="exit with 1 if a replica contradicted it, or by this --supplement still may",
    )
    cluster_flag(check)
    check.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    missing = missing_flags(options)
    if missing:
        raise CommandFailed(
            f"an envelope proves only the build that you name: add {missing} (and --ref,"
            " --event, --step to name one of several builds), or --any to see which build it is",
            EXIT_WRONG,
        )
    if options.no_contradiction and options.supplement is None:
        raise CommandFailed(
            "--no-contradiction: the ballots after the verdict are missing: add --supplement FILE"
            " (client attest BUILD --supplement FILE writes it)",
            EXIT_WRONG,
        )
    if options.require_test and options.tests is None:
        raise CommandFailed(
            "--require-test: the report of the test cases is missing: add --tests FILE", EXIT_WRONG
        )
    cluster = read_cluster(options)
    policy = _policy(options)
    data = _read(options.file)
    verified = _checked(data, options.file, cluster, threshold=options.threshold)
    _print(verified)
    found = mismatches(verified.statement, policy)
    if options.tests is not None:
        report = _read(options.tests, REPORT_BYTES_MAX)
        found += case_mismatches(verified.statement, report, options.require_test)
    if options.no_network is not None:
        pipeline = _read(options.no_network, PIPELINE_BYTES_MAX)
        found += network_mismatches(verified.statement, pipeline)
    if found:
        problems = "; ".join(escape_controls(line) for line in found)
        raise CommandFailed(f"{options.file}: does not match: {problems}", EXIT_WRONG)
    if options.provenance is not None:
        _check_provenance(options, verified.statement, cluster)
    is_contradicted = False
    if options.supplement is not None:
        supplement = _checked_supplement(options, verified, cluster)
        _print_supplement(verified.statement.verdict, supplement)
        is_contradicted = options.no_contradiction and not (
            supplement.fields.is_final
            and not contradicting(verified.statement.verdict, supplement.fields)
        )
    has_unwanted = (options.no_warnings and has_warned(verified.statement)) or (
        options.no_skipped and has_skipped(verified.statement)
    )
    if is_contradicted or has_unwanted or not is_green(verified.statement):
        return EXIT_NOT_PASSED
    return EXIT_DONE


def network_mismatches(statement: StatementView, pipeline: bytes) -> list[str]:
    """Why this is not the agreed pipeline file, or which steps that ran have a network; one line
    each."""
    agreed = pipeline_sha256(statement)
    if agreed is None:
        return ["it names no pipeline file, so it says nothing of networks"]
    if (found := hashlib.sha256(pipeline).hexdigest()) != agreed:
        return [f"the agreed pipeline file has the SHA-256 {agreed}, not {found}"]
    states = {step.name: step.state for step in statement.verdict.steps}
    return [
        f"the step {name} had a network: {network}"
        for name, network in step_networks(pipeline).items()
        if states.get(name) != STEP_SKIPPED
    ]


def _check_provenance(
    options: argparse.Namespace, statement: StatementView, cluster: Cluster
) -> None:
    """Raises CommandFailed if a line is of nobody, of another build, or of one that agreed and
    names other things than the verdict and its list; or if none is of one that agreed."""
    file, bill = options.provenance, None
    if BILL_OF_MATERIALS in artifacts(statement):
        if options.sbom is None:
            raise CommandFailed(
                "--provenance: the list of what went in is missing: add --sbom FILE", EXIT_WRONG
            )
        bill = _read(options.sbom, sum(made.length for made in statement.verdict.artifacts))
    lines = _read(file, LINE_BYTES_MAX * cluster.quorums.replicas).splitlines()
    agreeing = []
    for number, line in enumerate(lines, 1):
        try:
            replica = signer_of(line, cluster, verify)
            said = verify_provenance(line, replica, statement, cluster=cluster, verify=verify)
            problem = None
            if replica in statement.verdict.agreeing:
                agreeing.append(replica)
                problem = provenance_mismatch(said, statement, bill)
        except InvalidProvenance as error:
            problem = str(error)
        if problem is not None:
            raise CommandFailed(f"{file}: line {number}: {problem}", EXIT_WRONG)
    if not agreeing:
        raise CommandFailed(f"{file}: no line is of a replica that agreed", EXIT_WRONG)
    print(f"provenance  complete, by {', '.join(agreeing)}")


def missing_flags(options: argparse.Namespace) -> str:
    """What has to be added for a verdict to be about a build that the consumer named; or nothing.

    Without them any green of the cluster would do, of whatever repository.
    """
    if options.any:
        return ""
    given = {"--repository URL": options.repository, "--commit SHA": options.commit}
    return " and ".join(flag for flag, value in given.items() if value is None)


def _checked(
    data: bytes, file: str, cluster: Cluster, *, threshold: int | None
) -> VerifiedEnvelope:
    try:
        return verify_envelope(data, cluster, verify, threshold=threshold)
    except InvalidEnvelope as error:
        raise CommandFailed(f"{file}: not valid: {error}", EXIT_WRONG) from error
    except ValueError as error:
        raise CommandFailed(f"--threshold: {error}", EXIT_WRONG) from error


def _checked_supplement(
    options: argparse.Namespace, verdict: VerifiedEnvelope, cluster: Cluster
) -> VerifiedSupplement:
    data = _read(options.supplement)
    try:
        return verify_supplement(data, verdict, cluster, verify=verify, threshold=options.threshold)
    except InvalidEnvelope as error:
        raise CommandFailed(f"{options.supplement}: not valid: {error}", EXIT_WRONG) from error


def _policy(options: argparse.Namespace) -> Policy:
    commit = None if options.commit is None else str(options.commit).lower()
    if commit is not None and (problem := check_commit(commit)) is not None:
        raise CommandFailed(f"--commit: {problem}", EXIT_WRONG)
    pipeline = options.pipeline_sha256
    return Policy(
        repository=options.repository,
        commit=commit,
        ref=options.ref,
        event=options.event,
        target=None if options.target is None else branch_ref(options.target),
        pipeline_sha256=None if pipeline is None else str(pipeline).lower(),
        steps=tuple(options.step),
        artifact_sha256=None if options.artifact is None else _sha256_of(options.artifact),
        bill_sha256=None if options.sbom is None else _sha256_of(options.sbom),
    )


def _print(verified: VerifiedEnvelope) -> None:
    verdict = verified.statement.verdict
    code = "" if verdict.exit_code is None else f" {verdict.exit_code}"
    print(f"valid       signed by {', '.join(verified.replicas)}")
    print(f"verdict     {verdict.outcome}{code}")
    print(f"repository  {escape_controls(verdict.repository)}")
    print(f"commit      {verdict.commit or '-'}")
    target = "" if verdict.target is None else f", for {escape_controls(verdict.target)}"
    due = "" if verdict.schedule is None else f", schedule {verdict.schedule}"
    cold = ", without caches" if verdict.is_cold else ""
    print(f"event       {verdict.event}{target}{due}{cold}")
    print(f"ref         {escape_controls(verdict.full_ref)}")
    print(f"pipeline    {pipeline_sha256(verified.statement) or '-'}")
    for step in verdict.steps:
        print(f"step        {escape_controls(step.name)}: {step.state}")
    if verdict.tests is not None:
        _print_cases(verified.statement, verdict.tests)
    print(f"build       {verdict.build}")
    rule = f" ({verdict.agreement} agreement)" if verdict.agreement else ""
    print(f"agreeing    {', '.join(verdict.agreeing) or '-'}{rule}")
    for line in _states(verdict):
        print(line)
    for path, sha256 in artifacts(verified.statement).items():
        print(f"artifact    {sha256}  {escape_controls(path)}")
    print(f"ledger      entry {verdict.ledger_index}")


def _print_cases(statement: StatementView, tests: StatedCases) -> None:
    counts = {
        "passed": tests.passed,
        "failed": tests.failed,
        "quarantined": tests.quarantined or None,
        "warned": tests.warned - tests.quarantined,
        "skipped": tests.skipped,
    }
    known = ", ".join(f"{count} {name}" for name, count in counts.items() if count is not None)
    total = "number not agreed" if tests.total is None else f"{tests.total} cases"
    print(f"tests       {total}: {known}")
    print(f"report      {tests.report_sha256 or 'no report is agreed on'}")
    lists = {
        "failed": statement.predicate.failed_tests,
        "warned": statement.predicate.warned_tests,
        "unsettled": tests.unsettled,
    }
    for name, cases in lists.items():
        for case in cases:
            print(f"{name:<12}{escape_controls(case)}")


def _states(verdict: VerdictFields) -> list[str]:
    """Where not all agreed: what each replica had said when this was decided."""
    if len(verdict.agreeing) == verdict.replicas:
        return []
    lines = []
    for found in verdict.found:
        code = "" if found.exit_code is None else f" {found.exit_code}"
        lines.append(f"found       {found.outcome}{code}: {', '.join(found.replicas)}")
    for abstention in verdict.abstained:
        reason = escape_controls(abstention.reason)
        lines.append(f"abstained   {abstention.replica}: {reason}")
    if verdict.without_ballot:
        lines.append(f"no ballot   {', '.join(verdict.without_ballot)} (until then)")
    return lines


def _print_supplement(verdict: VerdictFields, supplement: VerifiedSupplement) -> None:
    fields = supplement.fields
    print(f"supplement  signed by {', '.join(supplement.replicas)}")
    for late in fields.late_ballots:
        code = "" if late.exit_code is None else f" {late.exit_code}"
        print(
            f"later       {late.replica} {late.stance}: {escape_controls(late.outcome)}{code}"
            f" (ledger entry {late.ledger_index})"
        )
    print(f"contradict  {', '.join(contradicting(verdict, fields)) or '-'}")
    print(f"no ballot   {', '.join(fields.without_ballot) or '-'}")
    print(_until(fields))


def _until(fields: SupplementFields) -> str:
    if fields.is_final:
        return "final       no further ballot is taken"
    return f"not final   ballots after ledger entry {fields.ledger_index} may contradict it"


async def _attest(options: argparse.Namespace) -> int:
    cluster, replicas = cluster_and_replicas(options)
    async with gateway_to_read(options) as gateway:
        build = await gateway.full_id(options.build)
        data = await gateway.attestation(build)
    verified = _checked(data, f"the attestation of {build[:12]}", cluster, threshold=None)
    if verified.statement.verdict.build != build:
        raise CommandFailed(f"the gateway sent the envelope of another build than {build[:12]}")
    envelope_file: Path = options.output or Path(f"{build}.intoto.json")
    stem = envelope_file.name.removesuffix(".json").removesuffix(".intoto")
    provenance_file = envelope_file.with_name(f"{stem}.provenance.intoto.jsonl")
    async with Nodes(replicas) as nodes:
        lines, failures = await provenance_lines(nodes, cluster, verified.statement)
        _write(envelope_file, data)
        _write(provenance_file, b"".join(line + b"\n" for line in lines))
        for failure in failures:
            print(f"no provenance: {failure}", file=sys.stderr)
        print(f"{envelope_file}: signed by {', '.join(verified.replicas)}")
        print(f"{provenance_file}: provenance of {counted(len(lines), 'replica')}")
        if options.supplement is not None:
            await _attest_supplement(nodes, cluster, verified, file=options.supplement)
    return EXIT_DONE


async def _attest_supplement(
    nodes: Nodes, cluster: Cluster, verdict: VerifiedEnvelope, *, file: Path
) -> None:
    try:
        data, supplement = await gather_supplement(nodes, cluster, verdict)
    except NoSupplement as error:
        raise CommandFailed(str(error)) from error
    _write(file, data)
    print(f"{file}: signed by {', '.join(supplement.replicas)}")
    print(_until(supplement.fields))


async def provenance_lines(
    nodes: Nodes, cluster: Cluster, statement: StatementView
) -> tuple[list[bytes], list[str]]:
    """Each replica's own signed provenance of that build, checked; and who gave none, and why."""
    verdict = statement.verdict
    build = bytes.fromhex(verdict.build)
    answers = await asyncio.gather(
        *(nodes.provenance(name, build, verdict.opened) for name in nodes.names),
        return_exceptions=True,
    )
    lines, failures = [], []
    for name, answer in zip(nodes.names, answers, strict=True):
        if isinstance(answer, NodeFailed):
            failures.append(str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            try:
                verify_provenance(answer, name, statement, cluster=cluster, verify=verify)
            except InvalidProvenance as error:
                failures.append(f"{name}: {error}")
            else:
                lines.append(answer)
    return lines, failures


def _read(file: str, bytes_max: int = ENVELOPE_BYTES_MAX) -> bytes:
    """At most as many bytes as the file may have, and one more, which makes it invalid."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(bytes_max + 1)
        with Path(file).open("rb") as stream:
            return stream.read(bytes_max + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error


def _sha256_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error
