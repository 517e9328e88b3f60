"""The pipeline file as text: what is taken, what is said of the rest; its schema says the same."""

import functools
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import operations
from ci.limits import Limits
from common.pipeline.path_filter import COMPARED_MAX
from common.pipeline.pipeline_file import (
    AGREEMENTS,
    CACHE_KEYS,
    CACHES_MAX,
    CLONE_KEYS,
    DEPENDENCY_KEYS,
    EVENTS,
    FAILURES,
    IMAGES_MAX,
    KEYS,
    LOCK_FILES_MAX,
    NAMED_IMAGE_CHARACTERS_MAX,
    PATH_KEYS,
    PIPELINE_BYTES_MAX,
    QUARANTINE_DAYS_MAX,
    QUARANTINE_KEYS,
    QUARANTINE_MAX,
    READY_KEYS,
    RESOURCE_KEYS,
    SERVICE_KEYS,
    SERVICES_MAX,
    STATUSES,
    STEP_KEYS,
    STEPS_MAX,
    TESTS_KEYS,
    WHEN_KEYS,
    Cache,
    CachedPath,
    Clone,
    Pipeline,
    PipelineInvalid,
    Quarantined,
    Ready,
    ReportOrder,
    Resources,
    Service,
    Step,
    matches,
    parse_pipeline,
)
from common.pipeline.pipeline_values import (
    COMMANDS_MAX,
    PATTERNS_MAX,
    PROBLEMS_MAX,
    REPORTS_MAX,
    is_image_name,
)
from common.yaml_text import YamlError, load_yaml

ROOT = Path(__file__).resolve().parents[3]
LIMITS = Limits(build_seconds_max=600, memory_bytes=512 * 2**20, cpus=2.0, pids_max=256)
ALL = Resources(512 * 2**20, 2.0, 256)

QUARANTINE = "image: a\ncommands: [x]\ntests:\n  junit: [a.xml]\n  quarantine:\n"

FULL = """
image: registry.example.org:5000/a/b_c:1.0
environment:
  MODE: test
  PORT: "8080"
timeout_seconds: 100
network: true
resources:
  memory: 256 MiB
  cpus: 0.5
  pids: 64
artifacts: [dist/b.txt, a.txt]
tests:
  junit: [build/TEST-*.xml, a.xml]
  required: true
agreement: default
clone: {depth: 50, tags: true}
services:
  - name: database
    image: postgres:16
    environment: {POSTGRES_PASSWORD: test}
    command: [postgres, -c, fsync=off]
    ready: {port: 5432, seconds: 30}
    temporary: [/var/run/postgresql]
    memory: 64 MiB
    root: true
  - name: queue-1
    image: b
    ready: {command: [ping]}
cache:
  - {name: venv, paths: [$HOME/venv, a/b], files: [requirements.txt, a/lock]}
  - name: downloads
    paths:
      - $HOME/.npm
    files: [a/lock]
steps:
  - name: get
    image: other
    commands: [make get]
  - name: test-1.0
    commands:
      - make test
      - |
        for x in 1 2; do
          echo $x
        done
    environment: {MODE: other, EMPTY: ""}
    timeout_seconds: 10
    network: false
    when:
      branch: [main, "release/*"]
      event: push
"""

LOCKED = "image: a\ncommands: [x]\ndependencies: ["
WITH = "image: a\ncommands: [x]\nservices: ["
CACHED = "image: a\ncommands: [x]\ncache: ["
ONE = "{name: a, paths: [a], files: [b]}"
NO_IMAGE = (None, "image", None)

VALID = [
    "image: busybox\ncommands: [make]\n",
    FULL,
    "image: a\ncommands: [x]\nresources: {}\n",
    "steps: [{name: x, image: a, commands: [y]}]\n",
    "image: a\ncommands: [x]\nclone: {}\n",
    "image: a\ncommands: [x]\nclone: {depth: full}\n",
    # the same words below $HOME and in the workspace are two places
    f"{CACHED}{{name: a, paths: [$HOME/a, a, ab], files: [b]}}]\n",
    f"{LOCKED}{{pip: a/requirements.txt, python: '3.12'}}, {{npm: b.json}}, {{go: go.sum}},"
    " {cargo: Cargo.lock}, {files: ci.lock.yaml}]\n",
    f"{WITH}{{name: x, image: x}}, {{name: y, image: y, ready: {{seconds: 5}}}}]\n",
    "image: a\ncommands: [x]\nenvironment: {}\n",
    "image: a\ncommands: [x]\nresources: {memory: 33554432}\n",
    "image: a\ncommands: [x]\nresources: {memory: 16MiB, cpus: 2}\n",
    "image: a\ncommands: [x]\nresources: {memory: 65536 KiB}\n",
    "image: a\nsteps: [{name: x, commands: [y], when: {}}]\n",
    "image: a\nsteps: [{name: x, commands: [y], when: {branch: '**', event: [tag, push]}}]\n",
    "image: a\nsteps: [{name: x, commands: [y], failure: ignore, when: {status: failure}}]\n",
    "image: a\nsteps: [{name: x, commands: [y], when: {status: [success, failure]}}]\n",
    "image: a\nsteps: [{name: x, commands: [y], when: {path: '**/*.sh'}}]\n",
    "image: a:${A}\ncommands: [x]\nmatrix: {A: ['1', '2'], B: [x], exclude: [{A: '1'}]}\n",
    "image: a\nmatrix: {A: ['1', x], B: [x]}\nartifacts: [a]\n"
    "steps: [{name: s, commands: [x], when: {matrix: {A: ['1', x], B: x}}}]\n",
    "image: ${A_2}\ncommands: [x]\nmatrix: {include: [{A_2: x, B: y}, {B: z, A_2: b}]}\n",
    "image: a\nsteps: [{name: x, commands: [y], when: {path: {exclude: [docs/**, '*.md']}}}]\n",
    "image: a\ncommands: [x]\nartifacts: [a/..b, .x/.y, a-1.0+b@c=d~e.tar.gz]\n",
    "image: a\ncommands: [x]\nartifacts: [dist, dist/*.whl, '*.log', 'log-?/*']\n",
    "image: a\ncommands: [x]\ntests: {junit: ['*.xml']}\n",
    "image: a\ncommands: [x]\ntests: {junit: [a.xml], required: false}\n",
    QUARANTINE + "  - {case: 's::a b', until: 2026-12-31, reason: '#7'}\n",
]

# text, line, key, nearest: what both the parser and the schema refuse
BROKEN: list[tuple[str, int | None, str | None, str | None]] = [
    ("image: a\ncommand: [x]\n", 2, "command", "commands"),
    ("image: a\ncommands: [x]\ntimeout_second: 5\n", 3, "timeout_second", "timeout_seconds"),
    ("image: a\ncommands: [x]\ntimeout: 5\n", 3, "timeout", None),
    ("Image: a\ncommands: [x]\n", 1, "Image", "image"),
    ("image: a\nsteps: [{name: x, commands: [y],\nfailure: fail}]\n", 3, "failure", None),
    ("image: a\ncommands: [x]\nfailure: ignore\n", 3, "failure", None),
    ("image: a\nsteps: [{name: x, commands: [y],\nwhen: {status: killed}}]\n", 3, "status", None),
    ("image: a\nsteps: [{name: x, commands: [y],\nwhen: {status: []}}]\n", 3, "status", None),
    ("image: a\n", None, "commands", None),
    ("commands: [a]\n", None, "image", None),
    ("image: a\ncommands: []\n", 2, "commands", None),
    ("image: a\ncommands: make\n", 2, "commands", None),
    ("image: a\ncommands:\n - x\n - 5\n", 4, "commands", None),
    ("image: a\ncommands:\n - x\n - ' '\n", 4, "commands", None),
    ('image: a\ncommands: ["\\0"]\n', 2, "commands", None),
    ("image: 5\ncommands: [x]\n", 1, "image", None),
    ("image: ../x\ncommands: [x]\n", 1, "image", None),
    ("image: -v/:/x\ncommands: [x]\n", 1, "image", None),
    ("image: a\ncommands: [x]\ntimeout_seconds: 0\n", 3, "timeout_seconds", None),
    ("image: a\ncommands: [x]\ntimeout_seconds: true\n", 3, "timeout_seconds", None),
    ("image: a\ncommands: [x]\ntimeout_seconds: 1.5\n", 3, "timeout_seconds", None),
    ("- image\n", 1, None, None),
    ("", 1, None, None),
    ("image: a\nprivileged: true\ncommands: [x]\n", 2, "privileged", None),
    ("image: a\ncommands: [x]\nvolumes: [/:/host]\n", 3, "volumes", None),
    ("image: a\ncommands: [x]\nsteps: [{name: b, commands: [y]}]\n", 2, "commands", None),
    *(
        (f"{LOCKED}{entry}]\n", 3, key, None)
        for entry, key in (
            ("", "dependencies"),
            ("requirements.txt", "dependencies"),
            ("{}", "dependencies"),
            ("{pip: a, npm: b}", "dependencies"),
            ("{python: '3.12'}", "dependencies"),
            ("{pip: ../a}", "pip"),
            ("{pip: [a]}", "pip"),
            ("{pip: a, python: 3.12}", "python"),
            ("{npm: a, python: '3.12'}", "python"),
            ("{pip: a}, {pip: a}", "dependencies"),
            ("{gem: a}", "gem"),
        )
    ),
    *(
        (f"{CACHED}{entry}]\n", 3, key, None)
        for entry, key in (
            ("", "cache"),
            (f"{', '.join([ONE] * 5)}", "cache"),
            ("venv", "cache"),
            ("{name: a, paths: [a]}", "files"),
            ("{name: a, paths: [a], files: [b], key: c}", "key"),
            ("{name: a b, paths: [a], files: [b]}", "name"),
            ("{name: a, paths: [], files: [b]}", "paths"),
            ("{name: a, paths: a, files: [b]}", "paths"),
            ("{name: a, paths: [$HOME], files: [b]}", "paths"),
            ("{name: a, paths: [$HOME/], files: [b]}", "paths"),
            ("{name: a, paths: [$HOME/../x], files: [b]}", "paths"),
            ("{name: a, paths: [$HOME/./x], files: [b]}", "paths"),
            ("{name: a, paths: [$HOMES/x], files: [b]}", "paths"),
            ("{name: a, paths: [/etc], files: [b]}", "paths"),
            ("{name: a, paths: [a/..], files: [b]}", "paths"),
            ("{name: a, paths: [.git/hooks], files: [b]}", "paths"),
            ("{name: a, paths: [a/.git], files: [b]}", "paths"),
            ("{name: a, paths: ['*'], files: [b]}", "paths"),
            ("{name: a, paths: [a, a], files: [b]}", "paths"),
            ("{name: a, paths: [a], files: []}", "files"),
            ("{name: a, paths: [a], files: [b, b]}", "files"),
            ("{name: a, paths: [a], files: ['b*']}", "files"),
            ("{name: a, paths: [a], files: [../b]}", "files"),
            ("{name: a, paths: [a], files: [/b]}", "files"),
        )
    ),
    ("image: a\nsteps: []\n", 2, "steps", None),
    ("image: a\nsteps: {name: x}\n", 2, "steps", None),
    ("image: a\nsteps:\n - make\n", 3, "steps", None),
    ("image: a\nsteps:\n - name: x\n   comands: [y]\n", 4, "comands", "commands"),
    ("image: a\nsteps:\n - name: x\n", 3, "commands", None),
    ("image: a\nsteps:\n - commands: [x]\n", 3, "name", None),
    ("image: a\nsteps:\n - {name: a b, commands: [x]}\n", 3, "name", None),
    ("image: a\nsteps:\n - {name: -x, commands: [x]}\n", 3, "name", None),
    ("image: a\nsteps:\n - {name: 1, commands: [x]}\n", 3, "name", None),
    ("image: a\nsteps:\n - {name: x, commands: [y], image: B}\n", 3, "image", None),
    ("steps:\n - {name: x, commands: [y], image: b}\n - {name: z, commands: [y]}\n", *NO_IMAGE),
    *(
        (
            f"image: a\nsteps:\n - name: x\n   commands: [y]\n   when: {{path: {path}}}\n",
            5,
            key,
            None,
        )
        for path, key in (
            ("[]", "path"),
            ("{}", "path"),
            ("/a", "path"),
            ("docs/", "path"),
            ("a/../b", "path"),
            ("'[ab].md'", "path"),
            ("'!a'", "path"),
            ("{include: [5]}", "include"),
            ("{exclude: a b}", "exclude"),
            ("{on_empty: true}", "on_empty"),
        )
    ),
    *(
        (f"image: a\ncommands: [x]\nmatrix: {matrix}\n", 3, key, None)
        for matrix, key in (
            ("[x]", "matrix"),
            ("{}", "matrix"),
            ("{A: x}", "A"),
            ("{A: [3.10]}", "A"),
            ("{A: [x, x]}", "A"),
            ("{a: [x]}", "a"),
            ("{PBFTCI_X: [x]}", "PBFTCI_X"),
            ("{PATH: [x]}", "PATH"),
            ("{A: [x], include: [{A: y}]}", "include"),
            ("{A: [x], exclude: [{a: y}]}", "a"),
            ("{include: [{A: 'x y'}]}", "A"),
        )
    ),
    ("image: a\ncommands: [x]\nclone: true\n", 3, "clone", None),
    ("image: a\ncommands: [x]\nclone: {depth: 0}\n", 3, "depth", None),
    ("image: a\ncommands: [x]\nclone: {depth: 1001}\n", 3, "depth", None),
    ("image: a\ncommands: [x]\nclone: {depth: some}\n", 3, "depth", None),
    ("image: a\ncommands: [x]\nclone: {tags: 1}\n", 3, "tags", None),
    ("image: a\ncommands: [x]\nclone: {tag: true}\n", 3, "tag", "tags"),
    ("image: a\ncommands: [x]\nservices: []\n", 3, "services", None),
    ("image: a\ncommands: [x]\nservices: {name: x}\n", 3, "services", None),
    (f"{WITH}{{name: x}}]\n", 3, "image", None),
    (f"{WITH}{{image: x}}]\n", 3, "name", None),
    (f"{WITH}{{name: X, image: x}}]\n", 3, "name", None),
    (f"{WITH}{{name: localhost, image: x}}]\n", 3, "name", None),
    (f"{WITH}{{name: x, image: x, comand: [y]}}]\n", 3, "comand", "command"),
    (f"{WITH}{{name: x, image: x, ports: [1]}}]\n", 3, "ports", None),
    (f"{WITH}{{name: x, image: x, command: y}}]\n", 3, "command", None),
    (f"{WITH}{{name: x, image: x, command: [1]}}]\n", 3, "command", None),
    (f"{WITH}{{name: x, image: x, ready: 5}}]\n", 3, "ready", None),
    (f"{WITH}{{name: x, image: x, ready: {{port: 0}}}}]\n", 3, "port", None),
    (f"{WITH}{{name: x, image: x, ready: {{port: 5, command: [y]}}}}]\n", 3, "command", None),
    (f"{WITH}{{name: x, image: x, ready: {{seconds: 301}}}}]\n", 3, "seconds", None),
    (f"{WITH}{{name: x, image: x, temporary: [a]}}]\n", 3, "temporary", None),
    (f"{WITH}{{name: x, image: x, temporary: [/]}}]\n", 3, "temporary", None),
    (f"{WITH}{{name: x, image: x, temporary: [/a/../etc]}}]\n", 3, "temporary", None),
    (f"{WITH}{{name: x, image: x, temporary: [/etc/x]}}]\n", 3, "temporary", None),
    (f"{WITH}{{name: x, image: x, temporary: [/a, /a]}}]\n", 3, "temporary", None),
    (f"{WITH}{{name: x, image: x, memory: 1}}]\n", 3, "memory", None),
    (f"{WITH}{{name: x, image: x, root: 1}}]\n", 3, "root", None),
    (f"{WITH}{{name: x, image: x, environment: {{A: 1}}}}]\n", 3, "A", None),
    (
        "image: a\nsteps:\n - name: x\n   commands: [y]\n   when:\n    branches: m\n",
        6,
        "branches",
        "branch",
    ),
    ("image: a\nsteps:\n - {name: x, commands: [y], when: main}\n", 3, "when", None),
    ("image: a\nsteps:\n - {name: x, commands: [y], when: {event: merge}}\n", 3, "event", None),
    ("image: a\nsteps:\n - {name: x, commands: [y], when: {branch: []}}\n", 3, "branch", None),
    ("image: a\nsteps:\n - {name: x, commands: [y], when: {branch: a b}}\n", 3, "branch", None),
    ("image: a\nsteps:\n - {name: x, commands: [y], network: 1}\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork: host\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork: pypi.org\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork: []\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork:\n  - pypi.org\n  - 10.0.0.1\n", 5, "network", None),
    ("image: a\ncommands: [x]\nnetwork: ['*']\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork: ['https://pypi.org/']\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork: [PyPI.org]\n", 3, "network", None),
    ("image: a\ncommands: [x]\nnetwork: [pypi.org, pypi.org]\n", 3, "network", None),
    (f"image: a\ncommands: [x]\nnetwork: [{'a.b, ' * 33}]\n", 3, "network", None),
    ("image: a\ncommands: [x]\nenvironment: [A=b]\n", 3, "environment", None),
    ("image: a\ncommands: [x]\nenvironment:\n  PORT: 8080\n", 4, "PORT", None),
    ("image: a\ncommands: [x]\nenvironment:\n  1A: b\n", 4, "1A", None),
    ("image: a\ncommands: [x]\nenvironment:\n  PBFTCI_COMMIT: b\n", 4, "PBFTCI_COMMIT", None),
    ("image: a\ncommands: [x]\nresources: {memory: 512m}\n", 3, "memory", None),
    ("image: a\ncommands: [x]\nresources: {memory: 512 MB}\n", 3, "memory", None),
    ("image: a\ncommands: [x]\nresources: {memory: 1}\n", 3, "memory", None),
    ("image: a\ncommands: [x]\nresources: {cpu: 1}\n", 3, "cpu", "cpus"),
    ("image: a\ncommands: [x]\nresources: {cpus: 0}\n", 3, "cpus", None),
    ("image: a\ncommands: [x]\nresources: {cpus: true}\n", 3, "cpus", None),
    ("image: a\ncommands: [x]\nresources: {pids: 1}\n", 3, "pids", None),
    ("image: a\ncommands: [x]\nartifacts: dist\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: []\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [/etc/passwd]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [a/../../b]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [..]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [./a]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [a/]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [a/**]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: ['[ab]']\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: ['a b']\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\nartifacts: [a, a]\n", 3, "artifacts", None),
    ("image: a\ncommands: [x]\ntests: a.xml\n", 3, "tests", None),
    ("image: a\ncommands: [x]\ntests: {}\n", 3, "junit", None),
    ("image: a\ncommands: [x]\ntests: {required: true}\n", 3, "junit", None),
    ("image: a\ncommands: [x]\ntests:\n  junit: a.xml\n", 4, "junit", None),
    ("image: a\ncommands: [x]\ntests:\n  junit: []\n", 4, "junit", None),
    ("image: a\ncommands: [x]\ntests:\n  junit: [../a.xml]\n", 4, "junit", None),
    (f"image: a\ncommands: [x]\ntests: {{junit: {list(range(17))}}}\n", 3, "junit", None),
    ("image: a\ncommands: [x]\ntests:\n  junt: [a]\n", 4, "junt", "junit"),
    ("image: a\ncommands: [x]\ntests: {junit: [a], requird: true}\n", 3, "requird", "required"),
    ("image: a\ncommands: [x]\ntests: {junit: [a], required: 1}\n", 3, "required", None),
    (QUARANTINE + "  - {case: a, until: 2026-12-31}\n", 6, "reason", None),
    (QUARANTINE + "  - {case: a, until: 2026-1-1, reason: b}\n", 6, "until", None),
    (QUARANTINE + "  - {case: a, until: tomorrow, reason: b}\n", 6, "until", None),
    (QUARANTINE + "  - {case: '', until: 2026-12-31, reason: b}\n", 6, "case", None),
    (QUARANTINE + f"  - {{case: {'a' * 513}, until: 2026-12-31, reason: b}}\n", 6, "case", None),
    (QUARANTINE + f"  - {{case: a, until: 2026-12-31, reason: {'b' * 201}}}\n", 6, "reason", None),
    (QUARANTINE + "  - {case: a, until: 2026-12-31, reason: b, by: c}\n", 6, "by", None),
    (QUARANTINE + "  - {case: a, until: 2026-12-31, reason: b}\n" * 51, 5, "quarantine", None),
    ("image: a\ncommands: [x]\ntests: {junit: [a], quarantine: []}\n", 3, "quarantine", None),
    ("image: a\ncommands: [x]\nreports: {junit: [a]}\n", 3, "reports", None),
    ("image: a\nsteps:\n - {name: x, commands: [y], tests: {junit: [a]}}\n", 3, "tests", None),
    ("image: a\ntests: {junit: [a]}\n", None, "commands", None),
    ("image: a\ncommands: [x]\nagreement: strong\n", 3, "agreement", None),
]

# what no schema can say: the network's own limits, and the text itself
BROKEN_HERE = [
    (QUARANTINE + "  - {case: a, until: 2026-02-30, reason: b}\n", 6, "until"),
    (QUARANTINE + '  - {case: "a\\tb", until: 2026-12-31, reason: b}\n', 6, "case"),
    (QUARANTINE + "  - {case: a, until: 2026-12-31, reason: b}\n" * 2, 7, "case"),
    ("image: a\ncommands: [x]\ntimeout_seconds: 601\n", 3, "timeout_seconds"),
    ("image: a\ncommands: [x]\nresources: {memory: 1 GiB}\n", 3, "memory"),
    ("image: a\ncommands: [x]\nresources: {cpus: 2.5}\n", 3, "cpus"),
    ("image: a\ncommands: [x]\nresources: {cpus: .nan}\n", 3, "cpus"),
    ("image: a\ncommands: [x]\nresources: {pids: 257}\n", 3, "pids"),
    ("image: a\ncommands: [x]\nagreement: weak\n", 3, "agreement"),
    ("image: a\nsteps:\n - {name: x, commands: [y]}\n - {name: x, commands: [z]}\n", 4, "name"),
    (f"{WITH}{{name: x, image: x}}, {{name: x, image: y}}]\n", 3, "name"),
    (f"{WITH}{{name: build, image: x}}]\n", 3, "name"),
    (
        f"{WITH}{{name: x, image: x, ready: {{port: 1}}}},"
        " {name: y, image: x, ready: {port: 1}}]\n",
        3,
        "port",
    ),
    (f"{WITH}{{name: x, image: x, memory: 512 MiB}}]\n", 3, "services"),
    (f"{WITH}{{name: x, image: x}}]\nresources: {{memory: 20 MiB}}\n", 3, "services"),
    (f"{CACHED}{ONE}, {ONE}]\n", 3, "name"),
    (f"{CACHED}{ONE}, {{name: b, paths: [a/b], files: [b]}}]\n", 3, "paths"),
    (f"{CACHED}{{name: a, paths: [$HOME/a/b, $HOME/a], files: [b]}}]\n", 3, "paths"),
    ("image: a\nimage: b\n", 2, None),
    ("image: [\n", 2, None),
    ("image: &a b\ncommands: [*a]\n", 2, None),
    ("image: !!python/name:os.system a\n", 1, None),
]


def plain(text: str) -> object:
    """As an editor reads it."""
    return load_yaml(text.encode())[0]


@functools.cache
def schema() -> dict[str, Any]:
    """Where it is needed: mutants are tried without documents."""
    text = (ROOT / "docs" / "pipeline.schema.json").read_text()
    return cast(dict[str, Any], json.loads(text))


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    """One for all tests: `jsonschema.validate` would check the schema itself each time."""
    return jsonschema.Draft202012Validator(schema())


def test_the_smallest_pipeline() -> None:
    found = parse_pipeline(b"image: busybox\ncommands: [make]\n", LIMITS)
    assert found == Pipeline((Step("build", "busybox", ("make",), (), 600),), 600, ALL)


def test_a_step_names_its_hosts_or_has_those_of_all_steps() -> None:
    text = (
        "image: a\nnetwork: [pypi.org, '*.example.org:8443']\n"
        "steps:\n - {name: x, commands: [y]}\n - {name: z, commands: [y], network: false}\n"
        " - {name: w, commands: [y], network: [b.org]}\n"
    )
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, Pipeline)
    assert [step.network for step in found.steps] == [
        ("*.example.org:8443", "pypi.org"),
        False,
        ("b.org",),
    ]
    validator().validate(plain(text))


def test_everything_that_may_be_said() -> None:
    assert parse_pipeline(FULL.encode(), LIMITS) == Pipeline(
        steps=(
            Step("get", "other", ("make get",), (("MODE", "test"), ("PORT", "8080")), 100, True),
            Step(
                "test-1.0",
                "registry.example.org:5000/a/b_c:1.0",
                ("make test", "for x in 1 2; do\n  echo $x\ndone\n"),
                (("MODE", "other"), ("PORT", "8080"), ("EMPTY", "")),
                10,
                False,
                ("main", "release/*"),
                ("push",),
            ),
        ),
        timeout_seconds=100,
        resources=Resources(256 * 2**20, 0.5, 64),
        artifacts=("a.txt", "dist/b.txt"),
        agreement="default",
        tests=ReportOrder(("a.xml", "build/TEST-*.xml"), is_required=True),
        clone=Clone(50, True),
        services=(
            Service(
                "database",
                "postgres:16",
                (("POSTGRES_PASSWORD", "test"),),
                ("postgres", "-c", "fsync=off"),
                Ready(5432, None, 30),
                ("/var/run/postgresql",),
                64 * 2**20,
                True,
            ),
            Service("queue-1", "b", (), None, Ready(None, ("ping",)), (), 256 * 2**20 // 3),
        ),
        caches=(
            Cache(
                "venv",
                (CachedPath("workspace", "a/b"), CachedPath("home", "venv")),
                ("a/lock", "requirements.txt"),
            ),
            Cache("downloads", (CachedPath("home", ".npm"),), ("a/lock",)),
        ),
    )


@pytest.mark.parametrize("text", VALID)
def test_what_is_valid_is_so_for_the_schema_too(text: str) -> None:
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, Pipeline), found.text
    validator().validate(plain(text))


@pytest.mark.parametrize(("text", "line", "key", "nearest"), BROKEN)
def test_what_is_wrong_is_named_and_wrong_for_the_schema_too(
    text: str, line: int | None, key: str | None, nearest: str | None
) -> None:
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert (found.line, found.key) == (line, key), found.text
    assert found.nearest == nearest
    assert not found.others
    assert found.text.startswith(".pbft-ci.yml")
    if key is not None:
        assert f'"{key}"' in found.text
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(plain(text))


ALL_WRONG = """image: a b
services: [postgres]
steps:
  - name: x
    comands: [y]
    environment: {PORT: 1, PBFTCI_X: "", A: b}
    when: {branches: m, event: merge}
  - {name: z, commands: [4, y, ""], matrix: {a: [1]}}
  - z
resources: {cpu: 1, pids: 1}
"""


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_lines() -> None:
    found = parse_pipeline(ALL_WRONG.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    problems = [(problem.line, problem.key) for problem in (found, *found.others)]
    assert problems == [
        (1, "image"),
        (2, "services"),
        (5, "comands"),
        (6, "PORT"),
        (6, "PBFTCI_X"),
        (7, "branches"),
        (7, "event"),
        (8, "matrix"),
        (8, "commands"),
        (8, "commands"),
        (9, "steps"),
        (10, "cpu"),
        (10, "pids"),
    ]
    assert len(found.texts) == len(problems)


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("service", "write services"),
        ("strategy", "write matrix at the top"),
        ("secrets", "after the verdict"),
    ],
)
def test_what_other_servers_have_is_named_with_what_to_write_instead(
    key: str, instead: str
) -> None:
    found = parse_pipeline(f"image: a\ncommands: [x]\n{key}: [y]\n".encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert found.text.startswith(f'.pbft-ci.yml:3: key "{key}": is not there; ')
    assert instead in found.text
    assert "did you mean" not in found.text


def test_of_very_many_wrong_keys_a_few_are_said() -> None:
    text = "image: a\ncommands: [x]\n" + "".join(f"k{n}: 1\n" for n in range(5000))
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert len(found.texts) == PROBLEMS_MAX + 1
    assert "more is wrong" in found.texts[-1]


@pytest.mark.parametrize(("text", "line", "key"), BROKEN_HERE)
def test_what_only_a_node_can_refuse(text: str, line: int, key: str | None) -> None:
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert (found.line, found.key) == (line, key), found.text
    try:
        validator().validate(plain(text))
    except YamlError:
        assert key is None


def test_weak_agreement_where_the_genesis_allows_it() -> None:
    limits = Limits(weak_agreement_allowed=True)
    found = parse_pipeline(b"image: a\ncommands: [x]\nagreement: weak\n", limits)
    assert isinstance(found, Pipeline)
    assert found.agreement == "weak"


def test_the_schema_knows_the_keys_and_bounds_of_the_parser() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    properties, definitions = schema()["properties"], schema()["$defs"]
    step = definitions["step"]
    assert tuple(properties) == KEYS
    assert tuple(step["properties"]) == STEP_KEYS
    assert tuple(step["properties"]["when"]["properties"]) == WHEN_KEYS
    path = step["properties"]["when"]["properties"]["path"]["oneOf"][1]
    assert tuple(path["properties"]) == PATH_KEYS
    assert definitions["path_globs"]["oneOf"][1]["maxItems"] == PATTERNS_MAX
    assert tuple(properties["clone"]["properties"]) == CLONE_KEYS
    service = definitions["service"]["properties"]
    assert tuple(service) == SERVICE_KEYS
    assert tuple(service["ready"]["properties"]) == READY_KEYS
    assert properties["services"]["maxItems"] == SERVICES_MAX
    assert tuple(definitions["cache"]["properties"]) == CACHE_KEYS
    assert properties["cache"]["maxItems"] == CACHES_MAX
    assert tuple(definitions["dependency"]["properties"]) == DEPENDENCY_KEYS
    assert properties["dependencies"]["maxItems"] == LOCK_FILES_MAX
    assert tuple(properties["resources"]["properties"]) == RESOURCE_KEYS
    assert tuple(properties["tests"]["properties"]) == TESTS_KEYS
    assert properties["tests"]["properties"]["junit"]["maxItems"] == REPORTS_MAX
    quarantine = properties["tests"]["properties"]["quarantine"]
    assert quarantine["maxItems"] == QUARANTINE_MAX
    assert tuple(quarantine["items"]["properties"]) == QUARANTINE_KEYS
    assert tuple(definitions["event"]["enum"]) == EVENTS
    assert tuple(definitions["status"]["enum"]) == STATUSES
    assert tuple(step["properties"]["failure"]["enum"]) == FAILURES
    assert tuple(properties["agreement"]["enum"]) == AGREEMENTS
    assert properties["steps"]["maxItems"] == STEPS_MAX
    assert definitions["commands"]["maxItems"] == COMMANDS_MAX


def test_bounds() -> None:
    commands = ", ".join(["x"] * (COMMANDS_MAX + 1))
    too_many = parse_pipeline(f"image: a\ncommands: [{commands}]\n".encode(), LIMITS)
    assert isinstance(too_many, PipelineInvalid)
    steps = ", ".join(f"{{name: s{n}, commands: [x]}}" for n in range(STEPS_MAX + 1))
    too_many = parse_pipeline(f"image: a\nsteps: [{steps}]\n".encode(), LIMITS)
    assert isinstance(too_many, PipelineInvalid)
    too_long = parse_pipeline(b"#" * (PIPELINE_BYTES_MAX + 1), LIMITS)
    assert isinstance(too_long, PipelineInvalid)
    assert str(PIPELINE_BYTES_MAX) in too_long.problem


def test_at_most_eight_different_images() -> None:
    def with_images(steps: int, services: int) -> Pipeline | PipelineInvalid:
        listed = [f"{{name: s{n}, image: i{n}, commands: [x]}}" for n in range(steps)]
        beside = [f"{{name: t{n}, image: j{n}}}" for n in range(services)]
        text = f"image: unused\nsteps: [{', '.join(listed)}]\nservices: [{', '.join(beside)}]\n"
        return parse_pipeline(text.encode(), LIMITS)

    assert isinstance(with_images(6, 2), Pipeline)
    found = with_images(7, 2)
    assert isinstance(found, PipelineInvalid)
    assert (found.line, found.key) == (None, "image")
    assert "there are 9 different ones" in found.text
    name = "i" * (NAMED_IMAGE_CHARACTERS_MAX + 1)
    assert isinstance(parse_pipeline(f"image: {name}\ncommands: [x]\n".encode(), LIMITS), Pipeline)
    several = f"{WITH}{{name: x, image: {name}}}]\n"
    found = parse_pipeline(several.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert f"at most {NAMED_IMAGE_CHARACTERS_MAX} characters" in found.text


def test_the_bounds_of_a_ballot_are_those_of_the_file() -> None:
    assert IMAGES_MAX == operations.IMAGES_MAX
    assert operations.IMAGE_NAME_CHARACTERS_MAX == NAMED_IMAGE_CHARACTERS_MAX


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer_of_one_line(data: bytes) -> None:
    found = parse_pipeline(b"image: a\n" + data, LIMITS)
    if isinstance(found, PipelineInvalid):
        assert found.text.isprintable()


@pytest.mark.parametrize(
    ("glob", "branch", "is_match"),
    [
        ("main", "main", True),
        ("main", "mainly", False),
        ("main", "domain", False),
        ("*", "main", True),
        ("*", "a/b", False),
        ("**", "a/b", True),
        ("release/*", "release/1.0", True),
        ("release/*", "release/1/0", False),
        ("release/**", "release/1/0", True),
        ("**/fix", "a/b/fix", True),
        ("v?.?", "v1.0", True),
        ("v?", "v", False),
        ("?", "/", False),
        ("a*b*c", "axxbyyc", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("*a" * 100 + "b", "a" * 255, False),
    ],
)
def test_globs(glob: str, branch: str, is_match: bool) -> None:
    assert matches(glob, branch) is is_match


@pytest.mark.parametrize(
    ("branch", "event", "is_wanted"),
    [
        ("main", "push", True),
        ("main", "tag", False),
        ("release/2", "push", True),
        ("feature", "push", False),
    ],
)
def test_when(branch: str, event: str, is_wanted: bool) -> None:
    found = parse_pipeline(FULL.encode(), LIMITS)
    assert isinstance(found, Pipeline)
    assert found.steps[0].is_wanted(branch, event)
    assert found.steps[1].is_wanted(branch, event) is is_wanted


@pytest.mark.parametrize(
    ("when", "while_green", "after_a_failure"),
    [
        ("{}", True, False),
        ("{event: push}", True, False),
        ("{status: success}", True, False),
        ("{status: failure}", False, True),
        ("{status: [failure]}", False, True),
        ("{status: [success, failure]}", True, True),
    ],
)
def test_when_status(when: str, while_green: bool, after_a_failure: bool) -> None:
    text = f"image: a\nsteps: [{{name: x, commands: [y], when: {when}}}]\n"
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, Pipeline)
    (step,) = found.steps
    assert step.is_due(has_failed=False) is while_green
    assert step.is_due(has_failed=True) is after_a_failure
    assert not step.is_failure_ignored


@pytest.mark.parametrize(
    "name",
    ["a", "a/b", "a:1", "a.b/c", "localhost:5000/a", "Host.org/a", f"a@sha256:{'0' * 64}", "a__b"],
)
def test_image_names(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "a:", "a b", "a@sha256:0", "/a", "a//b", "a:b:c:d", "-a", "a\n", "x" * 256]
)
def test_names_of_no_image(name: str) -> None:
    assert not is_image_name(name)


@pytest.mark.parametrize(
    ("when", "event", "schedule", "is_wanted"),
    [
        ("{cron: nightly}", "cron", "nightly", True),
        ("{cron: [weekly, night*]}", "cron", "nightly", True),
        ("{cron: nightly}", "cron", "weekly", False),
        ("{cron: '**'}", "push", None, False),
        ("{event: cron}", "cron", "nightly", True),
        ("{event: cron}", "push", None, False),
        ("{event: push, cron: nightly}", "cron", "nightly", False),
        ("{event: [pull_request, merge_group]}", "merge_group", None, True),
    ],
)
def test_when_of_schedules_and_merge_groups(
    when: str, event: str, schedule: str | None, is_wanted: bool
) -> None:
    text = f"image: a\nsteps:\n  - {{name: x, commands: ['true'], when: {when}}}\n"
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, Pipeline), found
    assert found.steps[0].is_wanted("main", event, schedule) is is_wanted


def test_a_schedules_name_in_when_is_a_name() -> None:
    text = "image: a\nsteps:\n  - {name: x, commands: ['true'], when: {cron: 'a b'}}\n"
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert "name of a schedule" in found.text


PATHS = """image: a
steps:
  - {name: shell, commands: [x], when: {path: "**/*.sh"}}
  - {name: code, commands: [x], when: {event: pull_request, path: {exclude: [docs/**]}}}
  - {name: always, commands: [x]}
"""


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["run.sh"], ["shell", "code", "always"]),
        (["docs/x.md"], ["always"]),
        (["docs/run.sh"], ["shell", "always"]),
        (["a.c"], ["code", "always"]),
        # nothing is left out if nothing was changed, if it is not known, or if it is too much
        ([], ["shell", "code", "always"]),
        (None, ["shell", "code", "always"]),
        (["docs/" + "x" * COMPARED_MAX], ["shell", "code", "always"]),
    ],
)
def test_when_of_paths(paths: list[str] | None, wanted: list[str]) -> None:
    found = parse_pipeline(PATHS.encode(), LIMITS)
    assert isinstance(found, Pipeline), found
    steps = found.for_changes(paths).steps
    assert [step.name for step in steps if step.is_wanted("main", "pull_request")] == wanted


@pytest.mark.parametrize(
    ("when", "event", "is_needed"),
    [
        ("{path: a}", "pull_request", True),
        ("{path: a}", "merge_group", True),
        ("{path: a}", "push", False),
        ("{path: a}", "tag", False),
        ("{path: a}", "cron", False),
        ("{path: a, event: push}", "pull_request", False),
        ("{path: a, branch: other}", "pull_request", False),
        ("{event: pull_request}", "pull_request", False),
    ],
)
def test_which_builds_depend_on_what_was_changed(when: str, event: str, is_needed: bool) -> None:
    text = f"image: a\nsteps:\n  - {{name: x, commands: ['true'], when: {when}}}\n"
    found = parse_pipeline(text.encode(), LIMITS)
    assert isinstance(found, Pipeline), found
    assert found.needs_changes("main", event) is is_needed


@pytest.mark.parametrize(
    ("committed", "is_in_force"),
    [
        (datetime(2026, 12, 30, 23, 59, 59, tzinfo=UTC), True),
        (datetime(2026, 12, 31, tzinfo=UTC), False),
        (datetime(2027, 1, 1, tzinfo=UTC), False),
    ],
)
def test_a_quarantine_ends_on_its_day_by_the_commits_date(
    committed: datetime, is_in_force: bool
) -> None:
    entry = Quarantined("s::a", date(2026, 12, 31), "#7")
    order = ReportOrder(("a.xml",), quarantine=(entry,))
    expected = {"s::a": entry} if is_in_force else {}
    assert order.in_force(int(committed.timestamp())) == expected


def test_a_quarantine_is_at_most_so_many_days_ahead_of_its_commit() -> None:
    committed = datetime(2026, 11, 25, 23, 59, tzinfo=UTC)
    last = committed.date() + timedelta(days=QUARANTINE_DAYS_MAX)
    for until, is_valid in ((last, True), (last + timedelta(days=1), False)):
        text = f"{QUARANTINE}  - {{case: a, until: {until}, reason: b}}\n".encode()
        found = parse_pipeline(text, LIMITS, int(committed.timestamp()))
        assert isinstance(found, Pipeline) is is_valid, found
        assert isinstance(parse_pipeline(text, LIMITS), Pipeline)
    assert isinstance(found, PipelineInvalid)
    assert (found.line, found.key) == (6, "until")
    assert "at most 90 days after the commit's date, 2026-11-25 (UTC)" in found.text


@pytest.mark.parametrize("commit_seconds", [-(2**63), -1, 2**63])
def test_a_commits_time_may_be_any_number(commit_seconds: int) -> None:
    text = f"{QUARANTINE}  - {{case: a, until: 1970-01-02, reason: b}}\n".encode()
    found = parse_pipeline(text, LIMITS, commit_seconds)
    assert isinstance(found, Pipeline)
    assert found.tests is not None
    assert bool(found.tests.in_force(commit_seconds)) is (commit_seconds < 0)
