"""Repositories of a whole trial cluster: all its configurations changed in one call.

The rule: all files are checked before the first is changed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from client.gateway_commands import CONFIG_COMMANDS
from common.configuration.commands import added, removed, request_reload
from common.configuration.config import (
    ClientConfig,
    ConfigError,
    GatewayRepository,
    NodeConfig,
    RepositoryEntry,
)
from common.new_file import replace_file
from node.main import NODE_COMMANDS
from scripts.configuration import Configuration, make_missing_keys, read_configuration
from scripts.docker_engine import own_processes
from scripts.folders import EXAMPLE_CONFIG

Edit = Callable[[str, NodeConfig | ClientConfig], str]

NODE_ONLY = frozenset({"local_images", "submodule_of"})
GATEWAY_ONLY = frozenset(
    field.name for field in msgspec.structs.fields(GatewayRepository)
) - frozenset(field.name for field in msgspec.structs.fields(RepositoryEntry))


def add(folders: Sequence[Path], url: str, settings: Sequence[str]) -> bool:
    """Add a repository to all configurations of these folders; whether all that run took it.

    settings: KEY=VALUE, as for one member. Raises ConfigError; then no file is changed.
    """

    def edit(text: str, config: NodeConfig | ClientConfig) -> str:
        others = GATEWAY_ONLY if isinstance(config, NodeConfig) else NODE_ONLY
        own = [setting for setting in settings if setting.partition("=")[0] not in others]
        return added(text, config, url, settings=own)

    return _change(folders, edit)


def remove(folders: Sequence[Path], url: str) -> bool:
    """Remove one likewise."""
    return _change(folders, lambda text, config: removed(text, config, url))


def _change(folders: Sequence[Path], edit: Edit) -> bool:
    configurations = [_read(folder) for folder in folders]
    texts: list[tuple[NodeConfig | ClientConfig, str]] = []
    for configuration in configurations:
        for node in configuration.nodes:
            texts.append((node, NODE_COMMANDS.edited(node.file, edit)))
        client = configuration.client
        texts.append((client, CONFIG_COMMANDS.edited(client.file, edit)))
    for config, text in texts:
        replace_file(config.file, text)
        print(f"{config.file}: changed")
    # The members of two folders may be the same processes.
    members = {config.data_directory: config for config, _ in texts}
    # All are asked, whatever the first ones answered.
    taken = [request_reload(config) for config in members.values()]
    return all(taken)


def _read(folder: Path) -> Configuration:
    configuration = read_configuration(folder)
    make_missing_keys(configuration)
    return configuration


def running_folders() -> list[Path]:
    """The example's folder, and those that the processes of the start scripts read."""
    folders = [EXAMPLE_CONFIG]
    for identity in own_processes().running().values():
        if "--config" in identity.command:
            folder = Path(identity.command[identity.command.index("--config") + 1]).parent
            if folder not in folders:
                folders.append(folder)
    return folders


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m scripts.repositories add|remove`."""
    parser = argparse.ArgumentParser(prog="./scripts/repository.sh", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("add", "remove"):
        action = actions.add_parser(name)
        action.add_argument("url", metavar="URL")
        action.add_argument(
            "--folder",
            type=Path,
            metavar="FOLDER",
            help="the configurations (default: those of the example and of what runs)",
        )
        if name == "add":
            action.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        folders = [options.folder] if options.folder is not None else running_folders()
        if options.action == "add":
            is_done = add(folders, options.url, options.settings)
        else:
            is_done = remove(folders, options.url)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if is_done else 1


if __name__ == "__main__":
    sys.exit(main())
