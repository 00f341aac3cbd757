"""A [`CompletionServer`] in this process that generates and scores with real weights, as `vllm serve` does."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from peft import PeftModel
from transformers import AutoModelForCausalLM

from completion_server import CompletionServer
from spin_trl.generation.engine import Response, Sampling
from spin_trl.generation.engines.transformers import TransformersEngine

_ALONE = threading.Lock()
"""The global random state, and transformers' state while a model is loaded, are shared by all servers of this process."""


@dataclass
class WeightsServer(CompletionServer):
    """A server with the weights of a folder.

    Attributes:
        folder: folder of the base model's weights, which may be changed while the server runs.
        dtype: number format in which the server computes.
        other_adapters: folders that are read in place of those that the server is told to load.
        loaded: names of all adapters that were loaded, in order.
    """

    folder: str = ""
    dtype: torch.dtype = torch.float32
    other_adapters: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    version: str | None = "0.31.0+test"
    max_length: int = 128
    _models_read: dict[str, Any] = field(default_factory=dict)

    def serve(self, folder: str) -> None:
        """Serve other weights, as after a restart; adapters are gone."""
        self.folder = self.root = folder
        self.adapters.clear()

    def __post_init__(self) -> None:
        self.root = self.folder

    def _routes(self, app: web.Application) -> None:
        async def serve(request: web.Request) -> web.Response:
            self.serve(request.query["folder"])
            return web.Response()

        app.router.add_get("/serve", serve)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["model"]
        if name not in (self.model, *self.adapters):
            return web.json_response({"error": {"message": f"The model `{name}` does not exist."}}, status=404)
        return await super()._complete(request)

    async def _load_adapter(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return web.json_response({"error": {"message": f"{name} has already been loaded"}}, status=400)
        if not Path(path).is_dir():
            return web.json_response({"error": {"message": f"No adapter found for {path}"}}, status=404)
        self.loaded.append(name)
        self.adapters[name] = path
        return web.Response(text="Success")

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        model, prompt = self._model(body["model"]), body["prompt"]
        names = ("temperature", "top_p", "top_k")
        sampling = Sampling(*(body[name] for name in names), body["max_tokens"], None, 1, 1, 0)
        engine = TransformersEngine(model, body["stop_token_ids"], 0)
        with _ALONE:
            made = [engine.answer([prompt], sampling, body["seed"] + number)[0] for number in range(body["n"])]
        scored = None
        if body.get("allowed_token_ids") is not None:
            [token] = body["allowed_token_ids"]
            with torch.no_grad():
                logps = model(torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1)
            made, scored = [Response([token], "length")], {"token_logprobs": [float(logps[token])]}
        return {
            "choices": [
                {
                    "index": number, "token_ids": one.ids, "prompt_token_ids": prompt, "logprobs": scored,
                    "finish_reason": "stop" if one.finish_reason == "eos" else "length",
                }
                for number, one in enumerate(made)
            ]
        }  # fmt: skip

    def _model(self, name: str) -> Any:
        path = self.adapters.get(name)
        path = self.other_adapters.get(path or "", path)
        place = f"{self.folder} {name}"
        # While transformers loads a model, `PreTrainedModel.tie_weights` does nothing in the whole process. Two threads that
        # load at the same time leave it so, and heads of later models are not tied to their embeddings.
        with _ALONE:
            if place not in self._models_read:
                model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype)
                self._models_read[place] = (model if path is None else PeftModel.from_pretrained(model, path)).eval()
            return self._models_read[place]
