"""Log-probabilities of responses equal those of a plain forward of one sequence at a time."""

import pytest
import torch

import tiny
from spin_trl.models.logps import response_logps, token_logps

pytestmark = pytest.mark.numeric


def by_hand(model, prompt, response):
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits.double()
    logps = logits.log_softmax(-1)
    return sum(float(logps[0, len(prompt) + i - 1, token]) for i, token in enumerate(response))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "mixtral", "lfm2", "gpt2"])
def test_they_are_those_of_each_sequence_alone(architecture, batch_size):
    """Padding, order and batches make no difference."""
    model = tiny.model(architecture).eval()
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (
            torch.randint(5, 200, (p,), generator=generator).tolist(),
            torch.randint(5, 200, (r,), generator=generator).tolist(),
        )
        for p, r in ((3, 4), (1, 1), (9, 2), (2, 12), (5, 5))
    ]
    expected = [by_hand(model, *pair) for pair in pairs]
    found = response_logps(model, pairs, pad_token_id=0, batch_size=batch_size)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_token_has_its_own(batch_size):
    model = tiny.model("llama").eval()
    pairs = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14]), ([5, 6], [15])]
    found = token_logps(model, pairs, pad_token_id=0, batch_size=batch_size)
    for (prompt, response), of_tokens in zip(pairs, found, strict=True):
        whole = [by_hand(model, prompt, response[:count]) for count in range(1, len(response) + 1)]
        assert [sum(of_tokens[: place + 1]) for place in range(len(of_tokens))] == pytest.approx(whole, abs=1e-4)


def test_an_empty_response_has_probability_one():
    model = tiny.model("llama").eval()
    assert response_logps(model, [([5, 6], []), ([5], [7])], pad_token_id=0, batch_size=2)[0] == 0.0


def test_calling_twice_adds_the_head_once():
    model = tiny.model("llama")
    first = response_logps(model, [([5, 6], [7, 8])], pad_token_id=0, batch_size=1)
    forward = model.forward
    assert response_logps(model, [([5, 6], [7, 8])], pad_token_id=0, batch_size=1) == first
    assert model.forward is forward or model.forward == forward
