"""The error of a node that could not build, which says nothing about the build."""

REASON_CHARACTERS_MAX = 400


class InfrastructureError(Exception):
    """This node could not find out what the build comes to; its ballot is an Abstain.

    is_permanent: another try on this node will not help (a setting, not a failure).
    """

    def __init__(self, reason: str, *, is_permanent: bool = False) -> None:
        super().__init__(one_line(reason))
        self.is_permanent = is_permanent

    @property
    def reason(self) -> str:
        """One printable line, at most REASON_CHARACTERS_MAX characters."""
        return str(self)


def one_line(text: str) -> str:
    """Another program's text as one printable line of bounded length."""
    words = " ".join(text.split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    if len(printable) > REASON_CHARACTERS_MAX:
        return printable[: REASON_CHARACTERS_MAX - 3] + "..."
    return printable
