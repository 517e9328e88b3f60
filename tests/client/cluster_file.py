"""A cluster file with real public key files, for commands that read one."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from Crypto.PublicKey import ECC

from ci.seats import SEAT_ROLE_PREFIX, seats_of
from common.address import Address
from pbft.genesis import Cluster
from tests.client.running_network import key_of


def write_cluster(folder: Path, cluster: Cluster, addresses: Mapping[str, Address]) -> Path:
    """Writes cluster.yml and a key file per member into the folder; gives cluster.yml."""
    genesis = cluster.genesis
    for member in (*genesis.replicas, *genesis.clients):
        seed = bytes(key_of(member.name)._key)
        key = ECC.construct(curve="Ed25519", seed=seed).public_key()
        (folder / f"{member.name}.pem").write_text(key.export_key(format="PEM"))
    settings = {
        "replicas": [
            {
                "name": member.name,
                "public_key_file": f"{member.name}.pem",
                "address": str(addresses[member.name]),
            }
            for member in genesis.replicas
        ],
        "clients": [
            {
                "name": member.name,
                "public_key_file": f"{member.name}.pem",
                "roles": [role for role in member.roles if not role.startswith(SEAT_ROLE_PREFIX)],
                "operates": list(seats_of(cluster, [member.name])),
            }
            for member in genesis.clients
        ],
    }
    file = folder / "cluster.yml"
    file.write_text(yaml.safe_dump(settings))
    return file
