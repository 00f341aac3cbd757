"""Where a server is, and the key that it asks for: neither reaches a log, a message or a host that must not see it."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from urllib.parse import urlsplit

from ...config.credentials import hide
from ...config.server import KEY_VARIABLE
from ...errors import RecipeError, visible

_LONGEST_QUOTE = 500


class ServerKey:
    """A key for servers. Its text is only in the header.

    Args:
        text: the key; empty if servers ask for none.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    @classmethod
    def from_environment(cls, variable: str = KEY_VARIABLE) -> ServerKey:
        """Return the key in an environment variable; no key if it is unset or empty.

        Raises:
            RecipeError: if its value can't be sent in a header. The message does not repeat it.
        """
        text = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", text):
            raise RecipeError(
                f"`{variable}` in the environment is not a key: it has spaces or characters outside of ASCII."
            )
        return cls(text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "ServerKey(***)" if self else "ServerKey()"

    def __reduce__(self) -> str:
        raise TypeError("a key is not written anywhere")

    def headers(self) -> dict[str, str]:
        """Return the header that carries the key, if there is one."""
        return {"Authorization": f"Bearer {self._text}"} if self else {}

    def removed_from(self, text: str) -> str:
        """Return a foreign text with `***` in place of this key."""
        if self:
            for form in {self._text, json.dumps(self._text)[1:-1], self._text.replace("/", "\\/")}:
                text = text.replace(form, "***")
        return text

    def quoted(self, text: str) -> str:
        """Return the start of a foreign text, on one line, without this key and anything that looks like a credential."""
        line = " ".join(hide(self.removed_from(text)).split())
        return visible(line if len(line) <= _LONGEST_QUOTE else f"{line[:_LONGEST_QUOTE]}…")


def base_url(url: str, key_variable: str = KEY_VARIABLE) -> str:
    """Return a server's URL without `/v1` and slashes at its end.

    Args:
        url: the URL.
        key_variable: environment variable that messages name as the place of a key.

    Raises:
        RecipeError: if it is not an HTTP URL, or has a user name, a password, a query or a fragment. The message does not
            repeat a password.
    """
    shown = re.sub(r"(?<=//)[^/]*@", "***@", hide(url))
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise RecipeError(f"{shown!r} is not a URL of a server: {hide(str(error))}.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise RecipeError(f"{shown!r} is not a URL of a server. Expected something like `http://127.0.0.1:8000`.")
    if "@" in parts.netloc:
        raise RecipeError(
            f"{shown!r} has a user name or a password, which do not belong in a URL. Set `{key_variable}` in the "
            "environment."
        )
    if parts.query or parts.fragment:
        raise RecipeError(f"{re.split('[?#]', shown)[0]!r} goes on after the path, which a server's URL does not.")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/v1").rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_plain_http(
    url: str, key: ServerKey, *, allow: bool = False, allowed_by: str | None = "server_allow_plain_http"
) -> None:
    """Raise if a key would be sent over a network without encryption.

    Args:
        url: the server's URL.
        key: key that would be sent.
        allow: whether that is accepted.
        allowed_by: setting that accepts it, which the message names; None: there is none.

    Raises:
        RecipeError: if it would.
    """
    if key and not allow and not url.startswith("https://") and not is_loopback(url):
        accepted = "" if allowed_by is None else f", or accept it with `{allowed_by}: true`"
        raise RecipeError(
            f"The key would be sent to {url} over plain HTTP, where others can read it. Use `https://`, or a tunnel to this "
            f"machine{accepted}."
        )
