"""What can go wrong between this client and a server, by what is done about it: given up, retried, or shown to the user."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import SpinError


class CompletionsError(SpinError, RuntimeError):
    """A server of completions can't be used, or failed."""


class MalformedAnswerError(CompletionsError):
    """A server's answer is not what was asked for, and would not be if it were asked again."""


class CutAnswerError(MalformedAnswerError):
    """A server's answer ends too early: its JSON is truncated, or the server ended the request. It is asked for again."""


class RefusedRequestError(CompletionsError):
    """A server refused a request, or still failed at it after all retries.

    Args:
        message: message that names the endpoint and quotes what the server answered.
        status: HTTP status; 0 if no answer was received.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class MissingModelError(CompletionsError):
    """A server does not serve the model that is asked for.

    Args:
        message: message that names the endpoint, the model and the models that the server has.
        served: names of the models that the server has.
    """

    def __init__(self, message: str, served: list[str]) -> None:
        super().__init__(message)
        self.served = served


class ServedWeightsError(CompletionsError):
    """A server has other weights than those that are to answer."""


class NoEndpointError(CompletionsError):
    """No endpoint can be used, and none has come back in time.

    Args:
        message: message that names every endpoint and its last failure.
        failures: last failure of every endpoint, by its URL.
    """

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failures = dict(failures)


class PassingFailureError(CompletionsError):
    """An attempt failed for a reason that may pass: the request is tried again, at another endpoint if there is one.

    Args:
        message: description of the failure, without the endpoint.
        status: HTTP status; 0 if no answer was received.
        is_busy: whether the server works but has too much to do, so that the endpoint does not count as failing.
        reached: whether the request reached the server, which may have failed because of it.
        retry_after: seconds that the server asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        is_busy: bool = False,
        reached: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.is_busy, self.reached, self.retry_after = status, is_busy, reached, retry_after
