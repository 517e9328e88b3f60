"""What commits say of themselves, and what forges said of builds, by the ids of both.

A commit is here for as long as the newest build whose history named it.
"""

from collections.abc import Iterable

from client.storage.database import Database
from common.forge_words import ForgeWords
from common.git_commits import CommitFacts


class CommitArchive:
    """The rows of the tables `commits` and `forge_words`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, commits: Iterable[CommitFacts], number: int) -> None:
        """Keep these. number: of the build whose history they are."""
        for facts in commits:
            self._database.write(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "build = max(commits.build, excluded.build)",
                (
                    facts.id,
                    number,
                    " ".join(facts.parents),
                    facts.subject,
                    facts.author,
                    facts.authored,
                    facts.committed,
                ),
            )

    def get(self, commit: str) -> CommitFacts | None:
        """What that commit says, or None. Raises StorageFailed."""
        row = self._database.row(
            "SELECT id, parents, subject, author, authored, committed FROM commits WHERE id = ?",
            (commit,),
        )
        if row is None:
            return None
        return CommitFacts(str(row[0]), tuple(str(row[1]).split()), *row[2:])

    def note_words(self, build: bytes, words: ForgeWords) -> None:
        """Keep what a forge said of a build, if it said anything."""
        if words != ForgeWords():
            self._database.write(
                "INSERT INTO forge_words VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (build, words.sender, words.request, words.title),
            )

    def words(self, build: bytes) -> ForgeWords:
        """What a forge said of a build. Raises StorageFailed."""
        row = self._database.row(
            "SELECT sender, request, title FROM forge_words WHERE build = ?", (build,)
        )
        return ForgeWords() if row is None else ForgeWords(*row)

    def remove(self, build: bytes, number: int) -> None:
        """Forget what is here for that build alone."""
        self._database.write("DELETE FROM forge_words WHERE build = ?", (build,))
        self._database.write("DELETE FROM commits WHERE build = ?", (number,))
