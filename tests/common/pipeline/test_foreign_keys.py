"""What other CI servers call things: each of their documented keys has a sentence, at its place."""

import json
import re
from collections.abc import Iterator

import pytest

from ci.limits import Limits
from common.pipeline.foreign_keys import ANYWHERE, EVENT, FILE, FOREIGN_KEYS, advice
from common.pipeline.pipeline_file import (
    CACHE_KEYS,
    CLONE_KEYS,
    EVENTS,
    KEYS,
    PATH_KEYS,
    READY_KEYS,
    RESOURCE_KEYS,
    SERVICE_KEYS,
    STEP_KEYS,
    TESTS_KEYS,
    WHEN_KEYS,
    PipelineInvalid,
    parse_pipeline,
)

LIMITS = Limits()
KNOWN = {
    "the file": KEYS,
    "a step": STEP_KEYS,
    "a service": SERVICE_KEYS,
    "when": WHEN_KEYS,
    "a cache": CACHE_KEYS,
    "path": PATH_KEYS,
    "clone": CLONE_KEYS,
    "tests": TESTS_KEYS,
    "ready": READY_KEYS,
    "resources": RESOURCE_KEYS,
    "event": EVENTS,
}
# The keys of each system by the place at which somebody writes them who begins with an old file.
# A job of GitLab, GitHub or CircleCI becomes a step, so its keys are tried there and at the top.
DOCUMENTED = {
    # woodpecker-ci/woodpecker 0a0a89a4, pipeline/frontend/yaml/linter/schema/schema.json; docs 3.x
    "Woodpecker": {
        "the file": "variables clone skip_clone branches when steps pipeline services workspace"
        " matrix platform labels depends_on runs_on version $schema",
        "a step": "name image privileged pull commands environment directory secrets settings when"
        " volumes group depends_on detach failure backend_options entrypoint dns tmpfs devices",
        "a service": "name image privileged pull commands environment directory secrets settings"
        " when volumes depends_on backend_options entrypoint ports tmpfs devices",
        "path": "include exclude on_empty ignore_message",
        "when": "repo branch event ref cron status platform environment matrix instance path"
        " evaluate",
        "clone": "git depth recursive partial lfs tags",
        "event": "push pull_request pull_request_closed pull_request_metadata tag deployment"
        " release cron manual",
    },
    # SchemaStore/schemastore 05e73cc5, drone.json (docker, kubernetes)
    "Drone": {
        "the file": "kind type name platform workspace clone steps trigger depends_on environment"
        " volumes services image_pull_secrets node concurrency metadata tolerations dns_config"
        " host_aliases node_selector service_account_name get data",
        "a step": "name image network_mode privileged pull volumes settings detach failure commands"
        " environment when depends_on user entrypoint command devices resources",
        "a service": "name image command entrypoint environment privileged pull volumes"
        " working_dir ports",
        "when": "branch cron event paths ref repo status target instance",
        "clone": "depth disable retries",
        "event": "push pull_request tag cron custom promote rollback",
    },
    # gitlabhq/gitlabhq 0286e4c6, app/assets/javascripts/editor/schema/ci.json
    "GitLab": {
        "the file": "spec image services before_script after_script variables cache default stages"
        " include pages workflow",
        "a step": "after_script allow_failure artifacts before_script cache coverage"
        " dast_configuration dependencies environment except extends id_tokens identity hooks image"
        " inherit interruptible manual_confirmation needs only pages parallel release"
        " resource_group retry rules run script secrets services stage start_in tags timeout"
        " trigger variables when",
        "a service": "name alias entrypoint command variables pull_policy docker",
        "when": "if changes exists variables",
        "a cache": "key paths untracked unprotect when policy fallback_keys",
        "event": "merge_request_event web schedule api pipeline trigger external",
    },
    # github/docs, workflow syntax
    "GitHub": {
        "the file": "name run-name on permissions env defaults concurrency jobs",
        "a step": "id if name uses run working-directory shell with env continue-on-error"
        " timeout-minutes permissions needs runs-on environment concurrency outputs defaults steps"
        " strategy container services secrets",
        "a service": "image credentials env ports volumes options command entrypoint",
        "when": "branches branches-ignore tags tags-ignore paths paths-ignore types cron",
        "a cache": "key path restore-keys",
        "event": "push pull_request pull_request_target workflow_dispatch schedule release"
        " workflow_call repository_dispatch deployment merge_group",
    },
    # the configuration reference of CircleCI
    "CircleCI": {
        "the file": "version setup orbs commands parameters executors jobs workflows",
        "a step": "docker machine macos steps resource_class working_directory parallelism"
        " environment branches shell executor parameters run checkout save_cache restore_cache"
        " store_artifacts store_test_results persist_to_workspace attach_workspace add_ssh_keys"
        " setup_remote_docker when unless requires context filters matrix type",
        "a cache": "key keys paths name when",
    },
    # the documentation of Travis CI
    "Travis": {
        "the file": "language os dist arch sudo python node_js go rust jdk compiler cache services"
        " addons env jobs matrix stages before_install install before_script script after_success"
        " after_failure after_script before_deploy deploy after_deploy before_cache branches git"
        " notifications if version import",
        "a cache": "directories timeout",
    },
}
# these look so much like ours that the parser names that one
NEAREST = {("a step", "command"): "commands", ("when", "branches"): "branch"}


def documented() -> Iterator[tuple[str, str, str]]:
    for system, places in DOCUMENTED.items():
        for place, keys in places.items():
            for key in keys.split():
                yield system, place, key


def errors_at(place: str, key: str) -> list[str]:
    """What the parser says of that key at that place, in a file with nothing else wrong."""
    file: dict[str, object] = {"image": "a"}
    step: dict[str, object] = {"name": "s", "commands": ["x"]}
    service: dict[str, object] = {"name": "d", "image": "a"}
    when: dict[str, object] = {}
    path: dict[str, object] = {}
    clone: dict[str, object] = {"depth": 1}
    cache: dict[str, object] = {"name": "c", "paths": ["p"], "files": ["f"]}
    inner: dict[str, dict[str, object]] = {
        "the file": file,
        "a step": step,
        "a service": service,
        "when": when,
        "path": path,
        "clone": clone,
        "a cache": cache,
        "ready": service.setdefault("ready", {}),  # type: ignore[dict-item]
        "resources": file.setdefault("resources", {}),  # type: ignore[dict-item]
    }
    if place == "path":
        when["path"] = path
    if place == "clone":
        file["clone"] = clone
    if place == "a cache":
        file["cache"] = [cache]
    if place == "event":
        when["event"] = key
    else:
        inner[place][key] = "x"
    text = json.dumps({**file, "steps": [{**step, "when": when}], "services": [service]})
    found = parse_pipeline(text.encode(), LIMITS)
    return [] if not isinstance(found, PipelineInvalid) else list(found.texts)


@pytest.mark.parametrize("system", DOCUMENTED)
def test_each_documented_key_is_known_or_says_what_to_write(system: str) -> None:
    missing = []
    for _, place, key in (entry for entry in documented() if entry[0] == system):
        if key in KNOWN[place]:
            continue
        told = " ".join(errors_at(place, key))
        near = NEAREST.get((place, key))
        wanted = "is not there; " if near is None else f'did you mean "{near}"'
        if wanted not in told:
            missing.append((place, key))
    assert missing == []


def test_each_place_of_the_table_is_one_of_the_parser() -> None:
    assert FOREIGN_KEYS.keys() - {ANYWHERE} == KNOWN.keys()


def test_no_sentence_is_for_a_key_that_is_known_at_its_place() -> None:
    for place, keys in KNOWN.items():
        assert not FOREIGN_KEYS[place].keys() & set(keys), place


def test_each_sentence_fits_an_error_and_names_only_keys_that_are_there() -> None:
    """A sentence that says "write X" must not send anybody to another error."""
    known = {key for keys in KNOWN.values() for key in keys} | {"cd", "if"}
    known |= {"what", "the", "each"}
    for place, table in FOREIGN_KEYS.items():
        for key, sentence in table.items():
            assert len(sentence) <= 160, (place, key)
            for word in re.findall(r"\bwrite ([a-z_]+)", sentence):
                assert word in known | {"a", "one", "it"}, (place, key, sentence)


@pytest.mark.parametrize("name", ["unit-test", "build"])
def test_a_job_at_the_top_is_told_from_a_misspelt_key(name: str) -> None:
    text = f"image: a\ncommands: [x]\n{name}:\n  script: [make]\n"
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert "it is a job" in found.text
    assert advice(FILE, name) is None


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("image: a\nsteps:\n  build:\n    commands: [x]\n", 2, '"- name: build"'),
        ("image: a\ncommands: [x]\nservices:\n  postgres: {image: p}\n", 3, '"- name: postgres"'),
        (
            "image: a\ncommands: [x]\nenvironment:\n  TOKEN: {from_secret: token}\n",
            4,
            "after the verdict",
        ),
        (
            "image: a\nsteps:\n  - name: s\n    commands: [x]\n    when:\n      - event: push\n",
            5,
            "one mapping",
        ),
        (
            "image: a\nsteps:\n  - name: s\n    commands: [x]\n    when:\n      event: manual\n",
            6,
            "client submit",
        ),
    ],
)
def test_values_of_other_systems_are_named_with_what_to_write(
    text: str, line: int, told: str
) -> None:
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert found.line == line, found.text
    assert told in found.text


def test_every_event_of_the_table_is_told() -> None:
    for event in FOREIGN_KEYS[EVENT]:
        assert event in EVENTS or any("is not there" in told for told in errors_at("event", event))
