"""Images of well-known services, made from Debian's packages: no registry can be pulled from here.

Each behaves like the official image where a build can tell: its variables, volumes, user (root is
not needed), and what it listens on while it sets itself up.
"""

import hashlib
import json
from pathlib import Path

import docker
import msgspec

from scripts.base_image import has_image
from scripts.debian_image import (
    IMPORT_SECONDS_MAX,
    PACKAGES,
    PATH,
    SUITE,
    ensure_debian_image,
    make_archive,
)
from scripts.folders import RUN, exclusive


class ServiceImage(msgspec.Struct, frozen=True):
    """What it is made of: packages, and instructions as of a Dockerfile."""

    packages: tuple[str, ...]
    # of a shell; it gets the image's command as its arguments
    entrypoint: str
    command: tuple[str, ...]
    variables: tuple[str, ...]
    volumes: tuple[str, ...]


SERVICE_IMAGES = {
    "redis": ServiceImage(
        ("redis-server",), 'cd /data; exec "$@"', ("redis-server",), (PATH,), ("/data",)
    ),
    "postgres": ServiceImage(
        ("postgresql-15",),
        # a server that its own socket alone reaches sets it up, as in the official image
        'set -e; mkdir -p "$PGDATA"; chmod 700 "$PGDATA"; '
        ' printf %s "$POSTGRES_PASSWORD" >/tmp/word;'
        " initdb --username=postgres --pwfile=/tmp/word --auth-host=scram-sha-256;"
        " pg_ctl -o \"-c listen_addresses=''\" -w start; createdb -U postgres test; pg_ctl -w stop;"
        ' echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf";'
        " exec \"$@\" -c listen_addresses='*'",
        ("postgres",),
        (
            f"{PATH}:/usr/lib/postgresql/15/bin",
            "PGDATA=/var/lib/postgresql/data",
        ),
        ("/var/lib/postgresql/data",),
    ),
    "mariadb": ServiceImage(
        ("mariadb-server",),
        "set -e; mariadb-install-db --auth-root-authentication-method=normal >/dev/null;"
        " mariadbd --skip-networking & server=$!;"
        ' word="$MARIADB_ROOT_PASSWORD";'
        " until mariadb -u root -e \"alter user 'root'@'localhost' identified by '$word'\";"
        ' do sleep 0.2; done; kill $server; wait; exec "$@"',
        ("mariadbd", "--bind-address=*"),
        (PATH,),
        ("/var/lib/mysql",),
    ),
    "rabbitmq": ServiceImage(
        ("rabbitmq-server",),
        'exec "$@"',
        ("/usr/lib/rabbitmq/bin/rabbitmq-server",),
        (PATH, "HOME=/var/lib/rabbitmq"),
        ("/var/lib/rabbitmq",),
    ),
}


def ensure_service_image(
    client: docker.DockerClient, kind: str, cache: Path = RUN / "cache"
) -> str:
    """The name of such an image, ready on the engine; it and its archive stay.

    Raises NoBaseImage where it cannot be made, OSError, and docker.errors.DockerException.
    """
    image = SERVICE_IMAGES[kind]
    changes = [
        *(f"ENV {variable}" for variable in image.variables),
        *(f"VOLUME {volume}" for volume in image.volumes),
        f"ENTRYPOINT {json.dumps(['sh', '-c', image.entrypoint, kind])}",
        f"CMD {json.dumps(image.command)}",
    ]
    system = (SUITE, *(PACKAGES if is_in_debian_image(image) else image.packages))
    packages = hashlib.sha256(" ".join(system).encode()).hexdigest()[:12]
    tag = hashlib.sha256(msgspec.json.encode((packages, image))).hexdigest()[:12]
    repository = f"pbft-ci-example/{kind}"
    name = f"{repository}:{tag}"
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / f"{kind}.lock"):
        if has_image(client, name):
            return name
        if is_in_debian_image(image):
            container = client.containers.create(ensure_debian_image(client, cache=cache))
            try:
                container.commit(repository, tag, changes=changes)
            finally:
                container.remove()
            return name
        archive = cache / f"{kind}-{packages}.tar"
        if not archive.exists():
            make_archive(archive, f"--variant=minbase --include={','.join(image.packages)}".split())
        timeout_seconds, client.api.timeout = client.api.timeout, IMPORT_SECONDS_MAX
        try:
            client.api.import_image_from_file(
                str(archive), repository=repository, tag=tag, changes=changes
            )
        finally:
            client.api.timeout = timeout_seconds
    return name


def is_in_debian_image(image: ServiceImage) -> bool:
    """Whether the image of ordinary projects has all that this one is made of."""
    return set(image.packages) <= set(PACKAGES)
