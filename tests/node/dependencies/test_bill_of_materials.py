"""The list of a build's inputs, as another project's library reads it."""

import base64
import json
from typing import Any

import msgspec
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from common.dependencies.lock_file import Tool
from node.dependencies.bill_of_materials import bill_of_materials
from node.dependencies.fetch_messages import Stored

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
SHA256, SHA512 = f"sha256:{'a' * 64}", f"sha512:{'b' * 128}"
HASH1 = "h1:" + base64.b64encode(bytes(range(32))).decode()
GO = "example.org/!cap/a/@v/v1.0.0"
# of each tool, with the characters that names and versions may have
INPUTS = (
    Stored(Tool.PIP, "typing-extensions", "4.12.2+a.b", "", "t-4.12.2.tar.gz", SHA256, 3),
    Stored(Tool.PIP, "typing-extensions", "4.12.2+a.b", "", "t-4.12.2-py3-none-any.whl", SHA512, 3),
    Stored(Tool.NPM, "@types/node", "20.0.0-rc.1", "", "@types+node-20.0.0-rc.1.tgz", SHA512, 4),
    Stored(Tool.GO, "example.org/Cap/a", "v1.0.0", "zip", f"{GO}.zip", HASH1, 5),
    Stored(Tool.GO, "example.org/Cap/a", "v1.0.0", "mod", f"{GO}.mod", HASH1, 5),
    Stored(Tool.CARGO, "libc", "0.2.100", "", "libc-0.2.100.crate", SHA256, 6),
    Stored(
        Tool.FILES, "model%20ü.bin", "", "", "model%20ü.bin", SHA256, 7, "https://e.org/a?b=%20"
    ),
)


def read(document: bytes) -> Bom:
    """What the library makes of it, if it keeps the schema, unknown keys and formats included."""
    problem = VALIDATOR.validate_str(document.decode())
    assert problem is None, problem
    found: Bom = Bom.from_json(json.loads(document))  # type: ignore[attr-defined]  # it is made
    return found


def test_the_library_of_cyclonedx_reads_every_kind_of_input() -> None:
    found = read(bill_of_materials("https://example.org/r.git", "1" * 40, INPUTS))
    assert len(found.components) == len(INPUTS)
    purls = {str(each.purl) for each in found.components if each.purl}
    assert f"pkg:cargo/libc@0.2.100?checksum={SHA256}" in purls
    (file,) = [each for each in found.components if each.purl is None]
    assert [(str(each.alg), each.content) for each in file.hashes] == [
        ("HashAlgorithm.SHA_256", "a" * 64)
    ]
    assert found.metadata.component is not None
    assert found.metadata.component.version == "1" * 40


def test_the_library_would_notice_a_key_that_is_none() -> None:
    made: dict[str, Any] = json.loads(bill_of_materials("r", "1" * 40, INPUTS))
    made["components"][0]["digest"] = "x"
    assert VALIDATOR.validate_str(msgspec.json.encode(made).decode()) is not None


def test_no_input_at_all_is_a_list_too() -> None:
    assert not read(bill_of_materials("r", "1" * 40, ())).components
