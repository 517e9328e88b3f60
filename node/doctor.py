"""What `doctor` collects of a node, beside what both programs have."""

from common.checks.command import Check
from common.configuration.config import NodeConfig, load_cluster_config
from common.configuration.secret_file import read_bearer_tokens
from common.doctor.command import Examined
from common.doctor.report import Part, answer, rows
from common.epoch_folder import epoch_folder
from common.installation import NODE_CONFIG
from common.web.bounded_http import HttpRequest
from node.builds.cached_runs import CACHES_FOLDER
from node.caches.cache_store import INDEX_NAME
from node.storage.store import DATABASE_NAME
from node.succession import load_present


def node_doctor(check: Check) -> Examined[NodeConfig]:
    """check: what the command of that name does."""
    return Examined("node", NODE_CONFIG, load_present, check, _parts)


def _parts(config: NodeConfig) -> list[Part]:
    ancestry = load_cluster_config(config.cluster_file).ancestry
    folder = epoch_folder(config.data_directory, ancestry.epoch if ancestry else 0)
    database = folder / DATABASE_NAME
    caches = config.data_directory / CACHES_FOLDER / INDEX_NAME
    return [
        Part("status.txt", lambda: answer(_request(config, "/pbft/status"))),
        Part("readyz.txt", lambda: answer(_request(config, "/readyz"))),
        Part("metrics.txt", lambda: answer(_request(config, "/metrics"))),
        Part(
            "store.txt",
            lambda: rows(
                database,
                format="SELECT CAST(value AS TEXT) FROM meta WHERE name = 'format'",
                ledger_end="SELECT position, hex(head) FROM ledger ORDER BY position DESC LIMIT 1",
                ledger_gaps="SELECT first, last FROM gaps LIMIT 100",
                evidence="SELECT replica, count(*), hex(min(pair)) FROM evidence GROUP BY replica",
            ),
        ),
        Part(
            "caches.txt",
            lambda: rows(
                caches,
                format="PRAGMA user_version",
                entries="SELECT repository, name, length, is_kept FROM entries LIMIT 100",
                uses="SELECT count(*) FROM uses",
            ),
        ),
    ]


def _request(config: NodeConfig, path: str) -> HttpRequest:
    """To this node. Raises ConfigError, and ValueError if it answers members alone."""
    tls = load_cluster_config(config.cluster_file).tls
    if tls == "required" and config.local_listen is None:
        raise ValueError("the node's port answers members alone; set local_listen")
    headers = {}
    if config.read_token_file is not None:
        token = read_bearer_tokens(config.read_token_file, "read token")[0].decode()
        headers["Authorization"] = f"Bearer {token}"
    return HttpRequest(url=f"{config.plain_listen.url}{path}", headers=headers)
