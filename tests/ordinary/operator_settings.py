"""The settings with which this machine's operator lets builds fetch packages."""

import os
import subprocess
import sys
from pathlib import Path

CA_FILES = (
    os.environ.get("PIP_CERT"),
    os.environ.get("SSL_CERT_FILE"),
    "/etc/ssl/certs/ca-certificates.crt",
)


def ca_file() -> Path | None:
    """A bundle of the authorities that this machine trusts."""
    return next((Path(file) for file in CA_FILES if file and Path(file).is_file()), None)


def python_index() -> str | None:
    """The index that pip asks on this machine; None: pip's own."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    index = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    return index if index.startswith("http") else None


def operator_settings() -> dict[str, object]:
    """More keys for node.yml: a network for steps, its authorities, and the index of packages."""
    settings: dict[str, object] = {"network_allowed": True}
    if (file := ca_file()) is not None:
        settings["build_ca_file"] = str(file)
    if (index := python_index()) is not None:
        settings["package_proxies"] = {"pip": index}
    return settings
