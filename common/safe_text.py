"""A stranger's text, made safe for a log, a terminal or an error message. Pure."""

_ELLIPSIS = "..."


def log_text(value: str, characters_max: int = 200) -> str:
    """A stranger's text, made safe for one log line: controls escaped, cut to a length.

    The result has at most `characters_max` characters, with `...` where something was cut.
    """
    # Escaping makes text longer, never shorter: what is beyond the limit need not be looked at.
    escaped = escape_controls(value[: characters_max + 1])
    if len(escaped) <= characters_max and len(value) <= characters_max:
        return escaped
    return escaped[: max(0, characters_max - len(_ELLIPSIS))] + _ELLIPSIS[:characters_max]


def escape_controls(text: str) -> str:
    r"""The text with all that is not printable (controls, line ends, lone surrogates, marks that
    turn the direction of writing) as escapes such as \n or \x1b."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
