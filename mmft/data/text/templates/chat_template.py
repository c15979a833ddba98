"""``ChatTemplate``: the strings around the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmft.errors import ConfigError
from mmft.structures import IMAGE_PLACEHOLDER, Message
from mmft.words import clipped

__all__ = ['ChatTemplate']

_PAIRS, _FLAGS = ('system', 'user'), ('strip', 'any_order', 'system_in_question', 'caption_only')


@dataclass(frozen=True)
class ChatTemplate:
    r"""The strings around the messages of a conversation.

    Text is ``system[0] + system message + system[1]``, then per turn ``user[0] + question + user[1]`` or
    ``assistant + lead + answer + end + tail``. Of all that ``lead + answer + end`` is trained: the model has to learn
    where to stop, but not what a program writes after it stopped.

    Attributes:
        name: what a config calls it.
        system_message: used where the conversation does not begin with a system message of its own; None: there is then
            no system text at all, where '' gives the texts before and after it with nothing between.
        system: text before and after the system message; None: it has no place, and one in the data is refused.
        user: text before and after a question.
        assistant: text before an answer; also what a generation prompt ends with.
        lead: trained text between ``assistant`` and the answer. Vicuna's space belongs here: sentencepiece makes one
            token of the space and the first word.
        end: the end token of an answer (trained, and what generation stops at). A space before it is trained too.
        tail: text after the end token.
        between: text before each question but the first.
        system_in_question: the system text stands in the first question, after ``user[0]``, and is left out where the
            system message is empty (Llama 2).
        caption_only: for the alignment stage: of the one question only its pictures remain, and the answer is their
            caption.
        strip: the original strips each message in training (not when it is served): see ``normalise``.
        any_order: roles need not alternate and the assistant may begin, as the original of this template allows.
        stop: further tokens at which generation stops.

    Raises:
        ConfigError: parts of the template contradict each other.

    >>> toy = ChatTemplate('toy', 'Be kind.', ('[', ']'), ('Q: ', '\n'), 'A:', lead=' ', end='</s>')
    >>> toy.render([{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}])
    [('[Be kind.]Q: Hi\nA:', False), (' Hello</s>', True)]
    """

    name: str
    system_message: str | None
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: str
    lead: str = ''
    end: str = ''
    tail: str = ''
    strip: bool = False
    any_order: bool = False
    stop: tuple[str, ...] = ()
    between: str = ''
    system_in_question: bool = False
    caption_only: bool = False

    def __post_init__(self) -> None:
        if wrong := [
            f'{name} = {clipped(repr(value))}' for name, value in asdict(self).items() if not _fits(name, value)
        ]:
            raise ConfigError(
                f'template {clipped(self.name)!r}: {", ".join(wrong)}',
                expected='texts; pairs of texts for system and user; True or False for strip, any_order, '
                'system_in_question and caption_only',
            )
        if self.system is None and self.system_message:
            raise ConfigError(
                f'template {self.name!r} has a system_message and no place for it (system=None)',
                fix="set system_message='', or system to the texts before and after it",
            )
        if self.any_order and (self.system_in_question or self.caption_only):
            raise ConfigError(
                f'template {self.name!r} has any_order, and system_in_question or caption_only',
                expected='a first question where one of those two is set',
            )

    def normalise(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> list[Message]:
        """The messages as the original takes them: questions reduced to pictures, texts stripped, or as they are.

        OpenGVLab strips when it trains internlm2-chat and does not when it serves it, so a prompt's texts stay.
        """
        strip = self.strip and not add_generation_prompt
        return [{**m, 'content': self._content(m, strip)} for m in messages]

    def _content(self, message: Mapping[str, Any], strip: bool) -> str:
        text = message['content']
        if self.caption_only and message['role'] == 'user':
            return IMAGE_PLACEHOLDER * text.count(IMAGE_PLACEHOLDER)
        return text.strip() if strip else text

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
    ) -> list[tuple[str, bool]]:
        """The conversation as pieces of text, each with whether it is trained; neighbours differ in that.

        Args:
            messages: legal ones (``mmft.data.text.conversation``; it is not checked again). A first message of role
                ``system`` takes the place of ``system_message``; its text may be empty. An answer with ``loss: False``
                is context: neither it nor its end token is trained.
            add_generation_prompt: end with the text that the assistant's answer follows.
        """
        own = bool(messages) and messages[0]['role'] == 'system'
        opening = self._opening(messages[0]['content'] if own else self.system_message)
        pieces, pending = [], ''
        if not self.system_in_question:
            pending, opening = opening, ''
        for index, message in enumerate(messages[own:]):
            if message['role'] == 'user':
                pending += self.between if index else ''
                pending += self.user[0] + opening + message['content'] + self.user[1]
                opening = ''
                continue
            pending, answer = pending + self.assistant, self.lead + message['content'] + self.end
            if message.get('loss', True):
                pieces += [(pending, False), (answer, True)]
                pending, answer = '', ''
            pending += answer + self.tail
        if add_generation_prompt:
            pending += self.assistant
        pieces = [*pieces, (pending, False)] if pending else pieces
        return [(text, trained) for text, trained in pieces if text]

    def _opening(self, system_message: str | None) -> str:
        if None in (self.system, system_message) or (self.system_in_question and not system_message):
            return ''
        return self.system[0] + system_message + self.system[1]

    def text(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> str:
        """``render`` as one string."""
        return ''.join(piece for piece, _ in self.render(messages, add_generation_prompt))

    def to_dict(self) -> dict[str, Any]:
        """The config that ``build_template`` turns into an equal template; it needs no registered name."""
        return {'type': 'ChatTemplate', **asdict(self)}


def _fits(name: str, value: Any) -> bool:
    """Whether a field of a template is of its type: templates come from files too."""
    if name in _FLAGS:
        return isinstance(value, bool)
    if name in _PAIRS or name == 'stop':
        texts = isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)
        return (value is None and name == 'system') or (texts and (name == 'stop' or len(value) == 2))
    return isinstance(value, str) or (value is None and name == 'system_message')
