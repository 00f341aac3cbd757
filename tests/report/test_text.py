"""Texts that nobody has checked can be written and read: what can't be seen stands as its name."""

import pytest

from spin_trl.report.text import cut, visible


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
        ("<b>&amp; שלום 👩‍👩‍👧 हिन्दी\u200f", "<b>&amp; שלום 👩‍👩‍👧 हिन्दी\u200f"),
    ],
)
def test_what_can_not_be_seen_is_named_and_the_rest_stays(text, shown):
    assert visible(text) == shown
    visible(text).encode()


def test_a_cut_text_says_how_much_is_missing():
    assert cut("abcdef", 4) == ("abcd", 2)
    assert cut("abc", 4) == ("abc", 0)
