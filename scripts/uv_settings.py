"""What uv is to know of pip's settings, which it does not read itself.

`pip config list | python -m scripts.uv_settings` prints variables of uv's environment, NAME=VALUE.
What pip may be told beside these (a client's certificate, keyrings) uv lacks: then it fails, and
scripts/setup.sh lets pip install.
"""

import ast
import sys
from collections.abc import Iterable

# The later counts, as pip has it: its file's two sections, then the environment.
SECTIONS = ("global", "install", ":env:")
# What pip calls it, the variable of uv, and what stands between several values.
VARIABLES = (
    ("index-url", ("UV_DEFAULT_INDEX",), " "),
    ("extra-index-url", ("UV_INDEX",), " "),
    ("find-links", ("UV_FIND_LINKS",), ","),
    ("trusted-host", ("UV_INSECURE_HOST",), " "),
    ("cert", ("SSL_CERT_FILE",), " "),
    ("proxy", ("HTTP_PROXY", "HTTPS_PROXY"), " "),
)


def uv_settings(lines: Iterable[str]) -> dict[str, str]:
    """The variables for uv. lines: of `pip config list`, as `global.index-url='https://...'`."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in lines:
        key, equals, value = line.strip().partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in found:
            found[section][name] = ast.literal_eval(value)
    settings = {name: value for section in SECTIONS for name, value in found[section].items()}
    return {
        variable: separator.join(settings[name].split())
        for name, variables, separator in VARIABLES
        if settings.get(name)
        for variable in variables
    }


def main() -> int:
    """`python -m scripts.uv_settings`."""
    for name, value in uv_settings(sys.stdin).items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
