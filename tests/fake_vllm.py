"""A command that behaves as `vllm` does when it starts, fails or is ended, without a model."""

import json
import os
import sys
import time
from pathlib import Path

import psutil

SCRIPT = """
import http.server, json, os, signal, subprocess, sys, time

does, arguments = json.loads(sys.argv[1]), sys.argv[2:]
if arguments == ["--version"]:
    print("INFO: a line about the platform")
    time.sleep(does.get("version_after", 0))
    print(does.get("version", "0.31.0"))
    sys.exit(does.get("exit", 0))
option = lambda name: arguments[arguments.index("--" + name) + 1]
starts = does["folder"] + "/starts.jsonl"
with open(starts, "a", encoding="utf-8") as file:
    file.write(json.dumps({"arguments": arguments, "environment": dict(os.environ), "pid": os.getpid()}) + "\\n")
if does.get("ignores_sigterm"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for session in does.get("children", []):
    sleep = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid"
    # The process in between ends, so that its child has lost its parent, as a daemon has.
    subprocess.run([sys.executable, "-I", "-S", "-c", parent, sleep], start_new_session=session, check=True)
if len(open(starts, encoding="utf-8").readlines()) <= does.get("port_taken", 0):
    print("OSError: [Errno 98] Address already in use")
    sys.exit(1)
if "prints" in does:
    print(does["prints"], flush=True)
    sys.exit(does.get("exit", 1))
time.sleep(does.get("ready_after", 0))


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        key = self.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"] + does.get("other_key", "")
        status = 200 if self.path == "/health" or key else 401
        models, version = {"data": [{"id": option("served-model-name")}]}, {"version": does.get("version", "0.31.0")}
        self.answer(status, {"/v1/models": models, "/version": version}.get(self.path))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "prints_when_asked" in does:
            print(does["prints_when_asked"], flush=True)
            os._exit(1)
        known = self.path == "/v1/completions" and asked["model"] == option("served-model-name")
        self.answer(does.get("status", 200) if known else 404, {"error": {"message": does.get("error", "")}})

    def answer(self, status, content):
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.HTTPServer((option("host"), int(option("port"))), Answer).serve_forever()
"""


def fake_vllm(folder: Path, **does: object) -> list[str]:
    """Return a command that behaves as told, and writes how it was started to `starts.jsonl` in a folder."""
    script = folder / "vllm.py"
    script.write_text(SCRIPT, encoding="utf-8")
    return [sys.executable, "-I", "-S", str(script), json.dumps({"folder": str(folder), **does})]


def starts_of(folder: Path) -> list[dict]:
    """Return arguments, environment and process id of every start of a fake."""
    path = folder / "starts.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def processes_below(folder: Path) -> list[int]:
    """Return all processes that still have the environment of a fake, i.e. those that it has started, and itself."""
    keys = {start["environment"]["VLLM_API_KEY"] for start in starts_of(folder)}
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VLLM_API_KEY") in keys and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return [pid for pid in found if pid != os.getpid()]


def all_gone(folder: Path, seconds: float) -> bool:
    """Return whether all processes of a fake end within this time."""
    deadline = time.monotonic() + seconds
    while left := processes_below(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05 if left else 0)
    return True
