"""Answers of a real vLLM, recorded while the tests that need one are played, and a server that gives them again.

`make test-vllm RECORD=1` starts vLLM behind a recorder and writes `recorded/`. Where no vLLM is installed, the same tests
start a server that replays: it is started, told to load adapters, asked and ended as vLLM is, but runs no model. It looks
for the request among the recorded ones, and refuses what was not recorded.

- `recording.py`: the file, requests and answers in it, and the search for an answer.
- `weights.py`: which weights a server was started with, or was told to load.
- `recorder.py`: a proxy in front of vLLM that writes down what it answers.
- `server.py`: the server that replays.
"""
