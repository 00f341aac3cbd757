"""URLs are those of servers, and a key is only where it belongs."""

import copy
import pickle

import pytest

from messages import names, refused
from spin_trl.errors import RecipeError
from spin_trl.generation.completions.address import KEY_VARIABLE, ServerKey, base_url, is_loopback, refuse_plain_http

SECRET = 'p/ss"w0rd\\x'


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        (" https://models.example/team/v1 ", "https://models.example/team"),
        ("http://[::1]:8000//", "http://[::1]:8000"),
        ("HTTP://Host", "http://Host"),
    ],
)
def test_a_url_is_taken_with_and_without_v1(url, base):
    assert base_url(url) == base


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://:80", "http://host:99999", "http://[::1", "host"]
)
def test_what_is_not_a_servers_url_is_refused(url):
    with pytest.raises(RecipeError):
        base_url(url)


@pytest.mark.parametrize("url", ["http://u:hunter2@host", "http://hunter2@host", "http://:hunter2@host:8000/v1"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url):
    with refused(RecipeError, f"`{KEY_VARIABLE}`") as error:
        base_url(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://host/v1?api_key=abcdefghijkl", "http://host/?x=hunter2", "http://host/#hunter2"]
)
def test_a_query_is_refused_and_not_repeated(url):
    with pytest.raises(RecipeError) as error:
        base_url(url)
    assert not any(secret in str(error.value) for secret in ("abcdefghijkl", "hunter2"))


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:80", True),
        ("http://localhost", True),
        ("http://gpu.localhost", True),
        ("http://localhost.example", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://127.0.0.1.example", False),
    ],
)
def test_loopback_is_this_machine(url, loopback):
    assert is_loopback(url) is loopback


def test_a_key_is_not_sent_in_the_open():
    key = ServerKey(SECRET)
    with refused(RecipeError, "http://host", "`https://`") as error:
        refuse_plain_http("http://host", key)
    assert SECRET not in str(error.value)
    refuse_plain_http("http://host", key, allow=True)
    refuse_plain_http("http://host", ServerKey())
    refuse_plain_http("https://host", key)
    refuse_plain_http("http://127.0.0.1:80", key)


def test_a_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    assert ServerKey.from_environment("MY_KEY").headers() == {"Authorization": f"Bearer {SECRET}"}
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert ServerKey.from_environment().headers() == {}
    monkeypatch.delenv(KEY_VARIABLE)
    assert not ServerKey.from_environment()


@pytest.mark.parametrize("value", ["two words", "lin\ne", "kéy", "a\x7f"])
def test_what_is_not_a_key_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("MY_KEY", value)
    with refused(RecipeError, "`MY_KEY`") as error:
        ServerKey.from_environment("MY_KEY")
    assert value not in str(error.value)


def test_a_key_is_not_shown_or_written():
    key = ServerKey(SECRET)
    assert SECRET not in f"{key!r} {key} {[key]}"
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            write(key)


@pytest.mark.parametrize("form", [SECRET, 'p/ss\\"w0rd\\\\x', 'p\\/ss"w0rd\\x', f"Bearer {SECRET}"])
def test_foreign_text_is_quoted_without_the_key(form):
    quoted = ServerKey(SECRET).quoted(f"before {form} after")
    assert names(quoted, "before", "***", "after")
    assert "w0rd" not in quoted


def test_foreign_text_is_short_visible_and_on_one_line():
    token = "hf_" + "a" * 34
    quoted = ServerKey().quoted(f"a\n\n b\x1b[31m {token} http://u:hunter2@host " + "x" * 5000)
    assert quoted.startswith("a b␛[31m ***")
    assert len(quoted) < 600
    assert not {"\n", "\x1b"} & set(quoted)
    assert "hunter2" not in quoted
