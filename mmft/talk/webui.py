"""The page in the browser: one or two models, pictures, a chat with each, the same question to all at the same time.

gradio is imported in this file only. Nothing on the page leaves the machine: no telemetry, no tunnel, no fonts from
elsewhere.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from mmft.errors import ConfigError, DataError, MMFTError
from mmft.pages import both
from mmft.talk.answerer import Answerer
from mmft.talk.conversation_page import page
from mmft.talk.examples import Example, Examples
from mmft.talk.side_by_side import Conversation, Turn, check_pictures
from mmft.talk.webui_host import PRIVATE, copied, guards, no_proxy_to_loopback, private_folder, small_copy
from mmft.talk.webui_text import (
    WORDS,
    distinguished,
    error_html,
    head,
    left_out_html,
    messages_of,
    sampling_of,
    verdict,
)
from mmft.words import count_of

__all__ = ['WebUI']

_DRAWN = 12  # examples on the page at a time
_LONGEST = 4096  # tokens, the end of the slider
_MOST_AT_A_TIME = 16  # questions answered at the same time
_MOST_WAITING = 64  # questions more; then the page says that there are too many
_MOST_REMEMBERED = 1000  # visits whose parts of the page gradio keeps, long after they ended; those least used go first
_HERE = Path(__file__).parent
_SAY = gr.I18n(
    **{code: {key: pair[n] for key, pair in WORDS.items()} for code, n in (('en', 0), ('zh', 1), ('zh-CN', 1))}
)
# The language of what mmft.pages.both wrote, which gradio leaves to its page.
_LANGUAGE = "() => { document.documentElement.lang = /^zh/i.test(navigator.language) ? 'zh' : 'en' }"
_FONTS = ['system-ui', '-apple-system', 'Segoe UI', 'PingFang SC', 'Noto Sans CJK SC', 'Microsoft YaHei', 'sans-serif']
_CLICK_FILE = '() => document.querySelector("#file a, a#file, #file button, button#file").click()'
_FOCUS = '() => setTimeout(() => document.querySelector("#box textarea").focus({preventScroll: true}), 300)'


class WebUI:
    """The page, and the server that it comes from.

    Args:
        answerers: one model, or several that are asked side by side.
        names: what they are called on the page; default: their own names, numbered where they are the same.
        examples: questions to try.
        settings: what the sliders begin with, as of ``Answerer.stream``.
        system: a system message.

    Raises:
        ConfigError: as many names are needed as models; settings out of range.
    """

    def __init__(
        self,
        answerers: Sequence[Answerer],
        names: Sequence[str] | None = None,
        examples: Examples | None = None,
        settings: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> None:
        if names is not None and len(names) != len(answerers):
            raise ConfigError(count_of(len(names), 'name'), expected=f'{len(answerers)}, one for each model')
        self.answerers, self.examples, self.system = list(answerers), examples, system
        self.names = list(names) if names is not None else distinguished([answerer.name for answerer in answerers])
        self.settings = {'max_new_tokens': 512, 'temperature': 0.0, 'top_p': 1.0, 'seed': None, **(settings or {})}
        # Never iterated, so nothing is asked: this only checks the settings.
        self.answerers[0].stream([{'role': 'user', 'content': 'x'}], **self.settings).close()
        self.folder = private_folder()
        self.blocks = self._build()

    def start(
        self, host: str = '127.0.0.1', port: int = 7860, auth: Sequence[tuple[str, str]] = (), browser: bool = False
    ) -> str:
        """Serve the page, from a thread of its own.

        Args:
            host, port: where it listens.
            auth: (user, password) pairs that are let in; none: everybody who reaches the port.
            browser: open it.

        Returns:
            The address.
        """
        no_proxy_to_loopback()
        _, url, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            auth=list(auth) or None,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size='64mb',
            theme=gr.themes.Default(primary_hue='emerald', neutral_hue='stone', font=_FONTS),
            css_paths=[_HERE / 'webui.css'],
            i18n=_SAY,
            js=_LANGUAGE,
            state_session_capacity=_MOST_REMEMBERED,
            app_kwargs={'middleware': guards(host)},
            **PRIVATE,
        )
        return url

    def close(self) -> None:
        """Stop serving."""
        self.blocks.close(verbose=False)

    def _build(self) -> gr.Blocks:
        title = ' · '.join(self.names)
        with gr.Blocks(
            title=f'{title} · mmft', analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
        ) as blocks:
            self.conversation, self.drawn, self.picked = gr.State(None), gr.State(None), gr.State(None)
            gr.HTML(head(self.names), padding=False, elem_id='head')
            with gr.Row(equal_height=True):
                self.chats = [self._chat(number, name) for number, name in enumerate(self.names)]
            self.verdict = gr.HTML('', padding=False, elem_id='verdict')
            self.box = gr.MultimodalTextbox(
                placeholder=_SAY('ask'),
                file_types=['image'],
                file_count='multiple',
                label=_SAY('box'),  # for screen readers
                show_label=False,
                max_plain_text_length=100_000,  # what is longer would be pasted as a file
                autofocus=True,
                elem_id='box',
            )
            with gr.Row():
                self.again = gr.Button(_SAY('again'), size='sm', min_width=90, elem_id='again')
                self.forget = gr.Button(_SAY('forget'), size='sm', min_width=90, elem_id='forget')
                self.save = gr.Button(_SAY('save'), size='sm', min_width=90, elem_id='save')
            self.buttons = [self.again, self.forget, self.save]
            self.file = gr.DownloadButton(_SAY('file'), elem_id='file')
            if self.examples is not None:
                self._add_examples(blocks)
            self._add_settings()
            self._connect()
        blocks.queue(api_open=False, max_size=_MOST_WAITING)
        return blocks

    def _chat(self, number: int, name: str) -> gr.Chatbot:
        return gr.Chatbot(
            label=name,
            # Small while nothing was asked, so that the question box and the examples are in sight.
            height=None,
            min_height=200,
            max_height='clamp(340px, 52vh, 700px)',
            min_width=300,
            buttons=[],  # copied text would be the markdown, with &lt; for <
            placeholder=_SAY('drop'),
            feedback_options=None,
            allow_file_downloads=False,
            elem_classes='mmft-chat',
            elem_id=f'chat{number}',
        )

    def _add_examples(self, blocks: gr.Blocks) -> None:
        with gr.Accordion(_SAY('examples') + f': {self.examples.name}', open=True, elem_id='examples'):
            if self.examples.left_out:
                gr.HTML(left_out_html(self.examples.left_out), padding=False, elem_id='left-out')
            self.gallery = gr.Gallery(
                show_label=False, columns=_DRAWN, allow_preview=False, buttons=[], interactive=False, elem_id='gallery'
            )
            more = gr.Button(_SAY('others'), size='sm', elem_id='others', visible=len(self.examples) > _DRAWN)
        shown = [self.drawn, self.gallery]
        blocks.load(lambda: self._draw(0), None, shown, api_visibility='private')
        more.click(lambda: self._draw(random.randrange(2**31)), None, shown, api_visibility='private')
        self.gallery.select(self._pick, self.drawn, [self.box, self.picked, self.verdict], api_visibility='private')

    def _add_settings(self) -> None:
        begin = self.settings
        with gr.Accordion(_SAY('sampling'), open=False, elem_id='sampling'), gr.Row():
            self.sliders = [
                gr.Slider(1, max(_LONGEST, begin['max_new_tokens']), begin['max_new_tokens'], step=1,
                          label=_SAY('longest'), info=_SAY('tokens'), min_width=200),
                gr.Slider(0, max(2, begin['temperature']), begin['temperature'], step=0.05, label=_SAY('temperature'),
                          info=_SAY('greedy'), min_width=200),
                gr.Slider(0.01, 1, begin['top_p'], step=0.01, label=_SAY('top-p'),
                          info=_SAY('nucleus'), min_width=200),
                gr.Textbox('' if begin['seed'] is None else str(begin['seed']), label=_SAY('seed'),
                           info=_SAY('no seed'), min_width=200),
                gr.Checkbox(label=_SAY('alone'), info=_SAY('no history'),
                            min_width=200),
            ]  # fmt: skip

    def _connect(self) -> None:
        shown = [self.conversation, *self.chats, self.verdict]
        idle = [self.box, *self.buttons]
        asked = self.box.submit(
            self._ask,
            [self.box, self.conversation, self.picked, *self.sliders],
            [*shown, *idle],
            api_name='ask',
            show_progress='hidden',
            concurrency_limit=_MOST_AT_A_TIME,
            concurrency_id='ask',
        )
        again = self.again.click(
            self._ask_again,
            [self.conversation, *self.sliders],
            [*shown, *idle],
            api_name='again',
            show_progress='hidden',
            concurrency_id='ask',
        )
        for event in (asked, again):
            event.then(_idle, None, idle, api_visibility='private', show_progress='hidden', queue=False, js=_FOCUS)
        self.box.stop(_stop, self.conversation, None, api_name='stop', queue=False)
        self.forget.click(
            lambda: (None, *([] for _ in self.chats), ''), None, shown, api_name='forget', show_progress='hidden'
        )
        saved = self.save.click(
            self._save, self.conversation, [self.file, self.verdict], api_name='save', show_progress='hidden'
        )
        saved.then(None, js=_CLICK_FILE)

    def _ask(
        self, box: Mapping[str, Any] | None, talk: Conversation | None, picked: Example | None, *sliders: Any
    ) -> Iterator[dict[Any, Any]]:
        box, talk = box or {}, talk or Conversation(self.answerers, self.system)
        question = (box.get('text') or '').strip()
        try:
            pictures, settings = check_pictures(box.get('files') or []), sampling_of(*sliders[:-1])
        except DataError as error:
            yield self._problem(error)
            return
        expected = picked.expects(question, pictures) if picked else ''
        # What a dataset expects, it expects of its question alone.
        alone = sliders[-1] or bool(expected)
        if question and not pictures and (alone or not talk.turns):
            gr.Info(both('Asked without a picture.', '提问时没有附图片。'))
        yield from self._answers(talk, talk.ask(question, pictures, settings, expected, alone))

    def _ask_again(self, talk: Conversation | None, *sliders: Any) -> Iterator[dict[Any, Any]]:
        talk = talk or Conversation(self.answerers)
        try:
            settings = sampling_of(*sliders[:-1])
            turn = talk.take_back()
        except DataError as error:
            yield self._problem(error)
            return
        yield from self._answers(talk, talk.ask(turn.question, turn.images, settings, turn.expected, turn.alone))

    def _answers(self, talk: Conversation, turns: Iterator[Turn]) -> Iterator[dict[Any, Any]]:
        begun = False
        try:
            with contextlib.closing(turns):
                for _ in turns:
                    yield {**self._shown(talk), **({} if begun else self._busy())}
                    begun = True
        except DataError as error:  # before anything was asked: the box keeps what is in it
            yield self._problem(error)

    def _problem(self, error: MMFTError) -> dict[Any, Any]:
        """Shown above the box. gradio's own errors would cover the chats."""
        return {self.verdict: f'<span class="problem">{error_html(error)}</span>'}

    def _busy(self) -> dict[Any, Any]:
        box = gr.MultimodalTextbox({'text': '', 'files': []}, interactive=False, submit_btn=False, stop_btn=True)
        return {self.box: box, **{button: gr.Button(interactive=False) for button in self.buttons}}

    def _shown(self, talk: Conversation) -> dict[Any, Any]:
        chats = {chat: messages_of(talk.turns, k, self._address) for k, chat in enumerate(self.chats)}
        return {self.conversation: talk, **chats, self.verdict: verdict(talk.turns, self.names)}

    def _save(self, talk: Conversation | None) -> dict[Any, Any]:
        try:
            text = page(self.names, talk.turns if talk else [])
        except DataError as error:
            return {self.file: None, **self._problem(error)}
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f'comparison-{datetime.now():%Y%m%d-%H%M%S}.html'
        path.write_text(text, encoding='utf-8')
        return {self.file: str(path)}

    def _draw(self, seed: int) -> tuple[list[Example], list[tuple[Any, str]]]:
        drawn = self.examples.draw(_DRAWN, seed)
        return [example for example, _ in drawn], [(small, example.question) for example, small in drawn]

    def _pick(self, drawn: list[Example], event: gr.SelectData) -> dict[Any, Any]:
        example = drawn[event.index]
        try:
            files = [copied(path) for path in check_pictures(example.images)]
        except DataError as error:
            return self._problem(error)
        box = {'text': example.question, 'files': [str(path) for path in files]}
        return {self.box: box, self.picked: replace(example, images=tuple(files))}

    def _address(self, path: Path) -> str | None:
        """Where the browser finds a picture."""
        small = small_copy(path)
        if small is None:
            return None
        self.chats[0].temp_files.add(str(small))  # deleted when the upload is
        return f'gradio_api/file={quote(str(small))}'


def _idle() -> list[Any]:
    box = gr.MultimodalTextbox(interactive=True, submit_btn=True, stop_btn=False)
    return [box, *(gr.Button(interactive=True) for _ in range(3))]


def _stop(talk: Conversation | None) -> None:
    if talk is not None:
        talk.stop()
