"""The Hub as a run uses it: repositories, commits that replace what a revision has, and patience with a server.

All of it goes through `huggingface_hub`, which finds the token itself (`HF_TOKEN`, or the login) and repeats single
uploads for some seconds. What is added here: a whole push is repeated with growing pauses while that can help, and what went
wrong is said in one line, without tokens or signed addresses.

`upload_folder` is not used: it splits a large folder into several commits, and a branch must never hold half of a model, or
a journal without the files that it names. `create_commit` makes one.
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
"""Answers of a server that another attempt does not change."""

FOR_GOOD = (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled, ValueError, TypeError, KeyError)
"""What another attempt does not change, either: settings of this machine, and mistakes in what was to be sent."""

FILES_OF_THE_HUB = (".gitattributes",)
"""Files of a repository that are the Hub's own."""

_TOKEN_IN_TEXT = re.compile(r"hf_(?:oauth_[\w.-]+|[A-Za-z0-9]{16,})")
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")

TALKATIVE = ("huggingface_hub.utils._http", "huggingface_hub.hf_api")
"""Loggers that warn of every attempt, with its signed address, and of every push that had nothing to do."""

File = bytes | Path
"""Content of a file, or where it lies."""


class Hub:
    """What a run does on the Hub.

    Args:
        stopped: set: no further attempt is made.
        on_pause: told, before every further attempt, what went wrong and when it comes.
    """

    def __init__(self, stopped: threading.Event | None = None, on_pause: Callable[[str], None] | None = None) -> None:
        self._api = HfApi(library_name="spin_trl")
        self._stopped = stopped or threading.Event()
        self._on_pause = on_pause or (lambda text: None)
        self._made: set[tuple[str, str]] = set()

    def check_access(self) -> None:
        """See to it that there is a token, and that the Hub may be asked.

        Raises:
            HubError: there is none, or it may not.
        """
        if constants.is_offline_mode():
            raise HubError("`HF_HUB_OFFLINE` is set.")
        if get_token() is None:
            raise HubError(f"There is no token for the Hub. {LOG_IN}")

    def full_name(self, name: str) -> str:
        """The name of a repository with its owner: the account of the token, if none is named."""
        if "/" in name:
            return name
        return f"{self._patiently('ask who is logged in', lambda: self._api.whoami(cache=True))['name']}/{name}"

    def create(self, repository: str, kind: str, private: bool | None) -> None:
        """Make a repository, or see that one which is there is as private as it is to be.

        Args:
            repository: its full name.
            kind: `model` or `dataset`.
            private: None: as is usual for its owner.

        Raises:
            HubError: it can't be made, or everybody can read it, and nobody has said that this is wanted.
        """
        if (repository, kind) in self._made:
            return
        make = functools.partial(self._api.create_repo, repository, repo_type=kind, private=private, exist_ok=True)
        self._patiently(f"create {repository}", make)
        look = functools.partial(self._api.repo_info, repository, repo_type=kind)
        if private and not self._patiently(f"look into {repository}", look).private:
            raise HubError(
                f"Nothing is pushed to {repository}, which everybody can read: cards, pairs and the run directory hold your "
                "data. Name another `hub_model_id`, or say `hub_private_repo: false` if that is what you want."
            )
        self._made.add((repository, kind))

    def head(self, repository: str, branch: str) -> str | None:
        """The newest commit of a branch of a model's repository, or None if there is no such branch or repository."""

        def look() -> str | None:
            try:
                return self._api.model_info(repository, revision=branch, expand=["sha"]).sha
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                return None

        return self._patiently(f"look into {repository}", look)

    def read(self, repository: str, revision: str, path: str) -> bytes | None:
        """A file of a model's repository, or None: it is not there."""

        def fetch() -> bytes | None:
            with tempfile.TemporaryDirectory(prefix="spin-trl-") as place:
                try:
                    found = self._api.hf_hub_download(repository, path, revision=revision, local_dir=place)
                except errors.EntryNotFoundError:
                    return None
                return Path(found).read_bytes()

        return self._patiently(f"read {path} of {repository}", fetch)

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
        """Commit files to a branch, which is made if it is not there, all at once or not at all.

        Args:
            repository: its full name; it must be there.
            revision: the branch.
            files: asked at every attempt for the files, by their paths in the repository; None stands for one that is
                there as it is.
            message: of the commit.
            kind: `model` or `dataset`.
            outdated: patterns of files that go from the branch if they are not among these.

        Raises:
            HubError: it could not be done, after several attempts where those can help.
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
                    raise FileNotFoundError("a file has gone while it was uploaded") from error
                raise

        return self._patiently(f"push {revision} to {repository}", attempt)

    def download(self, repository: str, branch: str, folder: Path) -> None:
        """Download all files of a branch into a folder; what an interrupted call has left there is not downloaded again.

        Raises:
            HubError: it could not be done.
        """
        fetch = functools.partial(self._api.snapshot_download, repository, revision=branch, local_dir=folder)
        self._patiently(f"download {branch} of {repository}", fetch)

    def license_of(self, name: str, kind: str) -> str | None:
        """The licence that the Hub has for a model or a dataset, or None: it knows none, or must not say."""

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

        return self._patiently(f"ask for the licence of {name}", look)

    def _patiently(self, what: str, function: Callable[[], Returned]) -> Returned:
        """Call a function, again after a pause where that may help."""
        pauses = list(PAUSES)
        while True:
            try:
                return function()
            except HubError:  # it says all there is to say
                raise
            except Exception as error:  # a client of a network has many ways to say no
                if not may_pass(error) or not pauses or self._stopped.is_set():
                    raise HubError(f"Could not {what}: {explain(error)}") from error
                pause = pauses.pop(0)
                self._on_pause(f"Could not {what}: {explain(error)} Again in {pause:.0f} s.")
            if self._stopped.wait(pause):
                raise HubError(f"Could not {what}: interrupted.")


LOG_IN = "Set `HF_TOKEN`, or log in once with `hf auth login`, with a token that may write."


def may_pass(error: BaseException) -> bool:
    """Whether what went wrong may be otherwise in a while: a server's or a network's trouble."""
    error = _cause(error)
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error) not in HOPELESS
    if isinstance(error, json.JSONDecodeError):  # a server in trouble answers with a page
        return True
    return not isinstance(error, FOR_GOOD)


def explain(error: BaseException) -> str:
    """What went wrong and what to do, in one line without secrets."""
    error = _cause(error)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"there is no token. {LOG_IN}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "`HF_HUB_OFFLINE` forbids it. Unset it."
    status = _status(error)
    if status == 401:
        return f"the token is not accepted (401). {LOG_IN}"
    if status == 403:
        return f"the token may not write there (403). Check `hub_model_id`. {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return f"there is no such repository, or the token may not see it (404). Check `hub_model_id`. {LOG_IN}"
    return f"{type(error).__name__}: {harmless(str(error))}"


def _cause(error: BaseException) -> BaseException:
    """What is behind an error that says only which file it was about."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def harmless(text: str) -> str:
    """A message in one line, without tokens and without the signatures of addresses."""
    token = get_token()
    if token:
        text = text.replace(token, "***")
    return _QUERY.sub(r"\1", _TOKEN_IN_TEXT.sub("***", " ".join(text.split())))[:500]
