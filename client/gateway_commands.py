"""What an operator of a gateway does before it serves: init, confirm, check and so on."""

import argparse
from pathlib import Path

from client.backup import GATEWAY_BACKUP
from client.check import check_gateway
from client.doctor import GATEWAY_DOCTOR
from client.serve import check_whole
from common.backups.commands import add_backup
from common.checks.command import add_check
from common.checks.health import READY_PATH, add_healthcheck
from common.configuration.commands import ConfigCommands
from common.configuration.config import load_client_config
from common.doctor.command import add_doctor
from common.installation import CLIENT_CONFIG
from common.membership.commands import Commands, add_confirm, add_init
from common.web.bounded_http import HttpRequest

CONFIG_COMMANDS = ConfigCommands(CLIENT_CONFIG, load_client_config, check_whole)


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    add_init(commands, "gateway", "127.0.0.1:8080")
    add_confirm(commands, load_client_config, CLIENT_CONFIG)
    add_check(commands, "gateway", check_gateway, default_config=CLIENT_CONFIG)
    add_healthcheck(commands, "gateway", _ready_request, default_config=CLIENT_CONFIG)
    CONFIG_COMMANDS.add(commands)
    add_backup(commands, GATEWAY_BACKUP)
    add_doctor(commands, GATEWAY_DOCTOR)


def _ready_request(file: Path) -> HttpRequest:
    """What asks the gateway of that configuration whether it is ready. Raises ConfigError."""
    return HttpRequest(url=f"{load_client_config(file).listen.url}{READY_PATH}")
