"""Files of secrets as operators have them: nobody else may read them."""

from pathlib import Path


def secret_file(file: Path, secret: str | bytes) -> Path:
    """Write it, and give the file."""
    file.write_bytes(secret.encode() if isinstance(secret, str) else secret)
    file.chmod(0o600)
    return file
