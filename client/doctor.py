"""What `doctor` collects of a gateway, beside what both programs have."""

from pathlib import Path

from client.check import check_gateway
from client.storage.database import FILE_NAME
from common.configuration.config import ClientConfig, load_client_config
from common.configuration.secret_file import read_bearer_tokens
from common.doctor.command import Examined
from common.doctor.report import Part, answer, rows
from common.installation import CLIENT_CONFIG
from common.membership.epochs import in_present_epoch
from common.web.bounded_http import HttpRequest


def _parts(config: ClientConfig) -> list[Part]:
    database = config.data_directory / FILE_NAME
    return [
        Part("network.txt", lambda: answer(_request(config, "/api/v1/network"))),
        Part("readyz.txt", lambda: answer(_request(config, "/readyz"))),
        Part("metrics.txt", lambda: answer(_request(config, "/metrics"))),
        Part(
            "store.txt",
            lambda: rows(
                database,
                format="PRAGMA user_version",
                next_timestamp="SELECT next_timestamp FROM counter",
                outbox="SELECT kind, state, count(*) FROM outbox GROUP BY kind, state",
                builds="SELECT ifnull(state, ''), count(*) FROM builds GROUP BY state",
                statuses="SELECT is_settled, given_up IS NOT NULL, count(*) FROM statuses"
                " GROUP BY 1, 2",
                messages="SELECT target, is_settled, given_up IS NOT NULL, count(*) FROM messages"
                " GROUP BY 1, 2, 3",
            ),
        ),
    ]


def _request(config: ClientConfig, path: str) -> HttpRequest:
    headers = {}
    token_file = config.read_token_file or config.api_token_file
    if token_file is not None:
        token = read_bearer_tokens(token_file, "token")[0].decode()
        headers["Authorization"] = f"Bearer {token}"
    return HttpRequest(url=f"{config.listen.url}{path}", headers=headers)


def _load_present(path: Path) -> ClientConfig:
    """A gateway's file, in its present epoch. Raises ConfigError."""
    return in_present_epoch(load_client_config(path))


GATEWAY_DOCTOR = Examined("gateway", CLIENT_CONFIG, _load_present, check_gateway, _parts)
