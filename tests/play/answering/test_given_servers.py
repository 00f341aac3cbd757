"""Servers that exist already answer with the weights that are to answer, or the message says which they have."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import tiny
from completion_server import changed
from given_runs import LORA, adapted, engine, prepared, shaken, trained
from messages import logged, names, refused
from runs import build, steps
from spin_trl.errors import LaunchError, PausedError, RecipeError
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.completions.endpoint import ServedModel
from spin_trl.generation.completions.failures import MalformedAnswerError, NoEndpointError, ServedWeightsError
from spin_trl.generation.completions.waiting import Patience
from spin_trl.generation.completions.weights import WeightsVerdict
from spin_trl.generation.store import GenerationStore
from spin_trl.play.answering import given_servers
from spin_trl.play.answering.given_servers import against_servers, reload_of, served_name
from spin_trl.run.journal import Step
from weights_server import WeightsServer

QUICK = Patience(connect=0.5, failures=1, first=0.005, probe=0.01, gone=0.1, longest=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Llama whose log-probs are far from uniform."""
    return tiny.save(tmp_path_factory.mktemp("given"), shaken(tiny.model("llama"), 0, 0.3))


@pytest.fixture
def servers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WeightsServer]]:
    """Give two servers with the weights of the start."""
    monkeypatch.setattr(given_servers, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(
        "spin_trl.play.answering.at_hand.free_memory", lambda: None
    )  # it takes longer than all the rest
    both = [WeightsServer(folder=str(folder)) for _ in range(2)]
    for one in both:
        one.start()
    yield both
    for one in both:
        one.stop()


def test_the_start_answers_without_any_reload(folder: Path, servers: list[WeightsServer]) -> None:
    """With fewer than 2,000 tokens in the data, all are compared."""
    run = prepared(folder, servers)
    made = engine(run, str(folder))
    assert (made.version, made.client.model, len(made.client.urls)) == ("0.31.0+test", "tiny", 2)
    assert made.served["expected"] == "start"
    assert made.served["tokens"] == sum(len(ids) for ids in run.rows()["real_ids"]) < 2_000
    assert [one["verdict"] for one in made.served["servers"]] == ["right", "right"]
    assert all(one["nats_a_token"]["start"] < 1e-4 for one in made.served["servers"])


@pytest.mark.parametrize("served", ["start", "iteration-0"])
def test_other_weights_of_the_run_are_found_with_the_address(
    served: str, folder: Path, servers: list[WeightsServer]
) -> None:
    """The base served for iteration 1 and iteration 0 served for iteration 1, at one of two endpoints."""
    run = prepared(folder, servers)
    before = trained(run)
    expected = str(run.directory.own("iteration-1") / "model")
    shaken(AutoModelForCausalLM.from_pretrained(before), 2, 0.1).save_pretrained(expected)
    servers[0].serve(expected)
    servers[1].serve(str(folder) if served == "start" else before)
    with refused(
        PausedError, expected, servers[1].url, served, "iteration-1", "vllm serve", "spin-trl run run"
    ) as error:
        engine(run, expected)
    assert f"{servers[0].url} serves" not in str(error.value)
    servers[1].serve(expected)
    found = engine(run, expected).served
    assert {"iteration-0", "start"} == found["apart"].keys()
    assert all(one["nats_a_token"]["iteration-1"] < 1e-4 for one in found["servers"])
    assert all(one["nats_a_token"][served] > 0.01 for one in found["servers"])


def test_a_baseline_arm_that_answered_last_is_not_taken_for_the_next(
    folder: Path, servers: list[WeightsServer]
) -> None:
    """Two arms differ less than 0.1 nats a token, and both are far from all of self-play."""
    run = prepared(folder, servers[:1])
    trained(run, seed=3)
    start = AutoModelForCausalLM.from_pretrained(folder)
    before, expected = (str(run.directory.own(f"baseline/{arm}/iteration-0") / "model") for arm in ("sft", "sft-dft"))
    arm = shaken(start, 1, 0.1)
    arm.save_pretrained(before)
    shaken(arm, 2, 0.002).save_pretrained(expected)
    run.journal.append(Step.EVALUATE, "baseline/sft/iteration-0")
    servers[0].serve(before)
    with refused(PausedError, servers[0].url, "baseline/sft/iteration-0", "baseline/sft-dft/iteration-0"):
        engine(run, expected)
    servers[0].serve(expected)
    assert engine(run, expected).served["servers"][0]["verdict"] == WeightsVerdict.RIGHT


def test_adapters_are_loaded_once_and_the_one_before_is_unloaded(folder: Path, servers: list[WeightsServer]) -> None:
    run = prepared(folder, servers, peft_config=LORA)
    assert engine(run, str(folder)).client.model == "tiny"
    first = engine(run, trained(run)).client.model
    assert first.startswith("run-iteration-0-")
    assert engine(run, trained(run)).client.model == first  # another phase with the same weights
    assert servers[0].loaded == servers[1].loaded == [first]
    servers[0].adapters["mine"] = "/elsewhere/adapter"
    second = engine(run, trained(run, seed=5)).client.model  # the same place, other weights: as after `overwrite`
    assert second != first
    assert servers[0].adapters.keys() == {second, "mine"}
    assert servers[1].adapters.keys() == {second}


def test_the_wrong_adapter_at_one_of_two_endpoints_is_found(
    folder: Path, servers: list[WeightsServer], tmp_path: Path
) -> None:
    run = prepared(folder, servers, peft_config=LORA)
    path = trained(run, by=0.3)
    other = str(tmp_path / "other")
    shaken(adapted(AutoModelForCausalLM.from_pretrained(folder)), 8, 1.0).save_pretrained(other)
    servers[1].other_adapters[str(Path(path).resolve())] = other
    with refused(ServedWeightsError, servers[1].url, "iteration-0", "nats") as error:
        engine(run, path)
    assert servers[0].url not in str(error.value)


def test_an_adapter_that_a_server_refuses_is_an_error_with_the_reason(
    folder: Path, servers: list[WeightsServer]
) -> None:
    run = prepared(folder, servers, peft_config=LORA, server_model_root="/mnt/run")
    path = trained(run)
    with refused(ServedWeightsError, "/mnt/run/iteration-0/model", servers[0].url, 404, "`--enable-lora`"):
        engine(run, path)


def test_models_that_can_not_be_told_apart_need_a_server_that_names_the_folder(
    folder: Path, servers: list[WeightsServer], caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(folder, servers[:1])
    path = trained(run, by=1e-6)
    servers[0].dtype = torch.bfloat16  # its rounding hides the difference
    with refused(PausedError, servers[0].url, "iteration-0 or start", WeightsVerdict.UNSURE, "nats"):
        engine(run, path)
    servers[0].serve(path)
    served = engine(run, path).served
    logged(caplog, servers[0].url, WeightsVerdict.UNSURE, "nats")
    assert served["servers"][0]["verdict"] == WeightsVerdict.UNSURE
    assert served["servers"][0]["nats_a_token"]["iteration-0"] > served["apart"]["start"]


def reloading(folder: Path) -> tuple[list[str], Path]:
    """Return a command that makes a server serve a folder, and the file in which it notes its arguments."""
    notes, script = folder / "reloads.jsonl", folder / "reload.py"
    script.write_text(
        "import json, sys, urllib.parse, urllib.request\n"
        f"open({str(notes)!r}, 'a', encoding='utf-8').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "urllib.request.urlopen(sys.argv[2] + '/serve?folder=' + urllib.parse.quote(sys.argv[1])).read()\n",
        encoding="utf-8",
    )
    return [sys.executable, str(script), "{model}", "{url}"], notes


def test_a_command_is_run_for_the_servers_with_other_weights(
    folder: Path, servers: list[WeightsServer], tmp_path: Path
) -> None:
    command, notes = reloading(tmp_path)
    run = prepared(folder, servers, server_reload="command", server_reload_command=command)
    engine(run, str(folder))
    assert not notes.exists()  # they had the start's weights
    path = trained(run)
    servers[0].serve(path)
    engine(run, path)
    assert [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()] == [
        [str(Path(path).resolve()), servers[1].url]
    ]
    engine(run, path)
    assert len(notes.read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "error", "parts"),
    [
        ("pass", ServedWeightsError, ["start", "iteration-0", "`server_reload_command`"]),
        ("import sys; sys.exit('no such service')", LaunchError, ["no such service", "exit code 1"]),
    ],
)
def test_a_command_that_changes_nothing_is_an_error(
    code: str, error: type[Exception], parts: list[str], folder: Path, servers: list[WeightsServer]
) -> None:
    command = [sys.executable, "-c", code, "{model}"]
    run = prepared(folder, servers[:1], server_reload="command", server_reload_command=command)
    with refused(error, *parts):
        engine(run, trained(run))


def test_a_server_that_does_not_answer_is_left_out(
    folder: Path, servers: list[WeightsServer], caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(folder, servers, peft_config=LORA)
    servers[0].stop()
    assert engine(run, str(folder)).client.urls == (servers[1].url,)
    logged(caplog, servers[0].url)
    servers[1].stop()
    with refused(NoEndpointError, servers[0].url, servers[1].url):
        engine(run, str(folder))


@pytest.mark.parametrize("stops", ["load", "score", "version"])
def test_a_server_that_stops_while_it_is_compared_is_left_out(
    stops: str, folder: Path, servers: list[WeightsServer], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(given_servers, "Patience", lambda **_: QUICK)
    run = prepared(folder, servers, peft_config=LORA)
    path, name = trained(run), {"load": "load_adapter"}.get(stops, stops)
    step = getattr(CompletionsClient, name)

    def stopped(client: CompletionsClient, *given: Any) -> Any:
        servers[0].stop()
        return step(client, *given)

    monkeypatch.setattr(CompletionsClient, name, stopped)
    made = engine(run, path)
    assert (servers[1].url in made.client.urls, made.version) == (True, "0.31.0+test")
    if stops != "version":  # after that, its requests go elsewhere
        assert made.client.urls == (servers[1].url,)
        assert len(made.served["servers"]) == 1
        logged(caplog, servers[0].url, "left out")


def test_the_last_server_is_not_left_out(
    folder: Path, servers: list[WeightsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_servers, "Patience", lambda **_: QUICK)
    run = prepared(folder, servers[:1])
    score = CompletionsClient.score
    monkeypatch.setattr(CompletionsClient, "score", lambda *given: servers[0].stop() or score(*given))
    with refused(NoEndpointError, servers[0].url):
        engine(run, str(folder))


def test_a_run_that_pauses_waits_for_servers_that_are_not_there(folder: Path, servers: list[WeightsServer]) -> None:
    run = prepared(folder, servers)
    for one in servers:
        one.stop()
    with refused(PausedError, servers[0].url, servers[1].url, folder):
        engine(run, str(folder))


def test_a_server_without_token_ids_is_refused(folder: Path, servers: list[WeightsServer]) -> None:
    run = prepared(folder, servers)
    servers[1].fault = changed(lambda answer: answer["choices"][0].pop("token_ids"))
    with refused(MalformedAnswerError, servers[1].url, "token ids", "`return_token_ids`"):
        engine(run, str(folder))


def test_a_model_of_another_name_is_named(folder: Path, servers: list[WeightsServer]) -> None:
    run = prepared(folder, servers, server_model="policy", peft_config=LORA)
    with refused(ServedWeightsError, servers[0].url, "'tiny'", "`server_model`", "'policy'"):
        engine(run, str(folder))


def test_a_context_that_is_too_short_is_refused(folder: Path, servers: list[WeightsServer]) -> None:
    run = prepared(folder, servers)
    servers[1].max_length = 63
    with refused(ServedWeightsError, servers[1].url, 63, "`max_length`", "--max-model-len 64"):
        engine(run, str(folder))


def listing(*models: tuple[str, str | None, str | None]) -> list[ServedModel]:
    return [ServedModel("http://a", name, root, None, parent) for name, root, parent in models]


def test_the_name_on_the_servers_is_found() -> None:
    base, alias = ("base", "/m", None), ("alias", "/m", None)
    adapter, other = ("a", "/m/a", "base"), ("b", "/n", None)
    assert served_name({"u": listing(base, adapter)}, None, ["/x"]) == "base"
    assert served_name({"u": listing(base, adapter)}, None, ["/m/a"]) == "a"
    assert served_name({"u": listing(base, alias), "v": listing(base)}, None, []) == "base"
    assert served_name({"u": listing(base, other)}, None, []) is None  # a proxy
    assert served_name({"u": listing(base, other)}, None, ["/n"]) == "b"
    assert served_name({"u": listing(base), "v": listing(other)}, None, []) is None
    assert served_name({"u": listing(base, other)}, "b", []) == "b"
    assert served_name({"u": listing(base), "v": listing(other)}, "b", []) is None


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"server_urls": None}, ["`server_urls`"]),
    ({"server_urls": ["gpu-1"]}, ["'gpu-1'"]),
    ({"server_key_variable": "no-name"}, ["`server_key_variable`"]),
    ({"server_key_variable": "NOT_SET"}, ["`server_key_variable`", "'NOT_SET'"]),
    ({"server_model_root": "runs/my"}, ["`server_model_root`", "'runs/my'"]),
    ({"server_reload": "lora"}, ["`server_reload: lora`", "`use_peft: true`"]),
    ({"server_reload": "lora", "peft_config": LoraConfig(use_dora=True)}, ["`use_dora`"]),
    ({"server_reload": "command"}, ["`server_reload_command`"]),
    (
        {"server_reload": "command", "server_reload_command": ["./serve.sh {url}"]},
        ["`server_reload_command`", "{model}"],
    ),
    ({"server_reload_command": ["serve {model}"]}, ["`server_reload_command`", "`server_reload: pause`"]),
]


@pytest.mark.parametrize(("given", "parts"), REFUSED)
def test_what_can_not_work_is_refused_at_the_start(
    given: dict[str, Any], parts: list[str], llama_folder: Path
) -> None:
    run = build(llama_folder, engine="server", **{"server_urls": ["http://127.0.0.1:1"], **given}).state
    [reason] = against_servers(run)
    assert names(reason, *parts)
    with refused(RecipeError, *parts):
        build(llama_folder, engine="server", **{"server_urls": ["http://127.0.0.1:1"], **given}).run()


def test_a_key_is_not_sent_over_a_network_in_the_clear(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "abcdef")
    given: dict[str, Any] = {"server_urls": ["http://gpu-1:8000"], "server_key_variable": "MY_KEY"}
    [reason] = against_servers(build(llama_folder, engine="server", **given).state)
    assert names(reason, "http://gpu-1:8000", "`server_allow_plain_http: true`")
    assert "abcdef" not in reason
    given["server_allow_plain_http"] = True
    assert [*against_servers(build(llama_folder, engine="server", **given).state)] == []


def test_adapters_are_loaded_and_other_weights_wait_for_the_user(llama_folder: Path) -> None:
    assert reload_of(build(llama_folder, engine="server", peft_config=LORA).state) == "lora"
    assert reload_of(build(llama_folder, engine="server").state) == "pause"
    assert reload_of(build(llama_folder, engine="server", server_reload="command").state) == "command"
    assert [*against_servers(build(llama_folder).state)] == []


@pytest.mark.slow
def test_a_run_with_adapters_at_servers(folder: Path, servers: list[WeightsServer]) -> None:
    """Two iterations; what answers is checked before every phase that answers, and the manifests have the numbers."""
    session = build(
        folder, engine="server", server_urls=[one.url for one in servers], evaluate_greedy=True, peft_config=LORA
    )
    session.run()
    run = session.state
    assert ("evaluate", "iteration-1") in steps()
    assert [name[:16] for name in servers[0].loaded] == ["run-iteration-0-", "run-iteration-1-"]
    for store, expected in (
        ("iteration-0/generations", "start"),
        ("iteration-0/held-out/greedy", "iteration-0"),
        ("iteration-1/generations", "iteration-0"),
        ("iteration-1/held-out/sampled", "iteration-1"),
    ):
        manifest = GenerationStore(run.directory.path / store).manifest()
        assert (manifest["engine"], manifest["engine_version"]) == ("server", "0.31.0+test")
        assert manifest["served"]["expected"] == expected
        assert [one["verdict"] for one in manifest["served"]["servers"]] == ["right", "right"]
    assert all(server.bodies for server in servers)


@pytest.mark.slow
def test_a_run_pauses_and_goes_on_when_the_right_weights_answer(
    folder: Path, servers: list[WeightsServer], capsys: pytest.CaptureFixture[str]
) -> None:
    def play() -> str | None:
        return build(folder, engine="server", server_urls=[servers[0].url], num_iterations=1).run().paused

    paused = play()
    assert paused is not None
    assert steps()[-1] == ("train", "iteration-0")
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("run/iteration-0/model", "spin-trl run run"):
        assert part in printed
        assert part in paused
    assert play() is not None  # nothing has changed
    servers[0].serve(str(Path("run/iteration-0/model").resolve()))
    assert play() is None
    assert ("evaluate", "iteration-0") in steps()
