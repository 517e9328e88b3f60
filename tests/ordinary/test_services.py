"""Databases and queues as people use them in tests, each made from Debian's packages."""

import json

import docker
import pytest

from ci.operations import Outcome
from tests.node.conftest import Room
from tests.ordinary.service_images import ensure_service_image
from tests.ordinary.test_documented import generous
from tests.thoroughness import drawn

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(900)]

# What docs/PIPELINES.md says that each needs; and a step in the image of its own client.
SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "redis": (
        {"ready": {"port": 6379}},
        'test "$(redis-cli -h beside incr x)" = 1',
    ),
    "postgres": (
        {
            "environment": {"POSTGRES_PASSWORD": "test"},
            "temporary": ["/var/run/postgresql"],
            "ready": {"port": 5432},
        },
        'test "$(PGPASSWORD=test psql -h beside -U postgres -d test -Atc "select 6 * 7")" = 42',
    ),
    "mariadb": (
        {
            "environment": {"MARIADB_ROOT_PASSWORD": "test"},
            "temporary": ["/run/mysqld"],
            "memory": "384 MiB",
            "ready": {"port": 3306},
        },
        'test "$(mariadb -h beside --protocol=tcp -u root -ptest -Ne "select 6 * 7")" = 42',
    ),
    "rabbitmq": (
        {"temporary": ["/var/log/rabbitmq"], "memory": "384 MiB", "ready": {"port": 5672}},
        # a broker answers a strange greeting with its own
        """test "$(perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new("beside:5672");"""
        """ print $s "strangers"; $s->shutdown(1); read $s, $x, 4; print $x')" = AMQP""",
    ),
}


# One of them for a change, since to make an image takes up to a minute; all before a release.
@pytest.mark.parametrize("kind", drawn(list(SETTINGS), 1))
async def test_a_well_known_service_works_without_root(
    room: Room, docker_engine: docker.DockerClient, kind: str
) -> None:
    """Under the default limits, confined as every service is; two images in one build."""
    image = ensure_service_image(docker_engine, kind)
    room.local_images.append(image)
    settings, command = SETTINGS[kind]
    ready = settings["ready"]
    assert isinstance(ready, dict)
    # a busy machine takes many times as long, and would abstain
    settings = {**settings, "ready": {**ready, "seconds": 300}}
    text = json.dumps(
        {
            "services": [{"name": "beside", "image": image, **settings}],
            "steps": [
                {"name": "client", "image": image, "commands": [command]},
                {"name": "other", "image": room.image, "commands": ["exit 3"]},
            ],
        }
    )
    config = room.make_config(room.repository.url)
    builder = await room.make_builder(config, **generous())
    order = builder.order(room.repository.url, room.repository.commit({".pbft-ci.yml": text}))
    finding = await builder.find(order)
    log = builder.log(order)
    assert (finding.compared.outcome, finding.compared.exit_code) == (Outcome.FAILED, 3), log
    assert "step other (2 of 2)" in log
