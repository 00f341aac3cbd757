"""The local server of the review page. It listens on 127.0.0.1 only, and takes votes from people who were given its address.

Other pages in the same browser can send requests to local ports, and other users of the machine can connect to them. So the
address ends in a token that works once: its holder gets a session, which every further request has to name. `Host` has to be
the server's own, which stops pages whose name was made to resolve to 127.0.0.1; so has `Origin`, which stops all others.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import secrets
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ...errors import InputError, SpinError, message_of
from ...files import parse_json
from .page import render_shell, shell_policy, shown_data
from .votes import LONGEST_REVIEWER

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
"""Largest body of a request, in bytes."""

VotesOf = Callable[[str], list[Any]]
"""Returns the votes of a reviewer."""

RecordVote = Callable[[str, Mapping[str, Any]], None]
"""Records the vote of a reviewer."""

_LOOPBACK = "127.0.0.1"
_DISCARDED = 1024 * 1024
"""Number of bytes of a refused body that are read: a client that is still sending would otherwise miss the answer."""

_SECONDS = 30
"""Time that a client has for sending a request."""

_VOTE = {"pair": str, "choice": str, "reasons": list, "note": str}
_BODIES: dict[str, dict[str, type]] = {
    "/session": {"token": str},
    "/page": {},
    "/votes-of": {"reviewer": str},
    "/votes": {"reviewer": str, "vote": dict},
}
"""Fields of the body of every request, by its path."""

_FIELD_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def serve_review(
    data: Mapping[str, Any],
    votes_of: VotesOf,
    record: RecordVote,
    *,
    announce: Callable[[str], None],
    port: int = 0,
) -> None:
    """Serve the page until the user interrupts it (Ctrl+C). [`ReviewServer`] describes the arguments and errors."""
    with ReviewServer(data, votes_of, record, announce=announce, port=port), contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(0.5)  # a longer wait may not notice an interrupt that another thread got


class ReviewServer:
    """Server of the review page for one run, as a context manager: it serves in threads until the block ends.

    `votes_of` and `record` are never called at the same time, and not at all after the block.

    Args:
        data: pairs to compare, as [`page.shown_data`] describes them.
        votes_of: returns the votes of a reviewer, each as `record` got it.
        record: records the vote of a reviewer: `pair`, `choice`, `reasons` (a list of texts) and `note`. Types were checked,
            values were not. The message of a `SpinError` is shown to the reviewer.
        announce: is given an address for one reviewer: `http://127.0.0.1:PORT/#TOKEN`. It is called when the server starts,
            and again whenever an address has been used.
        port: port to listen on; 0: one that is free.

    Attributes:
        port: port that the server listens on.

    Raises:
        InputError: if the port can't be listened on.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        votes_of: VotesOf,
        record: RecordVote,
        *,
        announce: Callable[[str], None],
        port: int = 0,
    ) -> None:
        self.data, self.shell = shown_data(data), render_shell()
        self._votes_of, self._record, self._announce = votes_of, record, announce
        self._token, self._sessions = "", set[str]()
        self._lock, self._is_closed = threading.Lock(), False
        try:
            self._http = _HTTPServer(self, port)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"The review can't be served on port {port} of {_LOOPBACK}: {str(error).rstrip('.')}. Give a port that is "
                "free, or 0 for any."
            ) from error
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> ReviewServer:
        self._thread.start()
        try:
            self.announce_next()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def hosts(self) -> tuple[str, str]:
        """Values of `Host` by which a browser may have come here."""
        return f"{_LOOPBACK}:{self.port}", f"localhost:{self.port}"

    def announce_next(self) -> None:
        """Make a new token, and announce the address that ends in it."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._token = token
        self._announce(f"http://{_LOOPBACK}:{self.port}/#{token}")

    def open_session(self, token: str) -> str | None:
        """Use up the token, and return a new session; None if this is not the token, or it was used before."""
        with self._lock:
            if not self._token or not hmac.compare_digest(token.encode(), self._token.encode()):
                return None
            self._token = ""
            session = secrets.token_urlsafe(32)
            self._sessions.add(session)
            return session

    def is_session(self, session: str) -> bool:
        """Return whether this is an open session."""
        with self._lock:
            return any(hmac.compare_digest(session.encode(), one.encode()) for one in self._sessions)

    def votes_of(self, reviewer: str) -> list[Any]:
        """Return the votes of a reviewer."""
        with self._open():
            return self._votes_of(reviewer)

    def record(self, reviewer: str, vote: Mapping[str, Any]) -> None:
        """Record the vote of a reviewer."""
        with self._open():
            self._record(reviewer, vote)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is closing.")
            yield


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, review: ReviewServer, port: int) -> None:
        self.review = review
        super().__init__((_LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking for the machine's name, as the parent does: that can take seconds without a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = _LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a client that went away, or sent too slowly."""
        logger.debug("A client of the review page was lost.", exc_info=True)


class _RefusedError(Exception):
    """A request is refused with a status and a message."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: _HTTPServer
    server_version, sys_version = "spin_trl", ""
    timeout = _SECONDS
    _unread = 0
    """Bytes of the body that have not been read."""

    def do_GET(self) -> None:
        try:
            self._check_host()
            if self.path != "/":
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        except _RefusedError as refused:
            self._answer(refused.status, {"error": str(refused)})
        else:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.review.shell)

    def do_POST(self) -> None:
        status, answer = HTTPStatus.OK, dict[str, Any]()
        try:
            answer = self._result()
        except _RefusedError as refused:
            status, answer = refused.status, {"error": str(refused)}
        except SpinError as error:
            status, answer = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except Exception as error:  # a disk may be full, for example
            logger.warning("A request of the review page failed: %s: %s", type(error).__name__, message_of(error))
            status, answer = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                {"error": "This could not be done; the terminal says why."},
            )
        self._answer(status, answer)

    def _result(self) -> dict[str, Any]:
        """Check the request, do what it asks for, and return the answer."""
        review = self.server.review
        self._check_host()
        self._unread = self._length()
        if self.path not in _BODIES:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        self._check_sender()
        if self.path != "/session":
            self._check_session()
        body = _fields(self._json(), _BODIES[self.path], "The request")
        if self.path == "/session":
            session = review.open_session(_text(body["token"], "`token`"))
            if session is None:
                raise _RefusedError(
                    HTTPStatus.FORBIDDEN,
                    "This address was used before. Open the newest one that `spin-trl review` shows.",
                )
            review.announce_next()
            return {"session": session, "page": review.data}
        if self.path == "/page":
            return {"page": review.data}
        reviewer = _name(body["reviewer"])
        if self.path == "/votes-of":
            return {"votes": review.votes_of(reviewer)}
        review.record(reviewer, _vote(body["vote"]))
        return {}

    def _check_host(self) -> None:
        if self.headers.get_all("Host") not in [[host] for host in self.server.review.hosts]:
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"`Host` has to be {self.server.review.hosts[0]}.")

    def _check_sender(self) -> None:
        if self.headers.get_all("Origin") not in [[f"http://{host}"] for host in self.server.review.hosts]:
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"`Origin` has to be http://{self.server.review.hosts[0]}.")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "`Content-Type` has to be application/json.")

    def _check_session(self) -> None:
        scheme, _, session = (self.headers.get("Authorization") or "").partition(" ")
        if scheme != "Bearer" or not self.server.review.is_session(session):
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "The session has ended. Open the newest address that `spin-trl review` shows.",
            )

    def _length(self) -> int:
        """Return the length of the body in bytes."""
        lengths = self.headers.get_all("Content-Length") or []
        if (
            "Transfer-Encoding" in self.headers
            or len(lengths) != 1
            or not (lengths[0].isascii() and lengths[0].isdigit())
        ):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "`Content-Length` has to say how long the request is.")
        return int(lengths[0][:20])

    def _json(self) -> Any:
        if self._unread > MAX_BODY:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request has {self._unread:,} bytes, over {MAX_BODY:,}.",
            )
        expected, self._unread = self._unread, 0
        try:
            content = self.rfile.read(expected)
        except OSError:  # it was sent too slowly
            content = b""
        if len(content) < expected:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request is incomplete.")
        try:
            return parse_json(content)
        except ValueError as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"The request is not valid JSON: {error}") from error

    def _answer(self, status: int, answer: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(answer))

    def _send(self, status: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": f"{shell_policy()}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Connection": "close",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self._discard()

    def _discard(self) -> None:
        """Read the rest of a refused body, up to a limit."""
        left = min(self._unread, _DISCARDED)
        while left and (block := self.rfile.read(min(left, MAX_BODY))):
            left -= len(block)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request, or one of another method, like every other one: the parent would quote it as HTML."""
        status = HTTPStatus.NOT_FOUND if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._answer(status, {"error": status.phrase})

    def log_message(self, *_: object) -> None:
        """Log nothing: a line would quote the request, in which somebody may have put a token."""


def _fields(found: Any, kinds: Mapping[str, type], what: str) -> dict[str, Any]:
    """Return an object of JSON that has these fields, of these types, and no others."""
    if not isinstance(found, dict):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"{what} has to be a JSON object.")
    expected = ", ".join(f"`{name}`" for name in kinds) or "none"
    if found.keys() != kinds.keys():
        fault = [f"`{name}` is unknown" for name in found.keys() - kinds.keys()][:1]
        fault += [f"`{name}` is missing" for name in kinds if name not in found]
        raise _RefusedError(
            HTTPStatus.BAD_REQUEST, f"{what} has other fields than expected ({expected}): {', '.join(fault)}."
        )
    for name, kind in kinds.items():
        if not isinstance(found[name], kind):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"`{name}` has to be {_FIELD_KINDS[kind]}.")
    return found


def _vote(found: Any) -> dict[str, Any]:
    """Return a vote whose fields have the right types."""
    vote = _fields(found, _VOTE, "The vote")
    if not all(isinstance(reason, str) for reason in vote["reasons"]):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "`reasons` has to be a list of texts.")
    for name in ("pair", "choice", "note"):
        _text(vote[name], f"`{name}`")
    for reason in vote["reasons"]:
        _text(reason, "`reasons`")
    return vote


def _name(found: str) -> str:
    name = _text(found, "`reviewer`").strip()
    if not 0 < len(name) <= LONGEST_REVIEWER:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"`reviewer` has to have 1 to {LONGEST_REVIEWER} characters.")
    return name


def _text(found: str, what: str) -> str:
    """Return a text that can be stored as UTF-8: JSON may hold one half of a surrogate pair."""
    try:
        found.encode()
    except UnicodeEncodeError:
        raise _RefusedError(HTTPStatus.BAD_REQUEST, f"{what} holds half of a surrogate pair.") from None
    return found
