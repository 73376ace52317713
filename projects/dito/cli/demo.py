# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""A web page that finds named objects in pictures."""

import html
import importlib.util
import itertools
import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dito.apis import DITOInferencer, TextSimilarity
from dito.apis.results import write_picture
from dito.apis.similarity import input_size
from dito.reports.demo import (
    MOST_MAPS,
    Demo,
    Limits,
    Shown,
    add_corner,
    draw_samples,
    forget,
    write_answer,
)
from dito.reports.quickstart import SHIPPED_REP
from dito.utils.configs import config_root

from . import common
from .detect import model_source
from .options import command

_SAMPLES = 6
# Seconds until the files of a visitor are removed.
_KEPT = 1800
# Bytes that files of all visitors may take.
_MOST_BYTES = 2_000_000_000
# What a request has besides a picture.
_FORM_BYTES = 1_000_000
_MAPS = (
    f'Of the first {MOST_MAPS} names: the picture, and the cosine of the text '
    'with the backbone (before REP) and with the box head (after it), each '
    'from its lowest, dark, to its highest.'
)
_HEADERS = ['name', 'score', 'x1', 'y1', 'x2', 'y2']
_CSS = """
.gradio-container { max-width: 76rem !important; }
#status { font-weight: 600; min-height: 1.5rem; }
button:focus-visible, a:focus-visible, input:focus-visible {
    outline: 3px solid #d9540a !important; outline-offset: 2px; }
"""


class LimitedBody:
    """ASGI middleware: refuses requests that are too large.

    Args:
        app (Callable): What answers the others.
        most (int): Bytes of a request's body.
        folder (Path): Where uploads are kept; old ones are removed before a
            new one, and if the others take too much it is refused.
    """

    def __init__(self, app: Callable, most: int, folder: Path) -> None:
        self.app = app
        self.most = most
        self.folder = folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        from starlette.exceptions import HTTPException
        from starlette.responses import PlainTextResponse

        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        length = dict(scope['headers']).get(b'content-length', b'0')
        if not length.isdigit() or int(length) > self.most:
            reply = PlainTextResponse('The request is too large.', 413)
            await reply(scope, receive, send)
            return
        if scope['path'].rstrip('/').endswith('/upload'):
            if forget(self.folder, _KEPT) > _MOST_BYTES:
                reply = PlainTextResponse('Too many files; try later.', 507)
                await reply(scope, receive, send)
                return
        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get('body', b''))
            if taken > self.most:
                raise HTTPException(413, 'The request is too large.')
            return message

        await self.app(scope, counted, send)


def knowledge(
    demo: Demo, checkpoint: str | None, rep_checkpoint: str | None
) -> str:
    """Say in a line what the detector knows."""
    count = len(demo.trained)
    if checkpoint is None:
        what = (
            f'The shipped detector knows drawings of things, {count} of them '
            'trained with boxes, and no photographs.'
        )
    else:
        # The path is the host's own affair.
        name = Path(checkpoint).name
        shown = ', '.join(demo.trained[:5])
        what = (
            f'{name} was trained with boxes of {count} classes ({shown} '
            '...); other names are open vocabulary.'
            if count
            else f'{name} does not say what it was trained on.'
        )
    if demo.detector.model.text_encoder is None:
        known = demo.detector.vocabulary
        what += f' It has embeddings of {len(known or ())} names only.'
    if demo.similarity is not None and checkpoint and not rep_checkpoint:
        what += ' Maps are those of the detector itself.'
    return what


class _Answers:
    """What the buttons of the page do; files go into ``folder``."""

    def __init__(self, demo: Demo, folder: Path) -> None:
        self.demo = demo
        self.folder = folder

    def find(self, *inputs: Any) -> tuple:
        """Status, picture, table and both downloads of a question."""
        import gradio as gr

        forget(self.folder, _KEPT)
        try:
            answer = self.demo.find(*inputs)
        except ValueError as error:
            off = gr.DownloadButton(interactive=False, value=None)
            return _said(str(error)), None, [], off, off
        picture, record = write_answer(answer, self.folder)
        return (
            _said(answer.message),
            picture,
            answer.rows,
            gr.DownloadButton(interactive=True, value=picture),
            gr.DownloadButton(interactive=True, value=record),
        )

    def show(
        self, path: str | None, box: str, name: str, before: list[Shown]
    ) -> tuple:
        """Status, box, examples, cut and list, with one example more."""
        import gradio as gr

        try:
            shown, crop = self.demo.show(path, box, name, before)
        except ValueError as error:
            return _said(str(error)), box, before, gr.Image(), gr.HTML()
        every = [*before, shown]
        file = self._written('example.jpg', crop)
        return _said('The example is added.'), '', every, file, _listed(every)

    def maps(self, path: str | None, names: str) -> tuple:
        """Status and similarity maps."""
        import gradio as gr

        try:
            drawn = self.demo.maps(path, names)
        except ValueError as error:
            return _said(str(error)), gr.Image(visible=False, value=None)
        file = self._written('maps.jpg', drawn)
        return _said(_MAPS), gr.Image(visible=True, value=file)

    def _written(self, name: str, picture: Any) -> str:
        """Path of a picture that was written for a visitor."""
        file = Path(tempfile.mkdtemp(dir=self.folder)) / name
        write_picture(file, picture)
        return str(file)


def _uploaded(payload: Any) -> str | None:
    """Path of a picture; Gradio has checked that it was uploaded."""
    return None if payload is None else payload.path


def _said(message: str) -> str:
    """A status line."""
    return f'<div role="status">{html.escape(message)}</div>'


def _listed(examples: Sequence[Shown]) -> str:
    """How many examples there are of each name."""
    counts = Counter(shown.name for shown in examples)
    named = ', '.join(f'{name}: {n}' for name, n in counts.items())
    return html.escape(f'Examples: {named or "none"}.')


def build_page(
    demo: Demo, knows: str, folder: Path, samples: Sequence[tuple[str, str]]
) -> Any:
    """Lay out the page, with (path, names) of samples; not launched yet."""
    import gradio as gr

    with gr.Blocks(
        title='DITO', analytics_enabled=False, fill_width=True
    ) as page:
        gr.Markdown('# Find things by their names')
        gr.HTML(f'<p id="knows">{html.escape(knows)}</p>')
        with gr.Row():
            with gr.Column(min_width=280):
                asked = _lay_out_question(demo)
            with gr.Column(min_width=280):
                found = _lay_out_answer()
        found.heat = gr.Image(
            label='Similarity maps',
            show_label=False,
            interactive=False,
            visible=False,
            buttons=['fullscreen'],
            elem_id='maps',
        )
        _connect(asked, found, _Answers(demo, folder), samples)
    return page


def _lay_out_question(demo: Demo) -> Namespace:
    """The column of what a visitor gives; its parts by name."""
    import gradio as gr

    limits = demo.limits
    picture = gr.Image(
        type='filepath',
        sources=['upload', 'webcam', 'clipboard'],
        label=f'Picture, up to {limits.mbytes} MB',
        height=320,
        elem_id='picture',
    )
    # Gradio's own opens the picture, and without these limits.
    picture.preprocess = _uploaded
    sample = gr.Button('Sample picture', elem_id='sample')
    names = gr.Textbox(
        '',
        label=f'Names, up to {limits.names:,}',
        info='separated by commas, or one per line',
        placeholder='red umbrella, anchor',
        lines=2,
        max_lines=6,
        elem_id='names',
    )
    with gr.Row():
        go = gr.Button('Find', variant='primary', elem_id='find')
        see = gr.Button(
            'Similarity maps',
            visible=demo.similarity is not None,
            elem_id='see',
        )
    return Namespace(
        picture=picture,
        sample=sample,
        names=names,
        go=go,
        see=see,
        **_lay_out_examples(),
        examples=gr.State([], time_to_live=_KEPT),
        **_lay_out_options(demo),
    )


def _lay_out_examples() -> dict[str, Any]:
    """What a visitor shows of a thing."""
    import gradio as gr

    with gr.Accordion('Show an example', open=False):
        box = gr.Textbox(
            '',
            label='Its box in the picture',
            info='click two opposite corners, or type x1, y1, x2, y2 in '
            'pixels',
            elem_id='box',
        )
        called = gr.Textbox(
            '',
            label='What it is called',
            info='a name among those above gets the mean of both',
            placeholder='my mug',
            elem_id='called',
        )
        with gr.Row():
            add = gr.Button('Add example', elem_id='add')
            clear = gr.Button('Remove all', elem_id='clear')
        listed = gr.HTML(_listed([]), elem_id='examples')
        cut = gr.Image(
            label='The last example',
            interactive=False,
            height=120,
            buttons=[],
            elem_id='cut',
        )
    return dict(
        box=box, called=called, add=add, clear=clear, listed=listed, cut=cut
    )


def _lay_out_options(demo: Demo) -> dict[str, Any]:
    """How it is looked for."""
    import gradio as gr

    with gr.Accordion('Options', open=False):
        return dict(
            score=gr.Slider(0, 1, 0.3, step=0.05, label='Least score'),
            masks=gr.Checkbox(True, label='Masks'),
            one_name=gr.Checkbox(
                True, label='One name per object (NMS over all names)'
            ),
            others=gr.Textbox(
                '',
                label='Negative names',
                info='not looked for, but they take part',
                elem_id='negative',
            ),
            trained=gr.Checkbox(
                bool(demo.trained),
                label='The classes of the training are negative names too',
                visible=bool(demo.trained),
            ),
        )


def _lay_out_answer() -> Namespace:
    """The column of what was found; its parts by name."""
    import gradio as gr

    status = gr.HTML(_said(''), elem_id='status')
    drawn = gr.Image(
        label='Found',
        type='filepath',
        interactive=False,
        buttons=['fullscreen'],
        elem_id='drawn',
    )
    with gr.Row():
        as_picture = gr.DownloadButton(
            'Picture (JPEG)', interactive=False, elem_id='jpeg'
        )
        as_json = gr.DownloadButton(
            'Data (JSON)', interactive=False, elem_id='json'
        )
    table = gr.Dataframe(
        headers=_HEADERS,
        datatype=['str', *['number'] * 5],
        interactive=False,
        wrap=True,
        label='Found, boxes in pixels',
        elem_id='table',
    )
    return Namespace(
        status=status,
        drawn=drawn,
        as_picture=as_picture,
        as_json=as_json,
        table=table,
    )


def _connect(
    asked: Namespace,
    found: Namespace,
    answers: _Answers,
    samples: Sequence[tuple[str, str]],
) -> None:
    """Let the buttons of the page do something."""
    import gradio as gr

    shown = itertools.cycle(samples)
    status, box, picture = found.status, asked.box, asked.picture
    queued: dict[str, Any] = dict(
        api_visibility='private', concurrency_id='model'
    )
    at_once: dict[str, Any] = dict(api_visibility='private', queue=False)

    def clicked(box: str, event: gr.SelectData) -> tuple:
        box = add_corner(box, *map(int, event.index))
        text = 'The box is whole; add it as an example.'
        if box.count(',') < 3:
            text = 'That is one corner; click the opposite one.'
        return _said(text), box

    inputs = [
        *(picture, asked.names, asked.others, asked.trained),
        *(asked.score, asked.one_name, asked.masks, asked.examples),
    ]
    outputs = [
        *(status, found.drawn, found.table),
        *(found.as_picture, found.as_json),
    ]
    asked.go.click(answers.find, inputs, outputs, **queued)
    picture.select(clicked, [box], [status, box], **at_once)
    # A corner of another picture means nothing in this one.
    picture.change(lambda: '', None, [box], **at_once)
    asked.add.click(
        answers.show,
        [picture, box, asked.called, asked.examples],
        [status, box, asked.examples, asked.cut, asked.listed],
        **queued,
    )
    asked.clear.click(
        lambda: ([], None, _listed([])),
        None,
        [asked.examples, asked.cut, asked.listed],
        **at_once,
    )
    asked.see.click(
        answers.maps, [picture, asked.names], [status, found.heat], **queued
    )
    asked.sample.click(
        lambda: next(shown), None, [picture, asked.names], **queued
    )


def similarity_of(
    detector: DITOInferencer, args: Namespace
) -> TextSimilarity | None:
    """What makes the maps; None for a detector without a text tower."""
    if args.rep_checkpoint is not None:
        return TextSimilarity.from_files(
            None, args.rep_checkpoint, common.device_of(args)
        )
    if args.checkpoint is None:
        return TextSimilarity.from_files(
            'rep_symbols_long',
            config_root() / SHIPPED_REP,
            common.device_of(args),
        )
    if detector.model.text_encoder is None:
        return None
    return TextSimilarity(detector.model, input_size(detector.cfg))


def launch_options(args: Namespace, folder: Path) -> dict[str, Any]:
    """How Gradio serves the page: locally, without what is not needed."""
    import gradio as gr
    from starlette.middleware import Middleware

    most = args.max_mbytes * 1_000_000
    limited = Middleware(LimitedBody, most=most + _FORM_BYTES, folder=folder)
    return dict(
        server_name=args.host,
        server_port=args.port,
        share=False,
        show_error=False,
        max_file_size=most,
        allowed_paths=[],
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        app_kwargs=dict(middleware=[limited]),
        css=_CSS,
        theme=gr.themes.Default(
            font=['system-ui', 'sans-serif'],
            font_mono=['ui-monospace', 'monospace'],
        ),
    )


@command
def main(args: Namespace) -> int:
    """Serve until it is stopped."""
    if importlib.util.find_spec('gradio') is None:
        raise ValueError(
            'dito demo needs Gradio, which is not installed: pip install '
            '"dito-mmdet[demo]".'
        )
    config, weights = model_source(args.config, args.checkpoint)
    detector = DITOInferencer(config, weights, device=args.device)
    limits = Limits(
        args.max_mbytes, args.max_megapixels, args.max_names, args.max_seconds
    )
    demo = Demo(detector, similarity_of(detector, args), limits)
    knows = knowledge(demo, args.checkpoint, args.rep_checkpoint)
    # As Ctrl-C does, so that no file stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix='dito-demo-') as root:
        folder, own = Path(root, 'files'), Path(root, 'samples')
        folder.mkdir()
        own.mkdir()
        # Gradio reads them when it is imported.
        os.environ.update(
            GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED='False'
        )
        page = build_page(demo, knows, folder, draw_samples(own, _SAMPLES))
        page.queue(max_size=args.max_queue, default_concurrency_limit=1)
        page.launch(**launch_options(args, folder))
    return 0
