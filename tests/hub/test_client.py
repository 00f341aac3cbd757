"""The real client replaces commits, retries, and gives messages without secrets for a run's operations on the Hub."""

import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitInfo

from hub.server import TOKEN, USER, LocalHub
from messages import names, refused
from spin_trl.errors import HubError
from spin_trl.hub import client
from spin_trl.hub.client import Hub, explain, harmless, may_pass

REPO = f"{USER}/small"
CARD = b"---\nlicense: mit\n---\n# A card\n"


def push(hub: Hub, files: dict, revision: str = "iter-0", **kwargs) -> CommitInfo:
    hub.create(REPO, "model", None)
    return hub.push(REPO, revision, lambda: files, "a message", **kwargs)


def test_files_small_and_large_are_committed_to_a_branch(hub: LocalHub, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights" * 1000)
    commit = push(Hub(), {"model.safetensors": weights, "README.md": CARD})
    repo = hub.model(REPO)
    assert repo.branches["iter-0"]["model.safetensors"] == weights.read_bytes()
    assert repo.branches["iter-0"]["README.md"] == CARD
    assert repo.large == {"model.safetensors"}
    assert repo.commits["iter-0"][-1] == (commit.oid, "a message")
    assert commit.commit_url.endswith(f"/{REPO}/commit/{commit.oid}")
    assert "model.safetensors" not in repo.branches["main"]


def test_a_name_without_an_owner_is_the_accounts(hub: LocalHub) -> None:
    assert Hub().full_name("small") == REPO
    assert Hub().full_name("org/small") == "org/small"


@pytest.mark.parametrize("private", [True, False, None])
def test_a_repository_is_as_private_as_asked(hub: LocalHub, private: bool | None) -> None:
    Hub().create(REPO, "model", private)
    assert hub.model(REPO).private is private


def test_of_another_model_nothing_stays_and_what_is_the_users_own_does(hub: LocalHub) -> None:
    push(Hub(), {"model-1.safetensors": b"old", "LICENSE": b"mine", "config.json": b"{}"})
    push(Hub(), {"adapter_model.safetensors": b"new"}, outdated=("*.safetensors", "config.json"))
    assert sorted(hub.model(REPO).branches["iter-0"]) == [".gitattributes", "LICENSE", "adapter_model.safetensors"]


@pytest.mark.parametrize("where", ["/repos/create", "/branch/", "/preupload/", "validate-yaml", "/commit/"])
@pytest.mark.parametrize("status", [500, 503, None], ids=["500", "503", "cut"])
def test_a_push_is_repeated_after_a_servers_trouble(hub: LocalHub, where: str, status: int | None, patient) -> None:
    hub.fail(where, times=2, status=status)
    push(Hub(), {"README.md": CARD, "model.safetensors": b"weights"})
    assert hub.model(REPO).branches["iter-0"]["model.safetensors"] == b"weights"
    assert len(hub.model(REPO).commits["iter-0"]) == 2, "branched off, and one commit"


def test_a_large_file_is_sent_again_after_a_cut_connection(hub: LocalHub, patient) -> None:
    hub.fail("PUT /lfs/", status=None)
    push(Hub(), {"model.safetensors": b"weights"})
    assert hub.count("PUT /lfs/") == 2
    assert hub.model(REPO).branches["iter-0"]["model.safetensors"] == b"weights"


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: LocalHub) -> None:
    hub.fail("/commit/", status=None, after=True)
    commit = push(Hub(), {"README.md": CARD})
    assert [oid for oid, message in hub.model(REPO).commits["iter-0"] if message == "a message"] == [commit.oid]


@pytest.mark.parametrize(
    ("status", "setting"), [(401, "`HF_TOKEN`"), (403, "`hub_model_id`"), (404, "`hub_model_id`")]
)
def test_what_another_attempt_does_not_change_is_not_attempted(hub: LocalHub, status: int, setting: str) -> None:
    hub.fail("/repos/create", times=-1, status=status)
    with refused(HubError, "create", REPO, status, setting, "`hf auth login`"):
        Hub().create(REPO, "model", None)
    assert hub.count("/repos/create") == 1


def test_patience_ends(hub: LocalHub) -> None:
    hub.fail("/repos/create", times=-1)
    with refused(HubError, "create", REPO, 500):
        Hub().create(REPO, "model", None)
    assert hub.count("/repos/create") == 1 + len(client.PAUSES)


def test_a_pause_is_said_with_its_reason(hub: LocalHub) -> None:
    hub.fail("/repos/create", status=503)
    said: list[str] = []
    Hub(on_pause=said.append).create(REPO, "model", None)
    (line,) = said
    assert names(line, "create", REPO, "HfHubHTTPError", 503, "0 s")


def test_nothing_is_attempted_after_an_interrupt(hub: LocalHub, monkeypatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (3600.0,))
    hub.fail("/repos/create", times=-1)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(HubError):
        Hub(stopped).create(REPO, "model", None)
    assert hub.count("/repos/create") == 1


def test_a_card_that_the_hub_does_not_take_is_refused_with_its_reason(hub: LocalHub) -> None:
    with refused(HubError, "iter-0", REPO, "README.md", '"license"'):
        push(Hub(), {"README.md": b"---\nlicense: my-own\n---\n"})
    assert hub.count("validate-yaml") == 1


def test_a_file_that_vanishes_is_no_error(hub: LocalHub, tmp_path: Path) -> None:
    """The files are listed again."""
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in paths:
        path.write_bytes(path.name.encode())
    api = Hub()
    api.create(REPO, "model", None)
    hub.hooks.append(lambda request: paths[0].unlink(missing_ok=True) if "preupload" in request else None)
    api.push(REPO, "run", lambda: {path.name: path for path in paths if path.exists()}, "a state")
    assert sorted(hub.model(REPO).branches["run"]) == [".gitattributes", "two.safetensors"]


def test_what_there_is_no_more_is_not_attempted_again(hub: LocalHub) -> None:
    """A model may have been deleted for good."""
    calls: list[int] = []

    def files() -> dict:
        calls.append(1)
        raise HubError("It has gone.")

    api = Hub()
    api.create(REPO, "model", None)
    with refused(HubError, "gone") as caught:
        api.push(REPO, "iter-0", files, "a message")
    assert str(caught.value) == "It has gone."
    assert len(calls) == 1


def test_without_a_token_the_message_says_where_it_comes_from(hub: LocalHub, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with refused(HubError, "no token", "`HF_TOKEN`", "`hf auth login`"):
        Hub().check_access()


def test_messages_hold_neither_tokens_nor_signatures(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "unusual-token-without-prefix")
    text = harmless(
        f"bad {TOKEN} for https://s3.example/x?X-Amz-Signature=abc&y=1 (unusual-token-without-prefix)\nsecond line, "
        "hf_oauth_eyJhbGciOi.eyJzdWIiOi-1_2.c2ln of a login, by hf_transfer"
    )
    assert text == "bad *** for https://s3.example/x (***) second line, *** of a login, by hf_transfer"


def test_what_is_behind_an_error_decides() -> None:
    """The client's own error only names the file."""
    outer = RuntimeError("Error while uploading 'x' to the Hub.")
    outer.__cause__ = ValueError("a bug")
    assert not may_pass(outer)
    assert explain(outer) == "ValueError: a bug"
    assert may_pass(ConnectionResetError("cut"))


def test_the_hub_is_asked_for_licences(hub: LocalHub) -> None:
    Hub().create("org/base", "model", None)
    hub.model("org/base").license = "apache-2.0"
    assert Hub().license_of("org/base", "model") == "apache-2.0"
    assert Hub().license_of("org/none", "model") is None
    hub.fail("/api/models/org/base", times=-1)
    with refused(HubError, "licence", "org/base", 500):
        Hub().license_of("org/base", "model")
