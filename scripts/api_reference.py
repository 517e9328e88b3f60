"""Writes docs/HTTP_API.md from the API's own description: `python -m scripts.api_reference`."""

from typing import Any

from client.api.openapi import PATH, document
from scripts.folders import ROOT

FILE = ROOT / "docs" / "HTTP_API.md"
_HEAD = f"""# The gateway's HTTP API

`python -m scripts.api_reference` writes this page from what the gateway serves at
`GET {PATH}` (OpenAPI 3.1); a test checks that it is current. Every refusal is
`{{"error": text}}`. A route with a token takes `Authorization: Bearer TOKEN` if the gateway has
token files. Ids of builds may be shortened to six digits.
"""


def main() -> None:
    """Write the page."""
    FILE.write_text(page())


def page() -> str:
    """The page as it should be."""
    described = document("", "")
    schemas = described["components"]["schemas"]
    lines = [_HEAD, "## Routes", ""]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            lines += _route(f"{method.upper()} {path}", operation)
    lines += ["## Schemas", "", "A field is always there, unless its type says `optional`.", ""]
    for name in sorted(schemas):
        lines += _schema(name, schemas[name])
    return "\n".join(lines).rstrip() + "\n"


def _route(title: str, operation: dict[str, Any]) -> list[str]:
    token = " Token." if "security" in operation else ""
    lines = [f"### `{title}`", "", f"{operation['summary']}.{token}", ""]
    rows = [
        f"| `{parameter['name']}` | {parameter['in']} | {_type(parameter['schema'])} |"
        for parameter in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        rows.append(f"| | body | {_content(operation['requestBody'])} |")
    if rows:
        lines += ["| takes | in | type |", "|---|---|---|", *rows, ""]
    lines += ["| gives | type | |", "|---|---|---|"]
    for status, answer in operation["responses"].items():
        lines.append(f"| {status} | {_content(answer)} | {_cell(answer['description'])} |")
    return [*lines, ""]


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", ""]
    if "description" in schema:
        lines += [" ".join(schema["description"].split()), ""]
    if "enum" in schema:
        return [*lines, ", ".join(f"`{value}`" for value in schema["enum"]), ""]
    lines += ["| field | type | |", "|---|---|---|"]
    for field, kind in schema.get("properties", {}).items():
        optional = "" if field in schema.get("required", ()) else "optional "
        lines.append(
            f"| `{field}` | {optional}{_type(kind)} | {_cell(kind.get('description', ''))} |"
        )
    return [*lines, ""]


def _content(holder: dict[str, Any]) -> str:
    if "content" not in holder:
        return ""
    ((content_type, value),) = holder["content"].items()
    return f"{content_type}: {_type(value['schema'])}"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if "properties" in schema:
        fields = (f"`{name}`: {_type(kind)}" for name, kind in schema["properties"].items())
        return f"object with {', '.join(fields)}"
    kind = schema.get("type", "any")
    pattern = f" `{_cell(schema['pattern'])}`" if "pattern" in schema else ""
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f" {low} to {high}" if low is not None and high is not None else ""
    return f"{kind}{bounds}{pattern}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
