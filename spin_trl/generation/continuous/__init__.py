"""Continuous batching with transformers: finished responses make room for others at once (`generation_continuous`)."""
