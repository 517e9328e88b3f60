"""This node's own trouble: "I could not build", which says nothing about the build."""

REASON_CHARACTERS_MAX = 400


class OwnTrouble(Exception):
    """What kept this node from finding out. Ends as an Abstain with this reason.

    is_lasting: trying again on this node will not help (a setting, not a failure).
    """

    def __init__(self, reason: str, *, is_lasting: bool = False) -> None:
        super().__init__(one_line(reason))
        self.is_lasting = is_lasting

    @property
    def reason(self) -> str:
        """One printable line, at most REASON_CHARACTERS_MAX characters."""
        return str(self)


def one_line(text: str) -> str:
    """Another program's words as one printable line of bounded length."""
    words = " ".join(text.split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    if len(printable) > REASON_CHARACTERS_MAX:
        return printable[: REASON_CHARACTERS_MAX - 3] + "..."
    return printable
