"""A command that serves a real model as `vllm serve` does, with the transformers engine, one request after another."""

import sys
from pathlib import Path

SCRIPT = """
import asyncio, json, os, sys
from aiohttp import web

arguments = sys.argv[2:]
option = lambda name, default=None: arguments[arguments.index("--" + name) + 1] if "--" + name in arguments else default
with open(sys.argv[1], "a", encoding="utf-8") as file:
    file.write(json.dumps(arguments) + "\\n")
if arguments[:1] == ["--version"]:
    print("0.31.0+test")
    sys.exit()

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from spin_trl.generation.engine import Sampling
from spin_trl.generation.engines.transformers import TransformersEngine

torch.set_num_threads(1)
models = {option("served-model-name"): AutoModelForCausalLM.from_pretrained(arguments[1], dtype=option("dtype")).eval()}
key = "Bearer " + os.environ["VLLM_API_KEY"]


async def complete(request):
    body = await request.json()
    if request.headers.get("Authorization") != key:
        return web.json_response({"error": {"message": "Unauthorized"}}, status=401)
    if body["model"] not in models:
        return web.json_response({"error": {"message": "no model " + body["model"]}}, status=404)
    names = ("temperature", "top_p", "top_k")
    sampling = Sampling(*(body.get(name, 1) for name in names), body["max_tokens"], None, 1, 1, 0)
    engine = TransformersEngine(models[body["model"]], body.get("stop_token_ids", []), 0)
    choices = []
    for number in range(body.get("n", 1)):
        [made] = engine.answer([body["prompt"]], sampling, body.get("seed", 0) + number)
        choices.append({
            "index": number, "text": "", "token_ids": made.ids, "prompt_token_ids": body["prompt"],
            "finish_reason": "stop" if made.finish_reason == "eos" else "length",
        })
    return web.json_response({"choices": choices})


async def load(request):
    body = await request.json()
    base = AutoModelForCausalLM.from_pretrained(arguments[1], dtype=option("dtype"))
    models[body["lora_name"]] = PeftModel.from_pretrained(base, body["lora_path"]).eval()
    return web.Response(text="Success: LoRA adapter added.")


async def listed(request):
    if request.headers.get("Authorization") != key:
        return web.json_response({}, status=401)
    return web.json_response({"data": [{"id": name} for name in models]})


app = web.Application()
app.router.add_post("/v1/completions", complete)
app.router.add_post("/v1/load_lora_adapter", load)
app.router.add_get("/v1/models", listed)
app.router.add_get("/health", lambda request: asyncio.sleep(0, web.Response()))
app.router.add_get("/version", lambda request: asyncio.sleep(0, web.json_response({"version": "0.31.0+test"})))
web.run_app(app, host=option("host"), port=int(option("port")), print=None)
"""


def served_model(folder: Path) -> tuple[list[str], Path]:
    """Return the command, and the file to which it writes the arguments of every start, a JSON list per line."""
    script, starts = folder / "serve.py", folder / "starts.jsonl"
    script.write_text(SCRIPT, encoding="utf-8")
    return [sys.executable, str(script), str(starts)], starts
