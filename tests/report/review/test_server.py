"""The local server of the review page takes votes from those who were given an address, and from nobody else."""

import http.client
import json
import os
import signal
import socket
import threading

import pytest

from messages import names, refused
from spin_trl.errors import DataError, InputError
from spin_trl.report.review.page import render_shell, shell_policy, shown_data
from spin_trl.report.review.server import MAX_BODY, ReviewServer, serve_review
from spin_trl.report.review.votes import LONGEST_REVIEWER

TEXT = {"text": "a\u202eb", "left_out": 0}
PAIR = {"id": "p1", "prompt": [{"role": "user", **TEXT}], "left": TEXT, "right": TEXT}
DATA = {"format": 1, "run": "run-1", "name": "a run", "title": "iteration 1", "page": "digest", "pairs": [PAIR]}
VOTE = {"pair": "p1", "choice": "left", "reasons": ["wrong"], "note": "שלום"}


class Reviewed:
    """A server with what it announced and recorded, and a client."""

    def __init__(self):
        self.announced, self.recorded = [], []
        self.server = ReviewServer(DATA, self.votes_of, self.record, announce=self.announced.append)

    def votes_of(self, reviewer):
        return [vote for who, vote in self.recorded if who == reviewer]

    def record(self, reviewer, vote):
        if vote["pair"] == "broken":
            raise OSError("no space left in /secret/place")
        if vote["pair"] != "p1":
            raise DataError(f"`pair` is {vote['pair']!r}, which is not on this page.")
        self.recorded.append((reviewer, vote))

    @property
    def host(self):
        return f"127.0.0.1:{self.server.port}"

    def token(self):
        return self.announced[-1].partition("#")[2]

    def ask(self, method, path, body=b"", **headers):
        """Send a request with exactly these headers; one that is None is left out. Return status, headers and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": self.host, "Content_Length": str(len(body)), **headers}.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def post(self, path, body, **headers):
        """Send JSON, or bytes, as the page does; return status and answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Origin": f"http://{self.host}", "Content_Type": "application/json", **headers}
        status, _, answer = self.ask("POST", path, content, **given)
        return status, json.loads(answer)

    def session(self):
        """Return the header of a new session."""
        status, answer = self.post("/session", {"token": self.token()})
        assert status == 200
        return {"Authorization": f"Bearer {answer['session']}"}


@pytest.fixture
def reviewed():
    found = Reviewed()
    with found.server:
        yield found


@pytest.fixture(scope="module")
def shared():
    """Return one server for tests in which it refuses everything."""
    found = Reviewed()
    with found.server:
        yield found


def test_an_address_is_announced_and_its_page_holds_no_data(reviewed):
    assert reviewed.announced == [f"http://{reviewed.host}/#{reviewed.token()}"]
    assert len(reviewed.token()) >= 40
    status, headers, content = reviewed.ask("GET", "/")
    assert (status, content.decode()) == (200, render_shell())
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_token_opens_one_session_and_then_there_is_another(reviewed):
    token = reviewed.token()
    status, answer = reviewed.post("/session", {"token": token})
    assert status == 200
    assert answer["page"] == shown_data(DATA)
    assert answer["page"]["pairs"][0]["left"]["text"] == "a⟨U+202E⟩b"
    status, error = reviewed.post("/session", {"token": token})
    assert status == 403
    assert names(error["error"], "`spin-trl review`")
    assert len(reviewed.announced) == 2
    status, second = reviewed.post("/session", {"token": reviewed.token()})
    assert status == 200
    for session in (answer["session"], second["session"]):
        status, found = reviewed.post("/page", {}, Authorization=f"Bearer {session}")
        assert (status, found) == (200, {"page": shown_data(DATA)})


def test_of_many_who_use_a_token_at_once_one_gets_a_session(reviewed):
    statuses, token = [], reviewed.token()
    threads = [
        threading.Thread(target=lambda: statuses.append(reviewed.post("/session", {"token": token})[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [403] * 7


def test_votes_are_recorded_and_returned(reviewed):
    session = reviewed.session()
    assert reviewed.post("/votes", {"reviewer": " Ann ", "vote": VOTE}, **session) == (200, {})
    assert reviewed.recorded == [("Ann", VOTE)]
    assert reviewed.post("/votes-of", {"reviewer": "Ann"}, **session) == (200, {"votes": [VOTE]})
    assert reviewed.post("/votes-of", {"reviewer": "Bo"}, **session) == (200, {"votes": []})


def test_localhost_is_the_same_place(reviewed):
    host = f"localhost:{reviewed.server.port}"
    assert reviewed.ask("GET", "/", Host=host)[0] == 200
    assert reviewed.post("/page", {}, Host=host, Origin=f"http://{host}", **reviewed.session())[0] == 200


def test_what_a_vote_is_refused_for_is_said_and_nothing_else_is(reviewed, caplog):
    session = reviewed.session()
    status, answer = reviewed.post("/votes", {"reviewer": "Ann", "vote": {**VOTE, "pair": "p\u202e9"}}, **session)
    assert status == 400
    assert names(answer["error"], "`pair`")
    assert "\u202e" not in answer["error"]
    status, answer = reviewed.post("/votes", {"reviewer": "Ann", "vote": {**VOTE, "pair": "broken"}}, **session)
    assert status == 500
    assert "secret" not in answer["error"]
    assert any("/secret/place" in message for message in caplog.messages)
    assert reviewed.post("/votes", {"reviewer": "Ann", "vote": VOTE}, **session)[0] == 200


@pytest.mark.parametrize("path", ["/page", "/votes-of", "/votes"])
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer \u00fc", "Basic {}", "{}"]
)
def test_without_a_session_there_is_nothing(shared, path, authorization):
    session = shared.session()["Authorization"].removeprefix("Bearer ")
    given = authorization if authorization is None else authorization.format(session)
    status, answer = shared.post(path, {"reviewer": "Ann", "vote": VOTE}, Authorization=given)
    assert status == 401
    assert answer.keys() == {"error"}
    assert shared.recorded == []


def test_an_unused_token_is_no_session_and_an_empty_one_no_token(reviewed):
    assert reviewed.post("/page", {}, Authorization=f"Bearer {reviewed.token()}")[0] == 401
    assert reviewed.post("/session", {"token": ""})[0] == 403
    assert reviewed.post("/session", {"token": "\ud83d"})[0] == 400
    assert len(reviewed.announced) == 1


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "evil.example:{}",
        "127.0.0.1:{}.evil.example",
    ],
)
def test_another_host_is_refused(shared, host):
    given, announced = host if host is None else host.format(shared.server.port), [*shared.announced]
    assert shared.ask("GET", "/", Host=given)[0] == 403
    assert shared.post("/session", {"token": shared.token()}, Host=given)[0] == 403
    assert shared.announced == announced


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "http://evil.example",
        "https://127.0.0.1:{}",
        "http://127.0.0.1",
        "http://localhost:1",
        "127.0.0.1:{}",
    ],
)
def test_a_request_of_another_page_is_refused(shared, origin):
    session = shared.session()
    given = origin if origin is None else origin.format(shared.server.port)
    for path, body in (("/session", {"token": shared.token()}), ("/votes", {"reviewer": "Ann", "vote": VOTE})):
        assert shared.post(path, body, Origin=given, **session)[0] == 403
    assert shared.recorded == []


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_of_another_page_can_not_send_json(shared, kind):
    assert shared.post("/session", {"token": shared.token()}, Content_Type=kind)[0] == 415


def test_a_body_has_a_length_up_to_a_limit(reviewed):
    session = reviewed.session()
    fits = {"reviewer": "Ann", "vote": {**VOTE, "note": ""}}
    fits["vote"]["note"] = "x" * (MAX_BODY - len(json.dumps(fits)))
    assert reviewed.post("/votes", fits, **session)[0] == 200
    fits["vote"]["note"] += "x"
    status, answer = reviewed.post("/votes", fits, **session)
    assert status == 413
    assert names(answer["error"], f"{MAX_BODY:,}")
    assert reviewed.post("/votes", b" " * 500_000, **session)[0] == 413  # the answer arrives nevertheless
    for length in (None, "", "-1", "+5", "1e3", "²", "5, 5"):
        assert reviewed.post("/page", b"", Content_Length=length, **session)[0] == 411, length
    assert reviewed.post("/page", b"2\r\n{}\r\n0\r\n\r\n", Transfer_Encoding="chunked", **session)[0] == 411


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"Ann"', b"\xff", b"{" * 60_000, b"[" * 60_000, b"9" * 60_000,
        b'{"reviewer": 1' + b"0" * 5_000 + b"}",
    ],
    ids=lambda body: f"{body[:12]!r} {len(body)}",
)  # fmt: skip
def test_what_is_not_an_object_of_json_is_refused(shared, body):
    status, answer = shared.post("/votes-of", body, **shared.session())
    assert status == 400
    assert answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/session", {}, "`token`"),
        ("/session", {"token": 5}, "`token`"),
        ("/session", {"token": "x", "more": 1}, "`more`"),
        ("/page", {"more": 1}, "`more`"),
        ("/votes-of", {"reviewer": None}, "`reviewer`"),
        ("/votes-of", {"reviewer": ["Ann"]}, "`reviewer`"),
        ("/votes-of", {"reviewer": "  "}, "`reviewer`"),
        ("/votes-of", {"reviewer": "x" * (LONGEST_REVIEWER + 1)}, LONGEST_REVIEWER),
        ("/votes-of", {"reviewer": "\ud83d"}, "`reviewer`"),
        ("/votes", {"reviewer": "Ann"}, "`vote`"),
        ("/votes", {"reviewer": "Ann", "vote": []}, "`vote`"),
        ("/votes", {"reviewer": "Ann", "vote": {}}, "`pair`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "weight": 9}}, "`weight`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "pair": 1}}, "`pair`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "choice": True}}, "`choice`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "reasons": "wrong"}}, "`reasons`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "reasons": [{}]}}, "`reasons`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "reasons": ["\ud83d"]}}, "`reasons`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "note": None}}, "`note`"),
        ("/votes", {"reviewer": "Ann", "vote": {**VOTE, "note": "\udc00"}}, "`note`"),
    ],
)
def test_other_fields_and_types_are_refused_by_name(shared, path, body, named):
    status, answer = shared.post(path, body, **shared.session())
    assert status == 400
    assert names(answer["error"], named)
    assert shared.recorded == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/page"), ("GET", "/?token=x"), ("GET", "/../etc/passwd"), ("GET", "/favicon.ico"), ("GET", "http://x/"),
        ("HEAD", "/"), ("OPTIONS", "/votes"), ("PUT", "/votes"), ("DELETE", "/"), ("TRACE", "/"), ("POST", "/"),
        ("POST", "/votes/"),
    ],
)  # fmt: skip
def test_there_is_nothing_else(shared, method, path):
    status, _, content = shared.ask(method, path, Origin=f"http://{shared.host}", Content_Type="application/json")
    assert status == 404
    assert b"etc" not in content


def test_every_answer_has_the_headers_that_keep_it_to_itself(reviewed):
    answers = [
        reviewed.ask("GET", "/"),
        reviewed.ask("GET", "/x"),
        reviewed.ask("PUT", "/"),
        reviewed.ask("POST", "/page"),
    ]
    answers += [reviewed.ask("GET", "/", Host="evil.example"), reviewed.ask("GET", "/" + "x" * 70_000)]
    assert [status for status, _, _ in answers] == [200, 404, 404, 403, 403, 414]
    for _, headers, _ in answers:
        assert headers["Content-Security-Policy"] == f"{shell_policy()}; frame-ancestors 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


def test_nothing_is_printed_or_logged_that_holds_a_token(reviewed, capfd, caplog):
    caplog.set_level(0)
    token = reviewed.token()
    reviewed.ask("GET", f"/{token}")
    reviewed.ask(token, "/")
    reviewed.post("/session", {"token": token})
    reviewed.post("/session", {"token": token})
    reviewed.post("/page", {token: 1}, **reviewed.session())
    with socket.create_connection(("127.0.0.1", reviewed.server.port)) as client:
        client.sendall(token.encode() + b"\r\n\r\n")
        assert token.encode() not in client.recv(10_000)
    printed = capfd.readouterr()
    assert token not in printed.out + printed.err + caplog.text


def test_one_that_sends_slowly_keeps_nobody_waiting(reviewed):
    with socket.create_connection(("127.0.0.1", reviewed.server.port)) as client:
        client.sendall(b"POST /votes HTTP/1.1\r\nContent-Le")
        assert reviewed.ask("GET", "/")[0] == 200


def test_it_listens_on_this_machine_only_and_says_so_if_a_port_is_taken(reviewed):
    assert reviewed.server._http.server_address[0] == "127.0.0.1"
    for port in (reviewed.server.port, 70_000):
        with refused(InputError, port, "127.0.0.1") as error:
            ReviewServer(DATA, list, lambda *_: None, announce=print, port=port)
        assert ".." not in str(error.value)


def test_after_the_block_nothing_is_recorded():
    reviewed = Reviewed()
    with reviewed.server:
        port = reviewed.server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(Exception) as closed:
        reviewed.server.record("Ann", VOTE)
    assert closed.value.status == 503
    assert reviewed.recorded == []


def test_a_server_whose_address_could_not_be_announced_is_closed():
    announced = []

    def announce(url):
        announced.append(url)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ReviewServer(DATA, list, lambda *_: None, announce=announce):
        pass
    port = int(announced[0].split(":")[2].split("/")[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_it_serves_until_the_user_interrupts_it():
    announced = []

    def announce(url):
        announced.append(url)
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()

    serve_review(DATA, lambda _: [], lambda *_: None, announce=announce)
    assert len(announced) == 1
    port = int(announced[0].split(":")[2].split("/")[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
