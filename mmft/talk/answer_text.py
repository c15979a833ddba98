"""``AnswerText``: an answer that comes in pieces, without outer spaces, cut where a stop word begins."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['AnswerText']


class AnswerText:
    """Holds back what may be the beginning of a stop word, or the spaces at the end.

    LMDeploy 0.18 follows only stop words of one token, and ``transformers serve`` 5.23 fails on any. Outer spaces are
    left out as ``model.chat`` does: LLaVA's answers begin with one.

    Args:
        stop: the stop words.

    Attributes:
        hit: whether one has come.

    >>> text = AnswerText(['###'])
    >>> [text.feed(piece) for piece in (' one #', '# two ##', '# three')]
    ['one', ' ## two', '']
    >>> text.hit, text.rest()
    (True, '')
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop, self.hit = tuple(stop), False
        self._held = self._spaces = ''
        self._begun = False

    def feed(self, piece: str) -> str:
        """The next text that is surely part of the answer."""
        if self.hit:
            return ''
        text, self._held = self._held + piece, ''
        places = [place for place in map(text.find, self.stop) if place >= 0]
        if places:
            self.hit = True
            return self._trimmed(text[: min(places)])
        keep = max((_overlap(text, word) for word in self.stop), default=0)
        self._held = text[len(text) - keep :]
        return self._trimmed(text[: len(text) - keep])

    def rest(self) -> str:
        """What was held back, now that the answer is at its end."""
        text, self._held = self._held, ''
        return self._trimmed(text)

    def _trimmed(self, text: str) -> str:
        text = self._spaces + text if self._begun else text.lstrip()
        shown = text.rstrip()
        self._spaces = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown


def _overlap(text: str, word: str) -> int:
    """How much of the text's end is the beginning of the word."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
