"""The Hub operations a run needs: repositories, commits that replace a revision's files, and retries.

Everything goes through `huggingface_hub`, which finds the token itself (`HF_TOKEN`, or the login) and retries single
uploads for some seconds. This module adds two things: a whole push is retried with growing pauses while that can help, and
errors are reported in one line, without tokens or signed URLs.

`upload_folder` is not used: it splits a large folder into several commits, and a branch must never hold half of a model, or
a journal without the files that it names. `create_commit` creates a single commit.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors, get_token
from huggingface_hub.utils import filter_repo_objects

from ..errors import HubError

Returned = TypeVar("Returned")

PAUSES: tuple[float, ...] = (2.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds between attempts at a push."""

HOPELESS = frozenset({400, 401, 402, 403, 404, 405, 406, 410, 413, 422})
"""HTTP status codes for which retrying does not help."""

FOR_GOOD = (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled, ValueError, TypeError, KeyError)
"""Exceptions for which retrying does not help: settings of this machine, and errors in the data to be sent."""

FILES_OF_THE_HUB = (".gitattributes",)
"""Files of a repository that belong to the Hub."""

_TOKEN_IN_TEXT = re.compile(r"hf_(?:oauth_[\w.-]+|[A-Za-z0-9]{16,})")
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")

TALKATIVE = ("huggingface_hub.utils._http", "huggingface_hub.hf_api")
"""Loggers that warn about every attempt, with its signed URL, and about every push without changes."""

File = bytes | Path
"""Content of a file, or its path."""


class Hub:
    """The Hub operations a run needs, with retries.

    Args:
        stopped: event that prevents further attempts once it is set.
        on_pause: called before every retry with a message that gives the error and the delay.
    """

    def __init__(self, stopped: threading.Event | None = None, on_pause: Callable[[str], None] | None = None) -> None:
        self._api = HfApi(library_name="spin_trl")
        self._stopped = stopped or threading.Event()
        self._on_pause = on_pause or (lambda text: None)
        self._made: set[tuple[str, str]] = set()

    def check_access(self) -> None:
        """Check that there is a token, and that the Hub is not in offline mode.

        Raises:
            HubError: if there is no token, or `HF_HUB_OFFLINE` is set.
        """
        if constants.is_offline_mode():
            raise HubError("`HF_HUB_OFFLINE` is set.")
        if get_token() is None:
            raise HubError(f"There is no token for the Hub. {LOG_IN}")

    def full_name(self, name: str) -> str:
        """Return the name of a repository with its owner, which defaults to the token's account."""
        if "/" in name:
            return name
        return f"{self._patiently('look up the account of the token', lambda: self._api.whoami(cache=True))['name']}/{name}"

    def create(self, repository: str, kind: str, private: bool | None) -> None:
        """Create a repository, or check that an existing one is private if it should be.

        Args:
            repository: full name of the repository.
            kind: `model` or `dataset`.
            private: whether it should be private; None for the owner's default.

        Raises:
            HubError: if it can't be created, or is public although it should be private.
        """
        if (repository, kind) in self._made:
            return
        make = functools.partial(self._api.create_repo, repository, repo_type=kind, private=private, exist_ok=True)
        self._patiently(f"create {repository}", make)
        look = functools.partial(self._api.repo_info, repository, repo_type=kind)
        if private and not self._patiently(f"look up {repository}", look).private:
            raise HubError(
                f"Nothing is pushed to {repository} because it is public: cards, pairs and the run directory contain your "
                "data. Set another `hub_model_id`, or `hub_private_repo: false` if you want them to be public."
            )
        self._made.add((repository, kind))

    def head(self, repository: str, branch: str) -> str | None:
        """Return the newest commit of a branch of a model repository, or None if the branch or repository does not exist."""

        def look() -> str | None:
            try:
                return self._api.model_info(repository, revision=branch, expand=["sha"]).sha
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                return None

        return self._patiently(f"look up {repository}", look)

    def read(self, repository: str, revision: str, path: str) -> bytes | None:
        """Return the content of a file in a model repository, or None if it does not exist."""

        def fetch() -> bytes | None:
            with tempfile.TemporaryDirectory(prefix="spin-trl-") as place:
                try:
                    found = self._api.hf_hub_download(repository, path, revision=revision, local_dir=place)
                except errors.EntryNotFoundError:
                    return None
                return Path(found).read_bytes()

        return self._patiently(f"read {path} from {repository}", fetch)

    def push(
        self,
        repository: str,
        revision: str,
        files: Callable[[], Mapping[str, File | None]],
        message: str,
        *,
        kind: str = "model",
        outdated: Sequence[str] = (),
    ) -> CommitInfo:
        """Commit files to a branch atomically, creating the branch if needed.

        Args:
            repository: full name of the repository, which must exist.
            revision: name of the branch.
            files: called at every attempt; returns the files by path in the repository, with None for a file that is
                already there unchanged.
            message: commit message.
            kind: `model` or `dataset`.
            outdated: patterns of files to delete from the branch if they are not among `files`.

        Raises:
            HubError: if the push failed, after several attempts where retrying can help.
        """

        def attempt() -> CommitInfo:
            if revision != "main":
                self._api.create_branch(repository, branch=revision, repo_type=kind, exist_ok=True)
            found = files()
            there = self._api.list_repo_files(repository, revision=revision, repo_type=kind) if outdated else []
            matching = filter_repo_objects(there, allow_patterns=list(outdated))
            gone = [path for path in matching if path not in found and path not in FILES_OF_THE_HUB]
            try:
                operations: list[CommitOperationAdd | CommitOperationDelete] = [
                    CommitOperationAdd(path, content) for path, content in found.items() if content is not None
                ]
                operations += map(CommitOperationDelete, gone)
                return self._api.create_commit(
                    repository, operations, commit_message=message, repo_type=kind, revision=revision
                )
            except Exception as error:
                if any(isinstance(path, Path) and not path.is_file() for path in found.values()):
                    raise FileNotFoundError("a file disappeared while it was uploaded") from error
                raise

        return self._patiently(f"push {revision} to {repository}", attempt)

    def download(self, repository: str, branch: str, folder: Path) -> None:
        """Download all files of a branch into a folder, resuming an interrupted download.

        Raises:
            HubError: if the download failed.
        """
        fetch = functools.partial(self._api.snapshot_download, repository, revision=branch, local_dir=folder)
        self._patiently(f"download {branch} from {repository}", fetch)

    def license_of(self, name: str, kind: str) -> str | None:
        """Return the licence of a model or a dataset on the Hub, or None if it has none or is not accessible."""

        def look() -> str | None:
            try:
                look_up = self._api.model_info if kind == "model" else self._api.dataset_info
                data = look_up(name).card_data
            except errors.HfHubHTTPError as error:
                if _status(error) not in HOPELESS:
                    raise
                return None
            found = data.get("license") if data is not None else None
            found = found[0] if isinstance(found, list) and found else found
            return found if isinstance(found, str) else None

        return self._patiently(f"look up the licence of {name}", look)

    def _patiently(self, what: str, function: Callable[[], Returned]) -> Returned:
        """Call a function, retrying after a pause where that may help."""
        pauses = list(PAUSES)
        while True:
            try:
                return function()
            except HubError:  # already explains itself
                raise
            except Exception as error:  # a network client can fail in many ways
                if not may_pass(error) or not pauses or self._stopped.is_set():
                    raise HubError(f"Could not {what}: {explain(error)}") from error
                pause = pauses.pop(0)
                self._on_pause(f"Could not {what}: {explain(error)} Retrying in {pause:.0f} s.")
            if self._stopped.wait(pause):
                raise HubError(f"Could not {what}: interrupted.")


LOG_IN = "Set `HF_TOKEN`, or log in once with `hf auth login`, using a token with write access."


def may_pass(error: BaseException) -> bool:
    """Return whether an error may be temporary: a problem of the server or the network."""
    error = _cause(error)
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error) not in HOPELESS
    if isinstance(error, json.JSONDecodeError):  # a failing server answers with an HTML page
        return True
    return not isinstance(error, FOR_GOOD)


def explain(error: BaseException) -> str:
    """Describe an error and its remedy in one line, without secrets."""
    error = _cause(error)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"there is no token. {LOG_IN}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "`HF_HUB_OFFLINE` is set. Unset it."
    status = _status(error)
    if status == 401:
        return f"the token was rejected (401). {LOG_IN}"
    if status == 403:
        return f"the token has no write access there (403). Check `hub_model_id`. {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"the repository does not exist, or the token has no access to it (404). Check `hub_model_id`. {LOG_IN}"
    return f"{type(error).__name__}: {harmless(str(error))}"


def _cause(error: BaseException) -> BaseException:
    """Return the cause of an error that only names the affected file."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def harmless(text: str) -> str:
    """Return a message as one line, without tokens or the query strings (signatures) of URLs."""
    token = get_token()
    if token:
        text = text.replace(token, "***")
    return _QUERY.sub(r"\1", _TOKEN_IN_TEXT.sub("***", " ".join(text.split())))[:500]
