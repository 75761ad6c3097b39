"""Letters: which characters are words by themselves or in pairs, for want of spaces between words."""

from __future__ import annotations

# Parts of character classes of regular expressions.
HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f"
HANGUL = "\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e"
UNSPACED = HAN + KANA
