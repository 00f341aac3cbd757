"""The commands that stand in for vLLM's: `python tests/vllm_replay record FILE VLLM serve ...`, or `replay FILE serve ...`.

`python tests/vllm_replay pack FILE ...` makes recordings of what was recorded.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from vllm_replay import recorder, recording, server

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # vLLM's output is not ASCII, in any locale
    action, *arguments = sys.argv[1:]
    if action == "record":
        recorder.main(Path(arguments[0]), arguments[1:])
    elif action == "replay":
        server.main(Path(arguments[0]), arguments[1:])
    elif action == "pack":
        for name in arguments:
            print(f"{recording.pack(Path(name))}: {Path(name).name}")
    else:
        sys.exit(__doc__)
