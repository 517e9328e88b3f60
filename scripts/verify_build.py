#!/usr/bin/env python3
"""Verify a PBFT/CI verdict before deploying: one file that needs Python and PyNaCl, nothing else.

    pip install pynacl
    python verify_build.py build.intoto.json --trust trust.json --repository URL --commit SHA
        [--ref refs/heads/main] [--event push] [--target main] [--step test] [--artifact FILE]
        [--sbom FILE] [--no-network FILE] [--supplement supplement.json]
        [--no-contradiction] [--tests FILE] [--require-test ID] [--no-warnings] [--no-skipped]
        [--trust-root HEX] [--trust-days N]

`trust.json` holds the cluster's id and the replicas' public keys; `python -m client trust` makes
it from the cluster file. Get it once, from somebody you trust, and keep it beside the pipeline:
whoever can change it decides what you deploy. `python -m client trust --refresh trust.json` renews
it after a change of members, and dates it; a dated file is refused once it is --trust-days old.

Exit code 0: signed by f+1 replicas or more, passed, and about what was asked for; 1: it holds,
and the build did not pass; 2: it proves nothing, or is about something else. Repository and commit
have to be asked for, else any green of the cluster would do (`--any` only shows it).

The rules are those of `python -m client verify`. This file repeats them instead of importing them,
so that one file is all there is to read and to copy; a test holds the two against each other.
DSSE v1.0.2 (protocol, threshold), in-toto Statement v1.
"""

import argparse
import base64
import binascii
import contextlib
import hashlib
import json
import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
BILL_OF_MATERIALS = "pbft-ci/sbom.cdx.json"
# of an outcome that is no test result: cancelled, disputed, skipped, ...
OUTCOME_TYPE = "urn:pbft-ci:outcome:v1"
# who contradicted a verdict later
SUPPLEMENT_TYPE = "urn:pbft-ci:late-ballots:v1"
TESTED = ("passed", "failed", "timed_out", "out_of_memory")
ENVELOPE_BYTES_MAX = 1024 * 1024
TRUST_BYTES_MAX = 1024 * 1024
# 20,000 test cases with an id of 512 characters each
REPORT_BYTES_MAX = 20_000 * (4 * 512 + 9)
PIPELINE_BYTES_MAX = 64 * 1024
NETWORK_COMMENT = re.compile(r"^\s*#\s*pbft-ci\s+network\s*:(.*)", re.IGNORECASE | re.MULTILINE)
SIGNATURES_MAX = 256
TRUST_FORMAT = 1
TRUST_DAYS = 30
# More changes of members than a cluster makes.
EARLIER_EPOCHS_MAX = 1000

EXIT_PASSED = 0
EXIT_NOT_PASSED = 1
EXIT_INVALID = 2


class Invalid(Exception):
    """It proves nothing, or not what was asked for; one line why."""


def main(arguments: list[str] | None = None) -> int:
    """Run the program; gives its exit code."""
    parser = argparse.ArgumentParser(
        description="Verify a PBFT/CI verdict offline. Exit code 0: passed and all matches; "
        "1: holds, but not passed; 2: proves nothing, or is about something else."
    )
    parser.add_argument("envelope", metavar="ENVELOPE", help="the downloaded build.intoto.json")
    parser.add_argument("--trust", required=True, metavar="FILE", help="the cluster's public keys")
    parser.add_argument("--repository", metavar="URL", help="require this repository")
    parser.add_argument("--commit", metavar="SHA", help="require this full commit id")
    parser.add_argument("--ref", metavar="REF", help="require this full ref, as refs/heads/main")
    parser.add_argument(
        "--event",
        choices=("push", "tag", "pull_request", "merge_group", "cron"),
        help="require this event",
    )
    parser.add_argument(
        "--target",
        metavar="BRANCH",
        help="require this target of the pull request or merge group, as main",
    )
    parser.add_argument(
        "--pipeline-sha256", metavar="HEX", help="require this SHA-256 of the pipeline file"
    )
    parser.add_argument(
        "--step", action="append", default=[], metavar="NAME", help="require that this step passed"
    )
    parser.add_argument(
        "--any", action="store_true", help="accept any build, and show which build it is"
    )
    parser.add_argument(
        "--artifact", metavar="PATH", help="require that this file is an agreed artifact"
    )
    parser.add_argument(
        "--sbom",
        metavar="FILE",
        help="require that this file is the agreed list of all that went in by lock files",
    )
    parser.add_argument(
        "--no-network",
        metavar="FILE",
        help="require that this file is the agreed pipeline file (or Dockerfile), and that none "
        "of its steps that ran has a network; needs PyYAML",
    )
    parser.add_argument(
        "--tests",
        metavar="FILE",
        help="require that this file is the report of test cases that n-f replicas agreed on",
    )
    parser.add_argument(
        "--require-test",
        action="append",
        default=[],
        metavar="ID",
        help="require that this test case ran and passed, by the report of --tests",
    )
    parser.add_argument(
        "--no-warnings",
        action="store_true",
        help="exit with 1 if the build passed, but with test cases that warned",
    )
    parser.add_argument(
        "--no-skipped",
        action="store_true",
        help="exit with 1 if the build passed, but its pipeline's when left a step out",
    )
    parser.add_argument(
        "--threshold", type=int, metavar="N", help="require N signatures (default and minimum: f+1)"
    )
    parser.add_argument(
        "--supplement",
        metavar="FILE",
        help="show from this file which replicas contradicted it later",
    )
    parser.add_argument(
        "--no-contradiction",
        action="store_true",
        help="exit with 1 if a replica contradicted it, or by this --supplement still may",
    )
    parser.add_argument(
        "--trust-root",
        metavar="HEX",
        help="require that FILE goes back to the epoch that has this fingerprint",
    )
    parser.add_argument(
        "--trust-days",
        type=int,
        default=TRUST_DAYS,
        metavar="N",
        help="refuse a FILE whose date is longer ago (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.no_contradiction and options.supplement is None:
            raise Invalid("--no-contradiction needs --supplement FILE")
        if options.require_test and options.tests is None:
            raise Invalid("--require-test needs --tests FILE")
        if not options.any and (options.repository is None or options.commit is None):
            raise Invalid(
                "add --repository URL and --commit SHA, or --any to see which build it is"
            )
        trust = read_trust(Path(options.trust))
        verify_root(trust, options.trust_root)
        verify_age(trust, options.trust_days)
        envelope, threshold = Path(options.envelope), options.threshold
        payload, signers, signed_in = verify_signatures(envelope, trust, threshold)
        verdict = verify_statement(payload, trust, options, signed_in=signed_in)
        if options.tests is not None:
            verify_cases(Path(options.tests), verdict["tests"], options.require_test)
        lines: list[str] = []
        is_uncontradicted = False
        if options.supplement is not None:
            # of members who may speak of this verdict at all
            later, _, _ = verify_signatures(
                Path(options.supplement), trust, threshold, since=verdict["epoch"]
            )
            lines, is_uncontradicted = verify_supplement(later, payload)
    except Invalid as error:
        print(f"invalid: {error}", file=sys.stderr)
        return EXIT_INVALID
    print(f"valid: {verdict['outcome']}, signed by {', '.join(signers)}")
    for name in ("repository", "commit", "event", "ref", "target", "pipeline"):
        if verdict[name] is not None:
            print(f"{name}: {shown(verdict[name])}")
    for name, state in verdict["steps"].items():
        print(f"step {shown(name)}: {shown(state)}")
    for line in (*verdict["cases"], *lines):
        print(line)
    if options.no_contradiction and not is_uncontradicted:
        return EXIT_NOT_PASSED
    if options.no_warnings and verdict["result"] == "WARNED":
        return EXIT_NOT_PASSED
    if options.no_skipped and "skipped by when" in verdict["steps"].values():
        return EXIT_NOT_PASSED
    return EXIT_PASSED if verdict["outcome"] == "passed" else EXIT_NOT_PASSED


def read_trust(file: Path) -> dict[str, Any]:
    """The trusted keys: {"format", "cluster", "faults_max", "replicas": {name: hex}}; of a later
    epoch also its number as `epoch` and its id as `instance`."""
    trust = read_json(read_file(file, TRUST_BYTES_MAX), str(file))
    if (found := trust.get("format")) != TRUST_FORMAT:
        what = f"has format {found}" if isinstance(found, int) else "is no trust file"
        raise Invalid(
            f"{file}: it {what}, this version reads {TRUST_FORMAT}; make it again (python -m client"
            " trust), or use verify_build.py of the version that wrote it"
        )
    if not isinstance(trust.get("cluster"), str):
        raise Invalid(f"{file}: `cluster` is missing")
    present = read_epoch(file, trust)
    earlier = trust.get("earlier", [])
    if not isinstance(earlier, list) or len(earlier) > EARLIER_EPOCHS_MAX:
        raise Invalid(f"{file}: `earlier` is not a list of epochs")
    epochs = [read_epoch(file, epoch) for epoch in earlier]
    numbers = [epoch["epoch"] for epoch in (*epochs, present)]
    if numbers != sorted(set(numbers)):
        raise Invalid(f"{file}: its epochs are not in order")
    root = trust.get("root", present["instance"] or trust["cluster"])
    if not isinstance(root, str):
        raise Invalid(f"{file}: `root` is no fingerprint")
    confirmed = trust.get("confirmed")
    try:
        day = None if confirmed is None else date.fromisoformat(confirmed)
    except (TypeError, ValueError) as error:
        raise Invalid(f"{file}: `confirmed` is no date") from error
    return {
        "cluster": trust["cluster"],
        **present,
        "earlier": epochs,
        "root": root,
        "confirmed": day,
    }


def read_epoch(file: Path, trust: object) -> dict[str, Any]:
    """The keys of one epoch, and how many of their owners may lie. Raises Invalid."""
    if not isinstance(trust, dict):
        raise Invalid(f"{file}: an epoch is not an object")
    replicas, faults_max = trust.get("replicas"), trust.get("faults_max")
    if not isinstance(replicas, dict):
        raise Invalid(f"{file}: `replicas` is missing")
    if type(faults_max) is not int or not 0 <= 3 * faults_max < len(replicas):
        raise Invalid(f"{file}: `faults_max` does not go with {len(replicas)} replicas")
    epoch, instance = trust.get("epoch", 0), trust.get("instance")
    if type(epoch) is not int or epoch < 0 or isinstance(instance, str) is not (epoch > 0):
        raise Invalid(f"{file}: `epoch` and `instance` do not go together")
    try:
        keys = {name: bytes.fromhex(key) for name, key in replicas.items()}
    except (TypeError, ValueError) as error:
        raise Invalid(f"{file}: a key is not hexadecimal") from error
    if any(len(key) != 32 for key in keys.values()) or len(set(keys.values())) != len(keys):
        raise Invalid(f"{file}: each replica needs a key of its own, of 32 bytes")
    return {"epoch": epoch, "instance": instance, "faults_max": faults_max, "replicas": keys}


def verify_root(trust: dict[str, Any], wanted: str | None) -> None:
    """Does the file go back to that fingerprint? Raises Invalid."""
    if wanted is not None and trust["root"] != wanted.lower():
        raise Invalid(f"the trust file goes back to {shown(trust['root'])}, not to {wanted}")


def verify_age(trust: dict[str, Any], days_max: int) -> None:
    """Is the file's date not too long ago? One without a date has no age. Raises Invalid."""
    if trust["confirmed"] is None:
        return
    days = (datetime.now(UTC).date() - trust["confirmed"]).days
    if days > days_max:
        raise Invalid(
            f"the trust file is {days} days old, and {days_max} are allowed: renew it (python -m"
            " client trust --refresh FILE), or allow more (--trust-days N)"
        )
    # a day, for machines whose clocks differ about midnight
    if days < -1:
        raise Invalid(f"the trust file is of {trust['confirmed']}, a day to come: see the clock")


def verify_signatures(
    file: Path, trust: dict[str, Any], threshold: int | None, *, since: int = 0
) -> tuple[bytes, list[str], dict[str, Any]]:
    """The payload that enough replicas of one epoch signed, who did, each counted once, and that
    epoch: the newest one.

    threshold: how many are needed, f+1 of the epoch where it is None. since: the first epoch whose
    replicas count.
    """
    if threshold is not None and threshold <= trust["faults_max"]:
        raise Invalid(f"a threshold of {threshold} proves nothing: {trust['faults_max']} may lie")
    envelope = read_json(read_file(file, ENVELOPE_BYTES_MAX), str(file))
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise Invalid(f"the payload type is not {PAYLOAD_TYPE}")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) > SIGNATURES_MAX:
        raise Invalid("`signatures` is not a list, or too long")
    payload = decode_base64(envelope.get("payload"))
    kind = PAYLOAD_TYPE.encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    found = []
    for entry in signatures:
        if not isinstance(entry, dict) or not isinstance(entry.get("keyid", ""), str):
            raise Invalid("a signature is not an object with a keyid")
        if not isinstance(entry.get("sig", ""), str):
            raise Invalid("a signature is not text")
        # one spoilt signature must not spoil the others
        with contextlib.suppress(Invalid):
            found.append(decode_base64(entry.get("sig", "")))
    counted = []
    # votes of two epochs never add up: each has its own faults
    for epoch in (trust, *reversed(trust["earlier"])):
        if epoch["epoch"] < since:
            continue
        # the keyid is an unauthenticated hint, so every key is tried
        signers = [
            name
            for name, key in epoch["replicas"].items()
            if any(holds(key, message, signature) for signature in found)
        ]
        needed = max(threshold or 0, epoch["faults_max"] + 1)
        if len(signers) >= needed:
            return payload, signers, epoch
        counted.append(f"{len(signers)} replicas; {needed} are needed")
    if not counted:
        raise Invalid(f"the trust file has no replicas of epoch {since} or later")
    raise Invalid(f"signed by {counted[0]}")


def verify_statement(
    payload: bytes,
    trust: dict[str, Any],
    options: argparse.Namespace,
    *,
    signed_in: dict[str, Any],
) -> dict[str, Any]:
    """What the statement says, if it is one of this cluster and about what was asked for.

    signed_in: the epoch whose replicas signed it, who attest nothing of a later one.
    """
    statement = read_json(payload, "the statement")
    try:
        subjects, predicate = statement["subject"], statement["predicate"]
        verdict: dict[str, Any] = predicate["pbftci_verdict"]
        configuration = predicate.get("configuration") or [{"digest": {}}]
        commits = [s["digest"]["gitCommit"] for s in subjects if "gitCommit" in s["digest"]]
        artifacts = [s["digest"]["sha256"] for s in subjects[1:] if "sha256" in s["digest"]]
        bills = [s["digest"]["sha256"] for s in subjects[1:] if s["name"] == BILL_OF_MATERIALS]
        said: dict[str, Any] = {
            "epoch": verdict["epoch"],
            "outcome": verdict["outcome"],
            "repository": verdict["repository"],
            "commit": verdict["commit"],
            "event": verdict["event"],
            # of older versions: None for a branch
            "ref": verdict["ref"] or f"refs/heads/{verdict['branch']}",
            "target": verdict.get("target"),
            "pipeline": verdict.get("pipelineSha256") or configuration[0]["digest"].get("sha256"),
            "steps": {step["name"]: step["state"] for step in verdict.get("steps", [])},
            "result": predicate.get("result"),
            # None in statements without test cases, as are all of older versions
            "tests": verdict.get("tests"),
            "cases": case_lines(predicate),
        }
        cluster, epoch = verdict["clusterId"], verdict["epoch"]
        instance = verdict.get("instance")
        is_ours = is_right_predicate(statement["predicateType"], said)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise Invalid(f"the statement lacks {error}") from error
    if statement.get("_type") != STATEMENT_TYPE or not is_ours:
        raise Invalid("not an in-toto v1 statement with a test result or an outcome")
    if cluster != trust["cluster"]:
        raise Invalid("the statement is of another cluster")
    if type(epoch) is not int or epoch > trust["epoch"]:
        raise Invalid(
            f"the statement is of epoch {epoch}, and the trust file of epoch {trust['epoch']}; take"
            " the newer trust file"
        )
    if epoch > signed_in["epoch"]:
        raise Invalid(
            f"the statement is of epoch {epoch}, and signed by replicas of epoch"
            f" {signed_in['epoch']} alone"
        )
    if epoch and epoch == signed_in["epoch"] and instance != signed_in["instance"]:
        raise Invalid("the statement is of another cluster that continues the same one")
    if options.commit is not None and options.commit.lower() not in commits:
        raise Invalid(f"it is about {', '.join(commits) or 'no commit'}, not {options.commit}")
    for name, wanted in (
        ("repository", options.repository),
        ("ref", options.ref),
        ("event", options.event),
        ("target", None if options.target is None else branch_ref(options.target)),
        ("pipeline", options.pipeline_sha256 and options.pipeline_sha256.lower()),
    ):
        if wanted is not None and said[name] != wanted:
            raise Invalid(f"its {name} is {said[name]!r}, not {wanted!r}")
    for name in options.step:
        if said["steps"].get(name) != "ran":
            state = said["steps"].get(name, "not named")
            raise Invalid(f"the step {name!r} is not shown to have run and passed: {state}")
    if options.artifact is not None and sha256_of(Path(options.artifact)) not in artifacts:
        raise Invalid(f"{options.artifact} is none of its {len(artifacts)} artifacts")
    if options.sbom is not None and [sha256_of(Path(options.sbom))] != bills:
        raise Invalid(f"{options.sbom} is not its list of what went in ({BILL_OF_MATERIALS})")
    if options.no_network is not None:
        verify_no_network(Path(options.no_network), said)
    return said


def verify_no_network(file: Path, said: dict[str, Any]) -> None:
    """Is the file the agreed pipeline file, and did no step of it that ran ask for a network?"""
    data = read_file(file, PIPELINE_BYTES_MAX)
    if said["pipeline"] is None:
        raise Invalid("it names no pipeline file, so it says nothing of networks")
    if hashlib.sha256(data).hexdigest() != said["pipeline"]:
        raise Invalid(f"{file} is not the agreed pipeline file ({said['pipeline']})")
    try:
        import yaml
    except ImportError as error:
        raise Invalid("--no-network needs PyYAML: pip install PyYAML") from error
    try:
        pipeline = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError):
        pipeline = None
    if isinstance(pipeline, dict) and ("steps" in pipeline or "commands" in pipeline):
        networks = {
            step["name"]: step.get("network", pipeline.get("network"))
            for step in pipeline.get("steps") or [{"name": "build"}]
        }
    else:
        named = NETWORK_COMMENT.search(data.decode(errors="replace"))
        networks = {"RUN": None if named is None else named[1]}
    for name, network in networks.items():
        if network and said["steps"].get(name) != "skipped by when":
            raise Invalid(f"the step {name} had a network: {shown(network)}")


def branch_ref(name: str) -> str:
    """The full name of a branch that is given by its full or its short name."""
    return name if name.startswith("refs/") else f"refs/heads/{name}"


def verify_supplement(payload: bytes, verdict: bytes) -> tuple[list[str], bool]:
    """What a supplement to that very verdict says, and whether nobody ever contradicted that."""
    supplement = read_json(payload, "the supplement")
    try:
        if (supplement["_type"], supplement["predicateType"]) != (STATEMENT_TYPE, SUPPLEMENT_TYPE):
            raise Invalid(f"not an in-toto v1 statement with {SUPPLEMENT_TYPE}")
        said = supplement["predicate"]
        if said["verdict"]["sha256"] != hashlib.sha256(verdict).hexdigest():
            raise Invalid("it is the supplement to another verdict")
        decided = json.loads(verdict)["predicate"]["pbftci_verdict"]
        agreeing = decided["agreeing"]
        before = [name for found in decided["found"] for name in found["replicas"]]
        lines = [
            f"later: {late['replica']} {late['stance']}: {shown(late['outcome'])}"
            for late in said["lateBallots"]
        ]
        after = [late["replica"] for late in said["lateBallots"] if late["stance"] == "contradicts"]
        against = [*(name for name in before if name not in agreeing), *after] if agreeing else []
        is_final = said["final"] is True
        lines.append(f"contradicted by: {', '.join(against) or '-'}")
        lines.append(f"without a ballot: {', '.join(said['withoutBallot']) or '-'}")
        end = f"ballots after ledger entry {said['ledgerIndex']} may contradict it"
        lines.append("final: no further ballot is taken" if is_final else f"not final: {end}")
    except (KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"the supplement lacks {error}") from error
    return lines, is_final and not against


def verify_cases(file: Path, tests: dict[str, Any] | None, required: list[str]) -> None:
    """Is the file the agreed report of test cases, and did the required ones run and pass?

    A line for each case: its id, a TAB, `passed`, `warned`, `skipped` or `failed`.
    """
    if tests is None or tests.get("reportSha256") is None:
        raise Invalid("the replicas agreed on no report of test cases")
    report = read_file(file, REPORT_BYTES_MAX)
    if (found := hashlib.sha256(report).hexdigest()) != tests["reportSha256"]:
        raise Invalid(
            f"the agreed report of test cases has the SHA-256 {tests['reportSha256']}, not {found}"
        )
    try:
        lines = report.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise Invalid(f"{file}: not UTF-8") from error
    cases = {case: outcome for case, _, outcome in (line.rpartition("\t") for line in lines)}
    for case in required:
        if cases.get(case) not in ("passed", "warned"):
            raise Invalid(f"the test {case!r} is {cases.get(case, 'not in the report')}")


def case_lines(predicate: dict[str, Any]) -> list[str]:
    """What the statement says of test cases, for people. Raises KeyError, TypeError."""
    tests = predicate["pbftci_verdict"].get("tests")
    if tests is None:
        return []
    known = {name: tests[name] for name in ("total", "passed", "failed", "warned", "skipped")}
    lists = {
        "failed": predicate.get("failedTests", []),
        "warned": predicate.get("warnedTests", []),
        "unsettled": tests["unsettled"],
    }
    known["quarantined"] = tests.get("quarantined") or None
    if not all(count is None or type(count) is int for count in known.values()):
        raise TypeError("numbers of test cases")
    if not all(isinstance(names, list) for names in lists.values()):
        raise TypeError("lists of test cases")
    total = known.pop("total")
    known["warned"] -= known["quarantined"] or 0
    counts = ", ".join(f"{count} {name}" for name, count in known.items() if count is not None)
    return [
        f"tests: {'number not agreed' if total is None else f'{total} cases'}: {counts}",
        f"report: {tests['reportSha256'] or 'no report is agreed on'}",
        *(f"{name}: {shown(case)}" for name, cases in lists.items() for case in cases),
    ]


def is_right_predicate(kind: str, said: dict[str, Any]) -> bool:
    """Does the predicate go with the outcome? Older versions made a test result of each."""
    outcome = said["outcome"]
    if kind == TEST_RESULT_TYPE:
        passed = "WARNED" if said["tests"] is not None and said["tests"]["warned"] > 0 else "PASSED"
        return bool(said["result"] == (passed if outcome == "passed" else "FAILED"))
    return kind == OUTCOME_TYPE and outcome not in TESTED


def shown(text: object) -> str:
    """A stranger's text for a terminal."""
    return str(text) if str(text).isprintable() else ascii(text)


def holds(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Is this the Ed25519 signature of that key's owner?"""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def read_file(file: Path, bytes_max: int) -> bytes:
    """The file's bytes. Raises Invalid, also where there are more than bytes_max."""
    try:
        with file.open("rb") as stream:
            data = stream.read(bytes_max + 1)
    except OSError as error:
        raise Invalid(f"{file}: cannot be read ({error.strerror})") from error
    if len(data) > bytes_max:
        raise Invalid(f"{file}: more than {bytes_max} bytes")
    return data


def read_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in these bytes. Raises Invalid."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{what}: not JSON") from error
    if not isinstance(value, dict):
        raise Invalid(f"{what}: not a JSON object")
    return value


def decode_base64(text: object) -> bytes:
    """Base64, standard or URL-safe, as DSSE asks. Raises Invalid."""
    if not isinstance(text, str):
        raise Invalid("base64 text is missing")
    try:
        standard = text.encode("ascii").translate(bytes.maketrans(b"-_", b"+/"))
        return base64.b64decode(standard, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Invalid("not base64") from error


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises Invalid."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Invalid(f"{file}: cannot be read ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
