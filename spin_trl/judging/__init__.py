"""The judge: a model at an endpoint with OpenAI's interface that scores and compares answers by a rubric."""
