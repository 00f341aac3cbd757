"""`make reference`: write everything that is generated from the code."""

from __future__ import annotations

import conftest  # noqa: F401 - nothing is fetched: before any library of Hugging Face is imported
from reference.pages import SETTINGS, TOP, WRITTEN


def main() -> None:
    for earlier in TOP.glob("spin_trl/config/reference/settings-trl-*.json"):
        if earlier != TOP / SETTINGS:
            earlier.unlink()
    for name, make in WRITTEN.items():
        path = TOP / name
        text = make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {name}")


if __name__ == "__main__":
    main()
