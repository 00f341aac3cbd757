"""What the client relies on holds for the recorded answers of a real server."""

import pytest

from recorded_vllm import names_of_recorded, recorded


def choice_of(name: str):
    [choice] = recorded(name).answer["choices"]
    return choice


@pytest.mark.parametrize("name", names_of_recorded())
def test_every_answer_states_its_version(name: str) -> None:
    assert recorded(name).version == "vllm 0.31.0+cpu"


def test_prompt_ids_come_back_as_they_were_sent() -> None:
    answered = [name for name in names_of_recorded() if isinstance(recorded(name).answer, dict)]
    found = 0
    for name in answered:
        prompt = (recorded(name).request or {}).get("prompt") if isinstance(recorded(name).request, dict) else None
        for choice in recorded(name).answer.get("choices", []):
            assert choice["prompt_token_ids"] == (prompt if isinstance(prompt[0], int) else prompt[choice["index"]])
            found += 1
    assert found > 8


def test_the_token_that_ended_a_response_is_among_its_ids() -> None:
    assert (choice_of("eos")["token_ids"], choice_of("eos")["finish_reason"], choice_of("eos")["stop_reason"]) == (
        [2],
        "stop",
        None,
    )
    assert choice_of("eos-as-stop-token")["token_ids"] == [2]
    assert choice_of("eos-as-stop-token")["stop_reason"] == 2
    assert choice_of("stop-token")["token_ids"][-1] == choice_of("stop-token")["stop_reason"] == 38


def test_every_eos_of_the_model_ends_a_response_unless_eos_is_ignored() -> None:
    """Even with `--generation-config vllm`, so the run's own set needs `ignore_eos` and `stop_token_ids`."""
    assert recorded("eos-of-generation-config").request["stop_token_ids"] == []
    assert not recorded("eos-of-generation-config").request["ignore_eos"]
    assert choice_of("eos-of-generation-config")["token_ids"] == [0]


def test_the_second_of_two_samples_has_the_next_seed() -> None:
    second = recorded("sampled-two").answer["choices"][1]["token_ids"]
    assert recorded("sampled-two").request["seed"] + 1 == recorded("sampled-seed-8").request["seed"]
    assert second == choice_of("sampled-seed-8")["token_ids"]


def test_greedy_responses_are_asked_for_one_at_a_time() -> None:
    assert recorded("greedy-two").status == 400


def test_a_token_that_is_the_only_allowed_one_keeps_its_log_prob() -> None:
    """It is the model's own, although no other token could be sampled."""
    choice = choice_of("forced-token")
    assert choice["token_ids"] == recorded("forced-token").request["allowed_token_ids"]
    assert len(choice["logprobs"]["token_logprobs"]) == 1
    assert choice["logprobs"]["token_logprobs"][0] < -1


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("models-without-key", 401),
        ("unknown-model", 404),
        ("unloaded-model", 404),
        ("too-long", 400),
        ("out-of-vocabulary", 400),
        ("bad-json", 400),
        ("load-adapter", 200),
        ("load-adapter-again", 400),
        ("load-adapter-missing", 404),
        ("load-adapter-dora", 500),
        ("load-adapter-rank", 500),
    ],
)
def test_errors_have_their_status(name: str, status: int) -> None:
    assert recorded(name).status == status
