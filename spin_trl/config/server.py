"""Settings of the engine that asks servers which exist already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..objectives.fields import setting
from .checks import Bounds

SERVER = "server"
"""Value of `engine`: servers that exist already, of which the run only knows the addresses."""

KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable that holds the key, unless another is named: vLLM reads its own key from it, too."""

RELOAD_LORA, RELOAD_COMMAND, RELOAD_PAUSE = RELOADS = ("lora", "command", "pause")
"""Values of `server_reload`: how servers come by the next weights."""


@dataclass
class ServerSettings:
    """The fields of [`SelfPlayConfig`] on servers that exist already (`engine: server`).

    Args:
        server_urls: With `engine: server`, the addresses of the servers, such as http://gpu-1:8000. All of them serve the
            same model, and share the prompts.
        server_model: With `engine: server`, the name of the model on the servers, or with `server_reload: lora` that of the
            base model. By default, the only one that they list.
        server_key_variable: With `engine: server`, the name of the environment variable that holds the servers' key, if
            they ask for one.
        server_allow_plain_http: With `engine: server`, whether the key may be sent to other machines over plain HTTP, where
            others can read it.
        server_reload: With `engine: server`, how servers come by the next weights: lora loads each adapter by request;
            command runs `server_reload_command`; pause ends the run until you serve the folder that it names. By default,
            lora with LoRA, else pause.
        server_reload_command: With `server_reload: command`, the command that makes a server serve other weights, as a list.
            It is run for each server, with its address in place of {url} and the model's folder in place of {model}.
        server_reload_timeout: With `server_reload: command`, seconds for the command, and then for the server to answer.
        server_model_root: With `engine: server`, the path of the run directory as the servers see it. By default, the same
            path as here.
    """

    server_urls: list[str] | None = setting(
        None,
        "With `engine: server`, the addresses of the servers, such as http://gpu-1:8000. All of them serve the same model, "
        "and share the prompts.",
    )
    server_model: str | None = setting(
        None,
        "With `engine: server`, the name of the model on the servers, or with `server_reload: lora` that of the base model. "
        "By default, the only one that they list.",
    )
    server_key_variable: str = setting(
        KEY_VARIABLE,
        "With `engine: server`, the name of the environment variable that holds the servers' key, if they ask for one.",
    )
    server_allow_plain_http: bool = setting(
        False,
        "With `engine: server`, whether the key may be sent to other machines over plain HTTP, where others can read it.",
    )
    server_reload: str | None = setting(
        None,
        "With `engine: server`, how servers come by the next weights: lora loads each adapter by request; command runs "
        "`server_reload_command`; pause ends the run until you serve the folder that it names. By default, lora with LoRA, "
        "else pause.",
        choices=RELOADS,
    )
    server_reload_command: list[str] | None = setting(
        None,
        "With `server_reload: command`, the command that makes a server serve other weights, as a list. It is run for each "
        "server, with its address in place of {url} and the model's folder in place of {model}.",
    )
    server_reload_timeout: Annotated[float, Bounds(0, low_open=True)] = setting(
        1800.0,
        "With `server_reload: command`, seconds for the command, and then for the server to answer.",
    )
    server_model_root: str | None = setting(
        None,
        "With `engine: server`, the path of the run directory as the servers see it. By default, the same path as here.",
    )
