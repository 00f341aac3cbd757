"""Unchecked texts can be written and read: invisible characters are replaced by their names."""

import pytest

from spin_trl.errors import visible
from spin_trl.report.text import cut


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m", "a␀b␛[31m"),
        ("\x7f\x9b", "␡⟨U+009B⟩"),
        ("abc\u202edcba", "abc⟨U+202E⟩dcba"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("\ud83d alone", "⟨U+D83D⟩ alone"),
        ("\uffff", "⟨U+FFFF⟩"),
        ("one\r\ntwo\rthree\n\tfour", "one\ntwo␍three\n\tfour"),
        pytest.param(
            "<b>&amp; שלום 👩‍👩‍👧 हिन्दी\u200f",
            "<b>&amp; שלום 👩‍👩‍👧 हिन्दी⟨U+200F⟩",
            id="<b>&amp; שלום 👩‍👩‍👧 हिन्दी\u200f-<b>&amp; שלום 👩‍👩‍👧 हिन्दी\u200f",  # as it was collected
        ),
        ("a\u200bb\u2060c\ufeffd\u2028e\u061c", "a⟨U+200B⟩b⟨U+2060⟩c⟨U+FEFF⟩d⟨U+2028⟩e⟨U+061C⟩"),
        ("hi\U000e0068\U000e007f", "hi⟨U+E0068⟩⟨U+E007F⟩"),
        ("می\u200cخواهم क\u094d\u200dष ක\u0dca\u200d 🙂\u200d↔\ufe0f ❤\ufe0f\u200d🔥", None),
        ("a\u200c b \u200dc 1\u200d2 a\u200d\u200cb", "a⟨U+200C⟩ b ⟨U+200D⟩c 1⟨U+200D⟩2 a⟨U+200D⟩⟨U+200C⟩b"),
    ],
)
def test_what_can_not_be_seen_is_named_and_the_rest_stays(text: str, shown: str | None) -> None:
    """If a text has nothing to name, the result is None and the text is unchanged."""
    assert visible(text) == (text if shown is None else shown)
    visible(text).encode()
    assert visible(visible(text)) == visible(text)


def test_a_cut_text_says_how_much_is_missing():
    assert cut("abcdef", 4) == ("abcd", 2)
    assert cut("abc", 4) == ("abc", 0)
