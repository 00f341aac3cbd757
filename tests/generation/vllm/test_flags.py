"""The command line of a server follows from the run's settings; the user's arguments come last, and can't undo the run's."""

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.vllm.flags import LORA_RANKS, Flags, check_more, lora_rank_for


def value_of(name: str, arguments: list[str]) -> str | None:
    """Return the only value of an option, or None without it."""
    places = [place for place, argument in enumerate(arguments) if argument == f"--{name}"]
    assert len(places) <= 1
    return arguments[places[0] + 1] if places else None


def test_all_that_a_run_decides_is_named() -> None:
    flags = Flags(
        "models/theta-1",
        "theta-1",
        dtype="bfloat16",
        max_length=1024,
        max_num_seqs=256,
        memory_share=0.87,
        tensor_parallel=2,
        lora_rank=20,
        revision="abc",
        trust_remote_code=True,
        more=["--enforce-eager"],
    )
    assert flags.arguments(8123) == [
        *("serve", "models/theta-1", "--host", "127.0.0.1", "--port", "8123", "--served-model-name", "theta-1"),
        *("--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "256"),
        *("--gpu-memory-utilization", "0.87", "--tensor-parallel-size", "2", "--revision", "abc"),
        *("--generation-config", "vllm", "--max-lora-rank", "32"),
        *("--enable-prefix-caching", "--disable-uvicorn-access-log", "--enable-lora", "--trust-remote-code"),
        "--enforce-eager",
    ]


def test_what_is_not_set_is_left_to_vllm() -> None:
    arguments = Flags("m", "n").arguments(1)
    for name in ("max-model-len", "max-num-seqs", "gpu-memory-utilization", "kv-cache-memory-bytes", "max-lora-rank"):
        assert value_of(name, arguments) is None
    assert not {"--enable-lora", "--trust-remote-code", "--revision", "--tensor-parallel-size"} & set(arguments)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--max-model-len", "9"], "max-model-len"),
        (["--max_model_len=9"], "max-model-len"),
        (["--no-enable-prefix-caching"], "enable-prefix-caching"),
        (["--kv-cache-memory-bytes", "9"], "gpu-memory-utilization"),
        (["--device-memory-utilization", "0.5"], "gpu-memory-utilization"),
        (["--dtype", "float32"], "dtype"),
    ],
)
def test_the_users_option_replaces_ours(more: list[str], name: str) -> None:
    before = Flags("m", "n", max_length=5, memory_share=0.5)
    assert f"--{name}" in before.arguments(1)
    arguments = Flags("m", "n", max_length=5, memory_share=0.5, more=more).arguments(1)
    assert arguments[-len(more) :] == more
    assert f"--{name}" not in arguments[: -len(more)]


@pytest.mark.parametrize(
    "more",
    [
        ["--port", "80"],
        ["--por=80"],  # vLLM's parser knows an option by its beginning
        ["--host", "0.0.0.0"],
        ["--served_model_name", "x"],
        ["-tp", "2"],
        ["-t=2"],
        ["--tensor-parallel-size", "2"],
        ["--override-generation-config.temperature", "2"],
        ["--config", "file.yaml"],
        ["--no-trust-remote-code"],
        ["--enforce-eager", "--no-enable-lora"],
        ["--uds", "socket"],
        ["--help"],
        ["--"],
    ],
)
def test_what_the_run_decides_is_refused(more: list[str]) -> None:
    with refused(RecipeError, "`vllm_args`"):
        check_more(more)
    with refused(RecipeError):
        Flags("m", "n", more=more)


@pytest.mark.parametrize(
    "more", [["--api-key", "abc123"], ["--api_key=abc123"], ["--hf-token", "abc123"], ["--api-k", "abc123"]]
)
def test_a_key_is_refused_and_not_repeated(more: list[str]) -> None:
    with refused(RecipeError) as raised:
        check_more(more)
    assert "abc123" not in str(raised.value)


def test_an_argument_without_its_option_is_refused() -> None:
    with refused(RecipeError, "`vllm_args`", "'eager'"):
        check_more(["eager"])


@pytest.mark.parametrize(
    "more", [["-ep"], ["-r", "0"], ["--model-impl", "transformers"], ["--compilation-config.mode", "0"]]
)
def test_other_options_are_passed_on(more: list[str]) -> None:
    assert Flags("m", "n", more=more).arguments(1)[-len(more) :] == more


@pytest.mark.parametrize(("rank", "flag"), [(1, 1), (2, 8), (8, 8), (9, 16), (64, 64), (257, 320), (512, 512)])
def test_the_rank_is_rounded_up_to_one_that_vllm_knows(rank: int, flag: int) -> None:
    assert lora_rank_for(rank) == flag


def test_a_rank_that_vllm_does_not_know_is_refused() -> None:
    with refused(RecipeError, "`lora_r`", 513, LORA_RANKS[-1]):
        lora_rank_for(513)


@pytest.mark.parametrize(
    ("more", "sequences"),
    [([], 64), (["--max-num-seqs", "8"], 8), (["--max_num_seqs=8"], 8), (["--max-num-seqs", "2k"], None)],
)
def test_the_number_of_sequences_is_the_users_if_given(more: list[str], sequences: int | None) -> None:
    assert Flags("model", "theta-0", "float32", max_num_seqs=64, more=more).sequences == sequences
