"""The example's network and client: prepared, started in the background, stopped."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import docker
import docker.errors

from common.configuration.config import ClientConfig, ConfigError, NodeConfig
from common.english import counted, plural
from node.faults.misbehaviours import KINDS
from scripts.base_image import EXAMPLE_IMAGE, NoBaseImage, ensure_example_image
from scripts.configuration import (
    EXAMPLE_REPLICAS,
    FAULTY_REPLICAS_MIN,
    Configuration,
    example_configuration,
)
from scripts.demo_faults import ALLOWED
from scripts.docker_engine import (
    PROCESS_NAME,
    WITHOUT_DOCKER,
    Engine,
    NoEngine,
    ensure_engine,
    own_engine,
    own_processes,
)
from scripts.example_repository import REPOSITORY, GitFailed, ensure_example_repository
from scripts.folders import ROOT, RUN, exclusive
from scripts.processes import Processes, Program, StartFailed, port_taken

CLIENT = "client"
STOP_COMMAND = "./stopNetwork.sh"
ENGINE_SECONDS_MAX = 120

# All that can keep the example from being prepared or started, each with a text for people.
EXPECTED_ERRORS = (ConfigError, GitFailed, NoBaseImage, NoEngine, StartFailed)


@dataclass(frozen=True)
class Prepared:
    """What a start needs: the configuration, and the engine where builds run in containers."""

    configuration: Configuration
    engine: Engine | None

    @property
    def environment(self) -> Mapping[str, str]:
        """What the processes are told beside their configuration."""
        return {} if self.engine is None else {"DOCKER_HOST": self.engine.host}


def prepare(
    *, replicas: int = EXAMPLE_REPLICAS, executor: str | None = None, faulty: str | None = None
) -> Prepared:
    """Make all that is missing: keys, configuration, engine, image, repository.

    executor: None means as example-config/ says. Raises EXPECTED_ERRORS.
    """
    with exclusive(RUN / "prepare.lock"):
        configuration = example_configuration(replicas=replicas, executor=executor, faulty=faulty)
    if all(node.executor == "process" for node in configuration.nodes):
        # Without an engine nobody looks at the image's name: a repository that is there may stay.
        if not (REPOSITORY / "HEAD").exists():
            ensure_example_repository(EXAMPLE_IMAGE)
        return Prepared(configuration, None)
    engine = ensure_engine()
    try:
        client = docker.DockerClient(base_url=engine.host, timeout=ENGINE_SECONDS_MAX)
        try:
            image = ensure_example_image(client)
        finally:
            client.close()
    except docker.errors.DockerException as error:
        raise NoEngine(f"the engine {engine.host} has trouble: {error}") from error
    ensure_example_repository(image)
    return Prepared(configuration, engine)


def node_programs(configuration: Configuration) -> list[Program]:
    """The nodes of a configuration, as programs to start. Raises ConfigError."""
    if configuration.cluster.tls == "required":
        for node in configuration.nodes:
            if node.local_listen is None:
                raise ConfigError.at(
                    node.file,
                    "local_listen",
                    "is missing, and with tls: required a node answers members alone",
                    "an address as 127.0.0.1:11000 is needed, where these scripts ask whether it"
                    " is up",
                )
    return [_program("node", config) for config in configuration.nodes]


def client_program(configuration: Configuration) -> Program:
    """The client of a configuration, as a program to start."""
    return _program("client", configuration.client)


def start(prepared: Prepared, programs: list[Program], processes: Processes) -> list[str]:
    """Start those of the programs that do not run yet; gives the names of those that did.

    Raises StartFailed: all of them run, one runs with another configuration, or one does not
    come up.
    """
    running = processes.running()
    already = []
    for program in programs:
        if program.name in running:
            if running[program.name].command != program.command:
                raise StartFailed(
                    f"{program.name} is running with another configuration; "
                    f"{STOP_COMMAND} --all stops it"
                )
            already.append(program.name)
    missing = [program for program in programs if program.name not in already]
    if not missing:
        raise StartFailed(
            f"already running: {', '.join(already)}; {STOP_COMMAND} stops the network"
        )
    processes.start(missing, environment=prepared.environment)
    return already


def stop(processes: Processes, *, everything: bool) -> tuple[list[str], list[str]]:
    """Stop the nodes, and with `everything` the client and our own engine too.

    Gives the names of what was stopped, and a line for each that did not stop when asked to.
    """
    names = [
        name
        for name in processes.running()
        if name != PROCESS_NAME and (everything or name != CLIENT)
    ]
    lines = processes.stop(
        names, on_wait=lambda waited: print(f"stopping {waited} ...", flush=True)
    )
    if everything and PROCESS_NAME in processes.running():
        # Last: the nodes need it to remove their containers.
        print(f"stopping {PROCESS_NAME} ...", flush=True)
        names.append(PROCESS_NAME)
        lines += own_engine().stop()
    return names, lines


def _program(module: str, config: NodeConfig | ClientConfig) -> Program:
    return Program(
        name=config.name,
        command=(sys.executable, "-m", module, "--config", str(config.file)),
        listen=config.plain_listen if isinstance(config, NodeConfig) else config.listen,
        config_file=config.file,
        log_files=(config.log_file,),
    )


def _start_network(arguments: argparse.Namespace) -> int:
    prepared = prepare(
        replicas=arguments.replicas, executor=arguments.executor, faulty=arguments.faulty
    )
    programs = node_programs(prepared.configuration)
    already = start(prepared, programs, own_processes())
    for program in programs:
        note = " (it was running)" if program.name in already else ""
        print(f"{program.name} answers at {program.listen.url}{note}")
    if len(programs) < FAULTY_REPLICAS_MIN:
        few = counted(len(programs), "replica")
        tolerate = plural(len(programs), "tolerates", "tolerate")
        print(f"warning: {few} {tolerate} no faulty one")
    print(f"logs: log/node*.log; stop: {STOP_COMMAND}")
    return 0


def _stop_network(arguments: argparse.Namespace) -> int:
    stopped, lines = stop(own_processes(), everything=arguments.all)
    print("nothing was running" if not stopped else f"stopped: {', '.join(stopped)}")
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


def _run_client(arguments: argparse.Namespace) -> int:
    """Become the client, in the foreground."""
    with exclusive(RUN / "prepare.lock"):
        configuration = example_configuration(replicas=arguments.replicas)
    if not (REPOSITORY / "HEAD").exists():
        ensure_example_repository()
    program = client_program(configuration)
    processes = own_processes()
    running = processes.running()
    if program.name in running:
        raise StartFailed(
            f"the client is running already (pid {running[program.name].pid}); "
            f"{STOP_COMMAND} --all stops it"
        )
    if (reason := port_taken(program)) is not None:
        raise StartFailed(reason)
    print(f"the client listens at {program.listen.url}; stop it with Ctrl-C", flush=True)
    # This process becomes the client, so its pid and start time are the client's.
    processes.remember(program.name, os.getpid(), program.command)
    os.chdir(ROOT)
    os.execv(program.command[0], program.command)  # noqa: S606 - our own interpreter


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.network", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser(
        "start",
        prog="./startNetwork.sh",
        description="Start the example's nodes and return when all answer.",
    )
    starting.add_argument(
        "--executor", choices=("docker", "process"), help="where builds run (default: docker)"
    )
    starting.add_argument(
        "--faulty",
        choices=(*KINDS, ALLOWED),
        help="make the last node misbehave; allowed: none does, until somebody injects a fault",
    )
    starting.set_defaults(run=_start_network)
    stopping = actions.add_parser(
        "stop", prog="./stopNetwork.sh", description="Stop the nodes that were started here."
    )
    stopping.add_argument(
        "--all", action="store_true", help="also stop the client and the engine in run/docker/"
    )
    stopping.set_defaults(run=_stop_network)
    client = actions.add_parser(
        "client",
        prog="./scripts/startClient.sh",
        description="Run the example's client (webhooks at port 8080) in the foreground.",
    )
    client.set_defaults(run=_run_client)
    for parser_with_replicas in (starting, client):
        parser_with_replicas.add_argument(
            "--replicas", type=int, default=EXAMPLE_REPLICAS, metavar="N", help="1, 3, 4, 7 or 10"
        )
    return parser


def main() -> int:
    """`python -m scripts.network start|stop|client`."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except NoEngine as error:
        print(f"{error}; without Docker: {WITHOUT_DOCKER}", file=sys.stderr)
    except EXPECTED_ERRORS as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
