"""The list of all that went into a build, as a CycloneDX 1.6 document in JSON.

The rule: equal inputs give equal bytes. So it has no time, no serial number and nothing of this
replica. (ECMA-424; the purl specification.)
"""

import base64
from collections.abc import Iterable

import msgspec
from packageurl import PackageURL

from common.dependencies.lock_file import Tool
from node.dependencies.fetch_messages import Stored

_TYPES = {Tool.PIP: "pypi", Tool.NPM: "npm", Tool.GO: "golang", Tool.CARGO: "cargo"}
_ALGORITHMS = {"sha256": "SHA-256", "sha512": "SHA-512"}


def bill_of_materials(repository: str, commit: str, inputs: Iterable[Stored]) -> bytes:
    """The document for a commit and the inputs of its build."""
    components = [_component(each) for each in sorted(set(inputs))]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "commit",
                "name": repository,
                "version": commit,
            }
        },
        "components": components,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _component(stored: Stored) -> dict[str, object]:
    algorithm, _, value = stored.digest.partition(":")
    component: dict[str, object] = {
        "type": "file" if stored.tool is Tool.FILES else "library",
        "bom-ref": f"{stored.tool}:{stored.file}",
        "name": stored.name,
    }
    if stored.version:
        component["version"] = stored.version
    if algorithm in _ALGORITHMS:
        component["hashes"] = [{"alg": _ALGORITHMS[algorithm], "content": value}]
    if stored.tool in _TYPES:
        component["purl"] = purl(stored)
    if stored.url is not None:
        component["externalReferences"] = [{"type": "distribution", "url": stored.url}]
    properties = [{"name": "pbft-ci:file", "value": stored.file}]
    if algorithm == "h1":
        # CycloneDX has no name for Go's hash, which is of the files and not of the archive.
        properties.append({"name": "pbft-ci:go-h1", "value": stored.digest})
    component["properties"] = properties
    return component


def purl(stored: Stored) -> str:
    """The package's URL, as other tools know it."""
    namespace, _, name = stored.name.rpartition("/")
    qualifiers = {}
    if stored.tool is Tool.PIP:
        qualifiers["file_name"] = stored.file
    if stored.tool is Tool.GO:
        qualifiers["type"] = "module" if stored.part == "zip" else "go.mod"
    algorithm, _, value = stored.digest.partition(":")
    if algorithm == "h1":
        qualifiers["checksum"] = f"h1:{base64.b64decode(value).hex()}"
    else:
        qualifiers["checksum"] = stored.digest
    return PackageURL(
        type=_TYPES[stored.tool],
        namespace=namespace or None,
        name=name,
        version=stored.version or None,
        qualifiers=qualifiers,
    ).to_string()
