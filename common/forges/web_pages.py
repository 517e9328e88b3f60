"""Addresses of a forge's own pages: of a commit, of a comparison, of a pull request. Pure.

The rule: an address is made of the repository's URL in the operator's configuration, and of values
whose form is known here (hexadecimal digits, a number). Nothing of a webhook's body gets into it.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

import msgspec

# In them stand {repository}, {commit}, {base}, {head} and {request}.
_COMMIT = {
    "github": "{repository}/commit/{commit}",
    "gitea": "{repository}/commit/{commit}",
    "gitlab": "{repository}/-/commit/{commit}",
    "bitbucket": "{repository}/commits/{commit}",
    "bitbucket_data_center": "{repository}/commits/{commit}",
}
_COMPARISON = {
    "github": "{repository}/compare/{base}...{head}",
    "gitea": "{repository}/compare/{base}...{head}",
    "gitlab": "{repository}/-/compare/{base}...{head}",
    # it names the newer one first, and parts them by a carriage return
    "bitbucket": "{repository}/branches/compare/{head}%0D{base}",
    "bitbucket_data_center": (
        "{repository}/compare/commits?targetBranch={base}&sourceBranch={head}"
    ),
}
_REQUEST = {
    "github": "{repository}/pull/{request}",
    "gitea": "{repository}/pulls/{request}",
    "gitlab": "{repository}/-/merge_requests/{request}",
    "bitbucket": "{repository}/pull-requests/{request}",
    "bitbucket_data_center": "{repository}/pull-requests/{request}",
}
# What replicas fetch of a request names its number, but for Bitbucket Cloud.
_REQUEST_REF = re.compile(
    r"refs/(?:pull|merge-requests|pull-requests)/([1-9][0-9]{0,15})/(?:head|from)"
)
_COMMIT_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_DATA_CENTER_PATH = re.compile(r"(?P<before>/.*)?/scm/(?P<project>[^/]+)/(?P<name>[^/]+)")


class WebPages(msgspec.Struct, frozen=True):
    """The pages of one repository at its forge."""

    # as `forge:` of a configuration names it
    kind: str
    # its address, http or https, without a slash at its end
    repository: str

    def commit(self, commit: str) -> str:
        """The page of a commit, by its full id."""
        return self._filled(_COMMIT, commit=commit)

    def comparison(self, base: str, head: str) -> str:
        """The page of what lies between two commits, by their full ids."""
        return self._filled(_COMPARISON, base=base, head=head)

    def request(self, number: int) -> str:
        """The page of a pull or merge request."""
        assert number >= 1
        return _REQUEST[self.kind].format(repository=self.repository, request=number)

    def _filled(self, shapes: dict[str, str], **commits: str) -> str:
        assert all(_COMMIT_ID.fullmatch(commit) for commit in commits.values())
        return shapes[self.kind].format(repository=self.repository, **commits)


def web_pages(kind: str | None, urls: Iterable[str]) -> WebPages | None:
    """The pages of a repository that its operator calls by these URLs.

    None: no forge is configured, or none of the URLs is http or https.
    """
    if kind not in _COMMIT:
        return None
    for url in urls:
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        if parts.scheme not in ("http", "https") or not parts.hostname:
            continue
        # no login, and nothing that ends an attribute or a path
        host = quote(parts.netloc.rpartition("@")[2], safe=":[]")
        path = quote(parts.path.rstrip("/").removesuffix(".git"), safe="/~%")
        if kind == "bitbucket_data_center":
            path = _data_center_path(path)
        return WebPages(kind, f"{parts.scheme}://{host}{path}")
    return None


def request_number(ref: str | None) -> int | None:
    """The number of the request that a ref follows; None: it is no ref that names one."""
    found = _REQUEST_REF.fullmatch(ref or "")
    return None if found is None else int(found[1])


def _data_center_path(path: str) -> str:
    """Of a repository that is cloned from .../scm/PROJECT/name."""
    found = _DATA_CENTER_PATH.fullmatch(path)
    if found is None:
        return path
    project, before = found["project"], found["before"] or ""
    owner = f"users/{project[1:]}" if project.startswith("~") else f"projects/{project}"
    return f"{before}/{owner}/repos/{found['name']}"
