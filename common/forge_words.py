"""What a forge says beside the commit that it wants to have built: who, and which request. Pure.

It is the forge's word and nothing else: no replica is told, nothing follows from it.
"""

import msgspec

from common.safe_text import log_text

SENDER_CHARACTERS_MAX = 100
TITLE_CHARACTERS_MAX = 200


class ForgeWords(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: the forge does not say. Texts are one line each, safe to show, and short.

    sender: whose doing the event is, by their name there. request: the number of the pull or merge
    request; title: what it is called.
    """

    sender: str | None = None
    request: int | None = None
    title: str | None = None


def forge_words(
    sender: str | None, request: int | None = None, title: str | None = None
) -> ForgeWords:
    """The words of a webhook, made safe; request: a number from 1."""
    return ForgeWords(
        sender=_line(sender, SENDER_CHARACTERS_MAX),
        request=request,
        title=_line(title, TITLE_CHARACTERS_MAX),
    )


def _line(text: str | None, characters_max: int) -> str | None:
    return log_text(text.strip(), characters_max) or None if text else None
