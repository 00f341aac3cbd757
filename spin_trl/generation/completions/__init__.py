"""The client of servers that answer `/v1/completions` with token ids, as vLLM does: requests, and a pool of endpoints."""
