"""What other CI servers call things, and what to write here instead. Pure.

The systems are Woodpecker, Drone, GitLab CI, GitHub Actions, CircleCI and Travis CI. The table is
asked only about keys that are not known at their place. Whoever adds a key removes its row.
docs/COMING_FROM.md has whole files.
"""

from collections.abc import Mapping

# Places in a pipeline file, as its errors name them.
FILE = "the file"
STEP = "a step"
SERVICE = "a service"
WHEN = "when"
CACHE = "a cache"
PATH = "path"
CLONE = "clone"
TESTS = "tests"
READY = "ready"
RESOURCES = "resources"
# of the name that is repeated in an error
NAME_CHARACTERS_MAX = 32
# what stands behind `event`
EVENT = "event"
ANYWHERE = ""

_NO_SECRETS = (
    "a build has no secrets: do what needs one after the verdict, on a machine that first runs"
    " python -m client verify"
)
_ONE_LIST = "write one list of steps, which run in order in one workspace"
_WHEN = "write when in a step, with branch and event"
_COMMANDS = "write commands in a step"
_CACHE = "write cache at the top: a list, each entry with name, paths and files"
_KEY = "the key is made of the content of files: name lock files there"
_NO_FALLBACK = "only an entry whose files are all equal is used: leave it out"
_WHO_WRITES = "the operators name the branches whose builds fill caches: leave it out"
_IMAGE = "write image: each step runs in a container"
_NO_PLUGINS = "there are no plugins: write the commands that it runs"
_MATRIX = "write matrix at the top, with axes: each is a variable of the steps"
_NOT_HERE = "a pipeline does not choose its machines: leave it out"
_NO_PRIVILEGES = "a build has no privileges and no devices: leave it out"
_DEPLOY = "a build publishes nothing: name the files in artifacts, and fetch them after the verdict"
_REPORTS = "leave it out: the gateway posts commit statuses, and webhooks tell others of verdicts"
_TESTS = "write tests at the top, with junit, a list of paths"
_NO_FILES = "a pipeline is one file: write what it includes here"
_SCHEDULE = "operators keep schedules (client.yml); a step chooses by when: {cron: NAME}"
_NO_RETRY = "each replica runs a build once: let the commands repeat what may fail"
_SOURCES = "leave it out: the commit's files are in /workspace before the first step"
_NEWER = "the gateway cancels older builds of a branch itself, if it is set to: leave it out"
_MODULES = "leave it out: submodules are there if the operators list their repositories"
_PATHS = "write path, with include and exclude: it is for pull requests and merge groups"
_FIXED_FOLDERS = "the folders are the same in each build: steps begin in /workspace; write cd"
_NETWORK = "write network in a step: true, or a list of the hosts that it reaches, by name"
_NAME = "leave it out: a repository has one pipeline, and it has no name"
_LANGUAGE = "write image, such as python:3.12, and the commands that install and test"


def _each(keys: str, sentence: str) -> dict[str, str]:
    return dict.fromkeys(keys.split(), sentence)


# Place -> key -> sentence. What is found at its place goes before what is meant anywhere.
FOREIGN_KEYS: Mapping[str, Mapping[str, str]] = {
    ANYWHERE: {
        **_each("services service", "write services at the top, beside steps"),
        **_each("matrix strategy parallel parallelism", _MATRIX),
        **_each("secrets secret from_secret id_tokens identity image_pull_secrets", _NO_SECRETS),
        **_each("credentials add_ssh_keys add-ssh-keys vault", _NO_SECRETS),
        **_each("settings plugins uses with orbs addons", _NO_PLUGINS),
        **_each("cache caches volumes save_cache restore_cache before_cache", _CACHE),
        **_each("depends_on needs dependencies requires group job", _ONE_LIST),
        **_each("jobs stages stage pipeline pipelines workflows workflow", _ONE_LIST),
        **_each("persist_to_workspace attach_workspace", _ONE_LIST),
        **_each("allow_failure allow_failures ignore continue-on-error", "write failure: ignore"),
        **_each("clone checkout git", "write clone at the top, with depth and tags"),
        "skip_clone": _SOURCES,
        **_each("on only except rules trigger if condition unless filters", _WHEN),
        **_each("cron schedule schedules triggers", _SCHEDULE),
        **_each("script run before_script before_install install shell", _COMMANDS),
        "after_script": "write a step with when: {status: [success, failure]}",
        "after_success": "write a step behind the others",
        "after_failure": "write a step with when: {status: failure}",
        **_each("env variables global", "write environment, a mapping of names to texts"),
        **_each("privileged detach devices cap_add security_opt", _NO_PRIVILEGES),
        **_each("runs-on runs_on container docker executor executors machine", _IMAGE),
        **_each("macos windows arch os dist sudo platform platforms node", _NOT_HERE),
        **_each("tags labels runner resource_class backend_options tolerations", _NOT_HERE),
        **_each("node_selector service_account_name metadata dns_config", _NOT_HERE),
        **_each("timeout timeout-minutes timeout_minutes", "write timeout_seconds"),
        **_each("retry retries attempts", _NO_RETRY),
        **_each("include extends inherit default defaults parameters", _NO_FILES),
        **_each("import templates load yaml reference spec inputs anchors", _NO_FILES),
        **_each("concurrency interruptible resource_group", _NEWER),
        "permissions": "leave it out: a build has no token of the forge",
        **_each("outputs id dotenv", "write what later steps need into a file in /workspace"),
        **_each("workspace working-directory working_directory working_dir", _FIXED_FOLDERS),
        **_each("directory base path", _FIXED_FOLDERS),
        **_each("deploy release pages publish before_deploy after_deploy", _DEPLOY),
        **_each("store_artifacts", "write artifacts at the top, a list of paths"),
        **_each("notifications notify coverage webhooks badges", _REPORTS),
        **_each("reports test_results test_reports junit store_test_results", _TESTS),
        "tests": "write it at the top: it is for all steps",
        **_each("kind type version name title run-name $schema setup", _NAME),
        **_each("network_mode egress egress-policy", _NETWORK),
        **_each("allowed-endpoints allowed_endpoints allowed_hosts", _NETWORK),
        **_each("pull pull_policy", "leave it out: each replica resolves a tag for each build"),
        **_each("user", "a step runs as nobody (65534): leave it out"),
        **_each("entrypoint", "a step runs its commands with sh: write commands"),
        **_each("branch event status path", _WHEN),
        **_each("language python node_js go rust jdk compiler ruby php", _LANGUAGE),
        **_each("hooks", _COMMANDS),
        **_each(
            "dns extra_hosts host_aliases", "a build's names are the same everywhere: leave it out"
        ),
        **_each("context contexts", _NO_SECRETS),
        "tmpfs": "/workspace, $HOME and /tmp are writable in each step: leave it out",
        **_each("dast_configuration data get", _NO_FILES),
        **_each("start_in manual_confirmation", "a build begins at once: leave it out"),
        **_each("setup_remote_docker dind", "a build has no engine: leave it out"),
        **_each("artifacts agreement resources", "write it at the top: it is for the whole build"),
        **_each("memory cpus pids mem_limit cpu_quota", "write resources at the top"),
        "commands": "write it in a step, or at the top without steps",
    },
    FILE: {
        "default": "write image and environment at the top",
        "branches": "write when in each step that it is for, with branch",
        "when": "write it in each step that it is for",
        "failure": "write it in each step that it is for",
        "trigger": "write when in each step that it is for",
    },
    STEP: {
        **_each("rules if only", "write when, with branch and event"),
        "except": "write when, with the branches and events that are left",
        **_each("script run", "write commands, a list"),
        "branches": "write when, with branch",
        **_each("env variables", "write environment, a mapping of names to texts"),
        "depends_on": "leave it out: steps run in the order of the file",
        "needs": "leave it out: steps run in the order of the file",
        "steps": _ONE_LIST,
    },
    SERVICE: {
        "ports": "steps reach every port of a service: leave it out",
        "expose": "steps reach every port of a service: leave it out",
        "alias": "a service's name is its host name",
        **_each("options healthcheck", "write ready, with port or command"),
        "entrypoint": "the entrypoint is the image's own; command is its arguments, a list",
        "commands": "write command, a list of the arguments for the image's entrypoint",
        "volumes": "write temporary, a list of the folders that it writes to",
        "tmpfs": "write temporary, a list of the folders that it writes to",
        **_each("env variables", "write environment, a mapping of names to texts"),
        **_each("when depends_on", "each service runs for the whole build: leave it out"),
        "directory": "a service sees no workspace: leave it out",
        "failure": "leave it out: a service that ends later fails no build by itself",
    },
    WHEN: {
        **_each("paths paths-ignore changes", _PATHS),
        **_each("evaluate if", "write branch, event and status, or if ...; then in commands"),
        "ref": "write event, and branch: for a tag it is the tag's name",
        "target": "write event: pull_request, and branch: it is the target branch",
        "branches-ignore": "write the branches for which the step runs",
        **_each("tags tags-ignore", "write event: tag, and branch: a glob for the tag's name"),
        "types": "each new commit of a request is built: leave it out",
        "variables": "write environment in the step",
        "exists": "write if test -e FILE; then in commands",
        "include": "write the list itself: branch: [main, release/*]",
        "exclude": "write the branches for which the step runs",
        "matrix": "write if ...; then in commands: each axis is a variable",
        "local": "leave it out: lint runs no steps",
        **_each("repo repository instance platform environment", _NOT_HERE),
    },
    CACHE: {
        **_each("key keys", _KEY),
        **_each("restore-keys restore_keys fallback_keys", _NO_FALLBACK),
        **_each("policy unprotect protected", _WHO_WRITES),
        **_each("path directories folders", "write paths, a list"),
        "file": "write files, a list",
        "untracked": "write paths, a list",
        **_each("when branch event", "a cache is for the whole build: leave it out"),
        "timeout": "leave it out: what is stored is stored behind the ballot",
    },
    PATH: {
        "on_empty": "leave it out: if no file differs, all steps run",
        "ignore_message": "leave it out: the files alone decide",
    },
    CLONE: {
        **_each("git settings", "write depth and tags here"),
        **_each("partial filter", "write depth: 1, or leave clone out"),
        **_each("disable skip", "leave clone out: then there is no .git"),
        **_each("recursive submodules", _MODULES),
        "lfs": "files of Git LFS are not fetched: leave it out",
        "retries": _NO_RETRY,
        **_each("image path", _SOURCES),
    },
    TESTS: _each("path paths files reports", "write junit, a list of paths"),
    READY: {
        **_each("test cmd health-cmd", "write command, a list"),
        **_each("interval retries start_period", "write seconds: how long a replica waits in all"),
        "timeout": "write seconds: how long a replica waits in all",
    },
    RESOURCES: {
        **_each("limits requests", "write memory, cpus and pids here"),
    },
    EVENT: {
        "schedule": "write cron",
        "manual": "a build by hand is a push: python -m client submit",
        **_each("deployment deploy promote rollback release", "a build deploys nothing; write tag"),
        **_each("pull_request_closed pull_request_metadata", "only new commits are built"),
        **_each("pull_request_target", "write pull_request: the request's own file is used"),
        **_each("merge_request merge_request_event merge_requests", "write pull_request"),
        **_each("external_pull_request_event", "write pull_request"),
        "tags": "write tag",
        "pushes": "write push",
        **_each("custom web api workflow_dispatch", "a build by hand is a push"),
        **_each("pipeline trigger external repository_dispatch", "a signed POST is a push"),
        "workflow_call": "a pipeline calls no other: write the steps of both",
    },
}
# A mapping with one of these is a job of GitLab, GitHub or CircleCI, named by its key.
_OF_JOBS = frozenset({"script", "steps", "runs-on", "stage", "extends", "trigger"})


def advice(where: str, key: str, value: object = None) -> str | None:
    """What to write instead of a key that is not known at that place; None: nothing is known.

    value: what is behind the key.
    """
    found = FOREIGN_KEYS.get(where, {}).get(key) or FOREIGN_KEYS[ANYWHERE].get(key)
    if found is None and where == FILE and isinstance(value, dict) and _OF_JOBS & value.keys():
        return "it is a job, it seems: write an entry of steps, with this name and commands"
    return found


def event_advice(event: str) -> str | None:
    """What to write instead of an event that is not known; None: nothing is known."""
    return FOREIGN_KEYS[EVENT].get(event)


def entries_advice(value: object, inner: str) -> str:
    """How a list of entries with names is written, if this is a mapping of names to entries; else
    empty. inner: what an entry must have beside its name."""
    if not isinstance(value, dict) or not value:
        return ""
    name = next(iter(value)).encode("unicode_escape").decode("ascii")[:NAME_CHARACTERS_MAX]
    return f'; a name is no key here: write "- name: {name}" and below it "{inner}"'


def secret_advice(value: object) -> str | None:
    """What to do instead, if this is a variable that Woodpecker or Drone take from their secrets;
    None if it is not."""
    is_secret = isinstance(value, dict) and "from_secret" in value
    return _NO_SECRETS if is_secret else None
