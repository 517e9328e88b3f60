"""operator, cluster: the commands with which operators bring a cluster up, in the command line."""

import argparse

from common.membership.commands import Commands, add_cluster, add_operator


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    add_operator(commands)
    add_cluster(commands)
