"""The commands that change or check a configuration: `config check` and `repository`.

The rule: a file is replaced only by one that was checked as a whole, as the process checks it.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.config_error import ConfigError, nearest
from common.configuration.config import ClientConfig, NodeConfig, url_of
from common.configuration.process_file import LastReload, RunningProcess, find_process
from common.configuration.repository_edit import CannotEdit, with_repository, without_repository
from common.english import counted
from common.new_file import replace_file
from common.repositories.git_environment import protocol_of
from common.yaml_text import YamlError, load_yaml

EXIT_DONE = 0
# The file is changed, and the process goes on with the old one.
EXIT_NOT_TAKEN = 1
# A node or a gateway reads some files; on a machine that is very busy this takes seconds.
RELOAD_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
# Keys that hold paths: those of a command line start at its own folder, not at the file's.
_PATH_KEYS = "_file"

Commands = Any  # argparse keeps the type of add_subparsers to itself
Config = TypeVar("Config", NodeConfig, ClientConfig)


class ConfigCommands(Generic[Config]):
    """The commands of a program that has a configuration."""

    def __init__(
        self,
        default: Path,
        load: Callable[[Path, str | None], Config],
        check: Callable[[Config], object],
    ) -> None:
        """default: the file, unless --config names one. load: reads it, or a text in its place.

        check: does what the program does before it serves. Both raise ConfigError.
        """
        self._default = default
        self._load: Callable[[Path, str | None], Config] = load
        self._check: Callable[[Config], object] = check

    def add(self, commands: Commands) -> None:
        """Add `config check` and `repository add|list|remove`."""
        common = argparse.ArgumentParser(add_help=False)
        # the program's own --config may stand before the command, too
        common.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
        config = commands.add_parser("config", help="check the configuration")
        actions = config.add_subparsers(dest="action", required=True, metavar="ACTION")
        check = actions.add_parser(
            "check",
            parents=[common],
            help="check the configuration and all files that it names",
            description="Check the configuration, the cluster file, keys and secrets as a start"
            " does. Start and change nothing.",
        )
        check.set_defaults(run=self._run_check)
        self._add_repository(commands, common)

    def _add_repository(self, commands: Commands, common: argparse.ArgumentParser) -> None:
        parser = commands.add_parser(
            "repository", help="list, add or remove repositories, without a restart"
        )
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        adding = actions.add_parser(
            "add",
            parents=[common],
            help="add a repository",
            description="Add a repository to the configuration, comments kept, and have the"
            " running process read it. Builds that run are not touched.",
        )
        _repository_argument(adding)
        adding.add_argument(
            "settings",
            nargs="*",
            metavar="KEY=VALUE",
            help="further keys of its entry, as forge=github https_token_file=token",
        )
        adding.set_defaults(
            run=lambda options: self._edit(
                options,
                lambda text, config: added(text, config, options.url, settings=options.settings),
            )
        )
        removing = actions.add_parser(
            "remove",
            parents=[common],
            help="remove a repository",
            description="Remove a repository's entry from the configuration, with the comments"
            " among its lines, and have the running process read it.",
        )
        _repository_argument(removing)
        removing.set_defaults(
            run=lambda options: self._edit(
                options, lambda text, config: removed(text, config, options.url)
            )
        )
        listing = actions.add_parser("list", parents=[common], help="list the repositories")
        listing.set_defaults(run=self._list)

    def _run_check(self, options: argparse.Namespace) -> int:
        config = self._load(self._file(options), None)
        self._check(config)
        count = counted(len(config.repositories), "repository", "repositories")
        print(f"{config.file}: {config.name}, {count}: nothing is wrong with it")
        return EXIT_DONE

    def _list(self, options: argparse.Namespace) -> int:
        for entry in self._load(self._file(options), None).repositories:
            print(entry.url if entry.fetch_url is None else f"{entry.url} from {entry.fetch_url}")
        return EXIT_DONE

    def _edit(
        self, options: argparse.Namespace, edit: Callable[[str, NodeConfig | ClientConfig], str]
    ) -> int:
        file = self._file(options)
        config = self._load(file, None)
        text = self.edited(config.file, edit)
        replace_file(config.file, text)
        print(f"{config.file}: changed")
        return EXIT_DONE if request_reload(config) else EXIT_NOT_TAKEN

    def edited(self, file: Path, edit: Callable[[str, NodeConfig | ClientConfig], str]) -> str:
        """The file's text as `edit` makes it, checked as a whole. Raises ConfigError."""
        # as bytes: the lines of a file may end as on Windows
        before = file.read_bytes().decode()
        text = edit(before, self._load(file, before))
        config = self._load(file, text)
        self._check(config)
        _check_addresses(config)
        return text

    def _file(self, options: argparse.Namespace) -> Path:
        file: Path = options.config or self._default
        return file


def added(text: str, config: NodeConfig | ClientConfig, url: str, *, settings: list[str]) -> str:
    """A configuration's text with one repository more. Raises ConfigError.

    url, settings: as on a command line, so paths start at the working directory.
    """
    entry: dict[str, object] = {"url": _url(url, config.file)}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in entry:
            problem = "is no KEY=VALUE" if not equals else "is there twice"
            raise ConfigError(f"'{setting}' {problem}; as forge=github")
        entry[key] = _value(key, value)
    try:
        return with_repository(text, entry)
    except CannotEdit as error:
        raise _cannot_edit(config, error) from error


def removed(text: str, config: NodeConfig | ClientConfig, url: str) -> str:
    """A configuration's text without one of its repositories. Raises ConfigError."""
    urls = [entry.url for entry in config.repositories]
    wanted = _url(url, config.file)
    if wanted not in urls:
        raise ConfigError.at(
            config.file,
            "repositories",
            f"{wanted} is not on the list{nearest(wanted, urls)}",
            "`repository list` shows those there are",
        )
    try:
        return without_repository(text, urls.index(wanted))
    except CannotEdit as error:
        raise _cannot_edit(config, error) from error


def request_reload(config: NodeConfig | ClientConfig) -> bool:
    """Have the process of this configuration read it anew, and print what came of it.

    Gives False if the process refused it, gave no answer, or cannot be asked.
    """
    try:
        process = find_process(config.data_directory)
        if process is None:
            print(f"{config.name} does not run; it reads the file at its start")
            return True
        os.kill(process.pid, signal.SIGHUP)
        reload = _answer(config.data_directory, process)
    except OSError as error:
        print(
            f"{config.name} cannot be asked to read it ({error.strerror}); send it SIGHUP, or"
            " restart it"
        )
        return False
    if reload is None:
        print(f"{config.name} (pid {process.pid}) did not answer SIGHUP; see {config.log_file}")
        return False
    print(f"{config.name}: {reload.text}")
    return reload.is_taken


def _answer(directory: Path, before: RunningProcess) -> LastReload | None:
    """What came of the reload, once the process noted it; None if it takes too long.

    Raises OSError.
    """
    deadline = time.monotonic() + RELOAD_SECONDS_MAX
    while time.monotonic() < deadline:
        process = find_process(directory)
        if process is None:
            return None
        if process.reload != before.reload:
            return process.reload
        time.sleep(POLL_SECONDS)
    return None


def _repository_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="its URL as in requests, or a path")


def _url(text: str, file: Path) -> str:
    """The URL as the configuration has it; a path starts at the working directory."""
    return url_of(text, Path.cwd() / file.name, "url")


def _value(key: str, text: str) -> object:
    if key.endswith(_PATH_KEYS):
        return os.path.abspath(os.path.expanduser(text))
    try:
        return load_yaml(text.encode())[0]
    except YamlError as error:
        raise ConfigError(f"{key}: '{text}' is not YAML ({error}); quote it") from error


def _check_addresses(config: NodeConfig | ClientConfig) -> None:
    """Refuse what git must not be given. Raises ConfigError."""
    for index, entry in enumerate(config.repositories):
        try:
            protocol_of(entry.fetched_from)
        except ValueError as error:
            raise ConfigError.at(
                config.file,
                f"repositories[{index}].url",
                f"{entry.fetched_from}: {error}",
                "a URL that git can fetch from",
            ) from error


def _cannot_edit(config: NodeConfig | ClientConfig, error: CannotEdit) -> ConfigError:
    return ConfigError.at(config.file, "repositories", "cannot be changed by a command", str(error))
