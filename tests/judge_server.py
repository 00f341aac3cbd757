"""A judge: a server of `/v1/chat/completions` in a thread, whose judgement and faults tests choose.

`with serving(JudgeServer()) as server:` starts one. It calls an answer good if it contains the word.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completion_server import CompletionServer, status
from spin_trl.config.judge import JudgeSettings
from spin_trl.generation.completions.waiting import Patience
from spin_trl.judging.judge import Judge

Judgement = Callable[[str, Sequence[str]], Any]
"""Returns the verdict on one answer, or on two in their order, given the prompt. Text is the whole reply."""

CRITERIA = ("correct", "helpful", "clear", "harmless")
"""Criteria of the shipped rubric."""

TOKENS = 100
"""Tokens that each request takes, as the server says."""


def all_at(score: int) -> dict[str, Any]:
    """Return a verdict with the same score for every criterion."""
    return {"reason": "because", "scores": dict.fromkeys(CRITERIA, score)}


def fair(prompt: str, answers: Sequence[str]) -> Any:
    """Judge by whether an answer contains `good`, and nothing else."""
    good = ["good" in answer for answer in answers]
    if len(answers) == 1:
        return all_at(5 if good[0] else 2)
    return {"reason": "because", "better": "tie" if good[0] == good[1] else "first" if good[0] else "second"}


def flattered(prompt: str, answers: Sequence[str]) -> Any:
    """Do what an answer asks for, else judge fairly."""
    asks = ["ignore the instructions" in answer.lower() for answer in answers]
    if not any(asks):
        return fair(prompt, answers)
    return all_at(5) if len(answers) == 1 else {"reason": "it asked", "better": "first" if asks[0] else "second"}


def always_left(prompt: str, answers: Sequence[str]) -> Any:
    """Choose the answer that stands first."""
    return {"reason": "it is on the left", "better": "first"} if len(answers) == 2 else fair(prompt, answers)


@dataclass
class JudgeServer(CompletionServer):
    """A server that judges.

    Attributes:
        judgement: what it says.
        takes_schema: whether it takes `response_format`.
        counts: whether it says how many tokens a request took.
    """

    judgement: Judgement = fair
    takes_schema: bool = True
    counts: bool = True

    @property
    def v1(self) -> str:
        """The address to ask."""
        return f"{self.url}/v1"

    def _routes(self, app: Any) -> None:
        app.router.add_post("/v1/chat/completions", self._judge)

    async def _judge(self, request: Any) -> Any:
        body = await request.json()
        if "response_format" in body and not self.takes_schema:
            self.bodies.append(body)
            return await status(400, {"error": {"message": "response_format is unknown"}})(request, {})
        return await self._complete(request)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, *answers = texts_of(body)
        verdict = self.judgement(prompt, answers)
        content = verdict if isinstance(verdict, str) else json.dumps(verdict)
        found = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]
        }
        return {**found, "usage": {"total_tokens": TOKENS}} if self.counts else found


def texts_of(body: Mapping[str, Any]) -> list[str]:
    """Return the texts between the markers of a request: a prompt, and one answer or two."""
    content = body["messages"][1]["content"]
    marker = re.findall(r"^=== [0-9a-f]+ ===$", content, re.MULTILINE)[0]
    return [part.removeprefix("\n").removesuffix("\n") for part in content.split(marker)[1::2]]


def judge_at(server: JudgeServer, path: Path = Path("judge.jsonl"), **settings: Any) -> Judge:
    """Return a judge that asks a server, and does not wait long."""
    judge = Judge.of(JudgeSettings(**{"judge_url": server.v1, "judge_model": "tiny", **settings}), lambda: path)
    judge.endpoint.patience = Patience(
        request=5.0, attempts=3, first=0.01, longest=1.0, gone=3.0, largest_answer=2**20
    )
    judge.announce = lambda sentence: None
    return judge
