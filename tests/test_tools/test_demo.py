# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Tests of dito demo: its answers, and the page in a real browser.

The browser's tests make the pictures of docs/demo.md when they are called
with DITO_SCREENSHOTS=1.
"""

import asyncio
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_api import write_detector

from dito.apis import DITOInferencer
from dito.cli import demo as page
from dito.models.text.name_files import typed_names
from dito.reports import demo as answers
from dito.reports.demo import Demo, Limits

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / 'tests/data/twenty/images/19.jpg'
NAMES = 'anchor, key, heart, star, cat'
# What the picture shows, and one name that it does not.
SHOWN = 'umbrella, cat, airplane, anchor'
LIMITS = Limits(mbytes=1, megapixels=1, names=20, seconds=60)
MANY = ', '.join(f'name {i}' for i in range(10_000))


@pytest.fixture(scope='module')
def detector(tmp_path_factory: pytest.TempPathFactory) -> DITOInferencer:
    parts = write_detector(tmp_path_factory.mktemp('demo'))
    return DITOInferencer(weights=parts['weights'], device='cpu')


@pytest.fixture
def demo(detector: DITOInferencer) -> Demo:
    return Demo(detector, None, LIMITS)


def picture(path: Path, width: int, height: int = 40) -> str:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return str(path)


# ------------------------------------------------------------------ answers


def test_names_are_read_from_the_text_alone(tmp_path: Path) -> None:
    assert typed_names('red umbrella, anchor,\n\n key ') == (
        'red umbrella',
        'anchor',
        'key',
    )
    secret = tmp_path / 'secret.txt'
    secret.write_text('password\n')
    with pytest.raises(ValueError, match='looks like a file'):
        typed_names(str(secret))
    plain = tmp_path / 'secret'
    plain.write_text('password\n')
    for text in (str(plain), f'file://{plain}', f'{plain}\n'):
        try:
            assert 'password' not in typed_names(text)
        except ValueError as error:
            assert 'password' not in str(error)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'no name'),
        (' ,\n,', 'no name'),
        (MANY, 'letters; at most 20 names'),
        (', '.join(f'n{i}' for i in range(21)), '21 names; at most 20'),
        ('cat, cat', 'more than once'),
        ('[1, 2', 'no.* json list'),
    ],
)
def test_names_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        answers.read_names(text, LIMITS)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    rubbish = tmp_path / 'rubbish.png'
    rubbish.write_bytes(b'no picture')
    with pytest.raises(ValueError, match='no picture that can be read'):
        answers.read_picture(rubbish, LIMITS)
    rubbish.write_bytes(bytes(1_000_001))
    with pytest.raises(ValueError, match='more than 1 MB'):
        answers.read_picture(rubbish, LIMITS)
    large = Path(picture(tmp_path / 'large.png', 1001, 1000))
    with pytest.raises(ValueError, match='1001 x 1000 pixels'):
        answers.read_picture(large, LIMITS)
    damaged = tmp_path / 'damaged.png'
    whole = Path(picture(tmp_path / 'whole.png', 60))
    damaged.write_bytes(whole.read_bytes()[:40])
    with pytest.raises(ValueError, match='damaged') as caught:
        answers.read_picture(damaged, LIMITS)
    assert str(tmp_path) not in str(caught.value)
    assert answers.read_picture(whole, LIMITS).shape == (40, 60, 3)


def test_an_answer_is_that_of_the_detector(
    demo: Demo, detector: DITOInferencer, tmp_path: Path
) -> None:
    path = picture(tmp_path / 'a.png', 60)
    found = demo.find(path, NAMES, score_thr=0.0)
    (same,) = detector(path, NAMES.split(', '), score_thr=0.0)['predictions']
    assert found.record['scores'] == same['scores'] != []
    assert found.record['masks'] == same['masks']
    assert len(found.rows) == len(same['names'])
    assert found.rows[0][0] == same['names'][0]
    assert (found.record['height'], found.record['width']) == (40, 60)
    assert f'{len(same["names"])} found' in found.message
    bare = demo.find(path, NAMES, score_thr=0.0, masks=False)
    assert 'masks' not in bare.record
    assert bare.record['scores'] == same['scores']
    few = demo.find(path, NAMES, score_thr=0.0, one_name=True)
    assert 0 < len(few.rows) < len(found.rows)
    none = demo.find(path, NAMES, score_thr=1.0)
    assert none.rows == [] and 'the best has' in none.message
    with pytest.raises(ValueError, match='no picture; upload'):
        demo.find(None, NAMES)
    with pytest.raises(ValueError, match='no text tower'):
        demo.maps(path, NAMES)


def test_negative_names_of_one_call(
    demo: Demo, detector: DITOInferencer, tmp_path: Path
) -> None:
    path = picture(tmp_path / 'a.png', 60)
    asked = demo.find(path, 'anchor', score_thr=0.0)
    shared = demo.find(path, 'anchor', 'key, heart', score_thr=0.0)
    alone = demo.find(path, 'anchor', score_thr=0.0)
    assert asked.record['scores'] == alone.record['scores']
    assert max(shared.record['scores']) < max(asked.record['scores'])
    assert set(shared.record['names']) == {'anchor'}
    assert shared.record['negative_names'] == ['key', 'heart']
    for item in detector.stream(
        path, 'anchor', score_thr=0.0, negative_names='key, heart'
    ):
        assert item.result['scores'] == shared.record['scores']


def test_boxes_that_visitors_draw() -> None:
    text = ''
    for click, expected in [
        ((30, 4), '30, 4'),
        ((10, 20), '10, 4, 30, 20'),
        ((7, 8), '7, 8'),  # begins another box
    ]:
        text = answers.add_corner(text, *click)
        assert text == expected
    assert answers.read_box(' 1, 2.5;3 4, ') == (1, 2.5, 3, 4)
    for text in ('', '1, 2', 'a, b, c, d', '1, 2, 3, 4, 5'):
        with pytest.raises(ValueError, match='four numbers'):
            answers.read_box(text)


def test_examples_of_visitors(
    demo: Demo, detector: DITOInferencer, tmp_path: Path
) -> None:
    """They take part as examples of the interface do."""
    path = str(PICTURE)
    mug, cut = demo.show(path, '10, 20, 60, 80', 'my mug', [])
    assert cut.shape == (60, 50, 3)
    key, _ = demo.show(path, '80, 20, 120, 60', 'key', [mug])
    found = demo.find(path, 'anchor, key', examples=[mug, key], score_thr=0.0)
    assert found.record['vocabulary'] == ['anchor', 'key', 'my mug']
    vocabulary = detector.embed(
        'anchor, key',
        examples={
            'my mug': (path, (10, 20, 60, 80)),
            'key': (path, (80, 20, 120, 60)),
        },
    )
    (same,) = detector(path, vocabulary, score_thr=0.0)['predictions']
    assert found.record['scores'] == same['scores'] != []
    assert found.record['names'] == same['names']
    alone = demo.find(path, ' ', examples=[mug], score_thr=0.0)
    assert set(alone.record['names']) == {'my mug'}
    json.dumps(alone.record)


@pytest.mark.parametrize(
    ('box', 'name', 'before', 'reason'),
    [
        ('10, 20, 60', 'mug', 0, 'four numbers'),
        ('10, 20, 6000, 80', 'mug', 0, 'does not lie in'),
        ('10, 20, 11, 21', 'mug', 0, 'shows nothing'),
        ('nan, 20, 30, 50', 'mug', 0, 'does not lie in'),
        ('10, 20, 60, 80', '', 0, 'no name'),
        ('10, 20, 60, 80', 'mug, cup', 0, 'one name, not 2'),
        ('10, 20, 60, 80', 'mug', 8, 'At most 8 examples'),
    ],
)
def test_examples_that_are_refused(
    box: str, name: str, before: int, reason: str, demo: Demo
) -> None:
    shown = answers.Shown('mug', str(PICTURE), (10, 20, 60, 80))
    with pytest.raises(ValueError, match=reason) as caught:
        demo.show(str(PICTURE), box, name, [shown] * before)
    assert str(PICTURE) not in str(caught.value)


def test_an_answer_that_takes_too_long(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, and the next question is answered."""
    path, held = picture(tmp_path / 'a.png', 60), threading.Event()
    demo.limits = Limits(1, 1, 20, 0.2)
    read = answers.read_picture
    monkeypatch.setattr(answers, 'read_picture', lambda *_: held.wait(60))
    with pytest.raises(ValueError, match='longer than 0.2 seconds'):
        demo.find(path, NAMES)
    with pytest.raises(ValueError, match='longer than 0.2 seconds'):
        demo.find(path, NAMES)  # waits for the first
    monkeypatch.setattr(answers, 'read_picture', read)
    held.set()
    demo.limits = LIMITS
    assert demo.find(path, NAMES, score_thr=0.0).rows


def test_files_for_visitors(demo: Demo, tmp_path: Path) -> None:
    path = picture(tmp_path / 'a.png', 60)
    folder = tmp_path / 'files'
    folder.mkdir()
    found = demo.find(path, NAMES, score_thr=0.0)
    image, record = answers.write_answer(found, folder)
    again, _ = answers.write_answer(found, folder)
    assert image != again
    assert json.loads(Path(record).read_text()) == found.record
    assert np.asarray(Image.open(image)).shape == found.picture.shape
    assert answers.forget(folder, 60) > os.stat(image).st_size
    assert Path(image).exists()
    os.utime(image, (0, 0))
    answers.forget(folder, 60)
    assert not Path(image).exists() and Path(again).exists()


def test_samples_hold_what_they_say(tmp_path: Path) -> None:
    samples = answers.draw_samples(tmp_path, 2)
    assert len({path for path, _ in samples}) == 2
    for path, names in samples:
        assert answers.read_picture(Path(path), LIMITS).shape[2] == 3
        assert len(answers.read_names(names, LIMITS)) > 1


def test_what_the_detector_knows(demo: Demo) -> None:
    assert page.knowledge(demo, None, None).endswith('no photographs.')
    demo.trained = ['dog', 'kite']
    text = page.knowledge(demo, '/home/me/own.pth', None)
    assert text.startswith('own.pth was trained with boxes of 2 classes (dog,')
    demo.trained = []
    text = page.knowledge(demo, '/home/me/own.pth', None)
    assert text == 'own.pth does not say what it was trained on.'


def test_without_gradio_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page.importlib.util, 'find_spec', lambda _: None)
    assert page.main([]) == 2
    assert 'pip install "dito-mmdet[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('length', 'chunks', 'status'),
    [
        (b'8', [8], 200),
        (b'11', [11], 413),
        (b'-1', [1], 413),
        (None, [8], 200),
        (None, [8, 8], 413),
    ],
)
def test_large_requests_are_refused(
    length: bytes | None, chunks: list[int], status: int, tmp_path: Path
) -> None:
    """By what they say of themselves, and by what comes."""
    pytest.importorskip('starlette', reason='comes with the extra "demo"')
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def read(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(
        routes=[Route('/upload', read, methods=['POST'])],
        middleware=[
            Middleware(page.LimitedBody, most=10, folder=tmp_path),
        ],
    )
    headers = [] if length is None else [(b'content-length', length)]
    left = list(chunks)
    sent: list[dict] = []

    async def receive() -> dict:
        size = left.pop(0)
        return dict(type='http.request', body=bytes(size), more_body=any(left))

    async def send(message: dict) -> None:
        sent.append(message)

    scope = dict(
        type='http',
        method='POST',
        path='/upload',
        root_path='',
        query_string=b'',
        headers=headers,
    )
    asyncio.run(app(scope, receive, send))
    assert sent[0]['status'] == status


# ------------------------------------------------------------------ browser


def chromium() -> str | None:
    """Path of a Chromium."""
    names = ('chromium', 'chromium-browser', 'google-chrome')
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope='module')
def address() -> Iterator[str]:
    """Of a page that is served as users start it."""
    pytest.importorskip('gradio', reason='needs the extra "demo"')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    options = [f'--port={port}', '--max-mbytes=2', '--max-queue=8']
    server = subprocess.Popen(
        [sys.executable, '-u', '-m', 'dito', 'demo', *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ''
    try:
        while 'http://' not in said:
            ready, _, _ = select.select([server.stdout], [], [], 300)
            line = server.stdout.readline() if ready else ''
            assert line, f'the server did not start: {said}'
            said += line
        # What it says later must not fill the pipe.
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield re.search(r'http://127\.0\.0\.1:\d+', said)[0]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        'playwright.sync_api', reason='needs playwright: pip install it'
    )
    path = chromium()
    if path is None:
        pytest.skip('needs Chromium: apt-get install chromium')
    with sync_api.sync_playwright() as play:
        # Chromium's sandbox needs a user that is not root.
        found = play.chromium.launch(
            executable_path=path, args=['--no-sandbox']
        )
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Open the page; nothing may be asked of another machine."""
    contexts, elsewhere = [], []

    def note(request: Any) -> None:
        if not request.url.startswith((address, 'data:', 'blob:')):
            elsewhere.append(request.url)

    def open_page(width: int = 1280, height: int = 900) -> Any:
        context = browser.new_context(
            viewport=dict(width=width, height=height), accept_downloads=True
        )
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        tab.on('request', note)
        tab.goto(address)
        tab.wait_for_selector('#find')
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == []


def upload(tab: Any, path: Path) -> None:
    tab.set_input_files('#picture input[type=file]', str(path))
    tab.wait_for_selector('#picture img')


def answer_of(tab: Any, pattern: str) -> str:
    """Wait for a sentence of the page."""
    tab.wait_for_function(
        'p => new RegExp(p).test('
        'document.querySelector("#status [role=status]").textContent)',
        arg=pattern,
    )
    return tab.inner_text('#status [role=status]')


def screenshot(tab: Any, name: str) -> None:
    """Make a picture of the docs, if that is asked for."""
    if not os.environ.get('DITO_SCREENSHOTS'):
        return
    path = ROOT / 'docs/images' / name
    tab.screenshot(path=path, type='jpeg', quality=60, full_page=True)
    assert path.stat().st_size < 300_000


def wide(tab: Any) -> bool:
    """Whether the page is wider than the window."""
    return tab.evaluate(
        'document.documentElement.scrollWidth > window.innerWidth'
    )


@pytest.mark.slow
def test_find_and_download(visit: Callable[..., Any], tmp_path: Path) -> None:
    tab = visit()
    assert 'no photographs' in tab.inner_text('#knows')
    upload(tab, PICTURE)
    tab.fill('#names textarea', SHOWN)
    tab.click('#find')
    answer_of(tab, r'\d+ found with a score of 0.3')
    tab.wait_for_selector('#drawn img')
    with tab.expect_download() as waiting:
        tab.click('#json')
    record = json.loads(Path(waiting.value.path()).read_text())
    assert record['vocabulary'] == SHOWN.split(', ')
    assert record['scores'] and len(record['masks']) == len(record['scores'])
    assert tab.inner_text('#status').startswith(f'{len(record["scores"])} ')
    with tab.expect_download() as waiting:
        tab.click('#jpeg')
    drawn = np.asarray(Image.open(waiting.value.path())).astype(int)
    # Labels are blue or, of novel names, orange.
    colours = (drawn - (37, 99, 235), drawn - (217, 84, 10))
    near = [np.abs(far).sum(axis=2) < 60 for far in colours]
    assert np.sum(near) > 100
    assert record['names'][0] in tab.inner_text('#table')
    tab.click('#see')
    answer_of(tab, 'Of the first 4 names')
    tab.wait_for_selector('#maps img')
    tab.wait_for_function('document.querySelector("#maps img").complete')
    screenshot(tab, 'demo.jpg')


@pytest.mark.slow
def test_an_example_by_two_clicks(visit: Callable[..., Any]) -> None:
    """The box is that of the pixels, however large the page shows them."""
    tab = visit()
    upload(tab, PICTURE)
    tab.click('text=Show an example')
    image = tab.locator('#picture img')
    shown, (width, height) = image.bounding_box(), Image.open(PICTURE).size
    # Gradio makes pictures smaller, never larger.
    scale = min(shown['width'] / width, shown['height'] / height, 1)
    left = (shown['width'] - width * scale) / 2
    top = (shown['height'] - height * scale) / 2
    corners = [(0.75, 0.5), (0.25, 0.1)]
    for x, y in corners:
        image.click(
            position=dict(
                x=left + x * width * scale, y=top + y * height * scale
            )
        )
        answer_of(tab, 'corner;|box is whole')
        tab.wait_for_function(
            'n => document.querySelector("#box input, #box textarea")'
            '.value.split(",").length == n',
            arg=2 if (x, y) == corners[0] else 4,
        )
    box = list(
        map(int, tab.input_value('#box :is(input, textarea)').split(','))
    )
    expected = [0.25 * width, 0.1 * height, 0.75 * width, 0.5 * height]
    assert np.abs(np.subtract(box, expected)).max() <= 2
    tab.click('#add')
    answer_of(tab, 'There is no name')
    tab.fill('#called :is(input, textarea)', 'that thing')
    tab.click('#add')
    answer_of(tab, 'The example is added')
    tab.wait_for_selector('#cut img')
    assert tab.inner_text('#examples').strip() == 'Examples: that thing: 1.'
    tab.click('#find')
    answer_of(tab, 'found with a score|Nothing has a score')
    with tab.expect_download() as waiting:
        tab.click('#json')
    record = json.loads(Path(waiting.value.path()).read_text())
    assert record['vocabulary'] == ['that thing']
    assert record['examples'] == [dict(name='that thing', box=box)]
    tab.click('#clear')
    tab.wait_for_function(
        'document.querySelector("#examples").textContent.includes("none")'
    )
    tab.click('#find')
    answer_of(tab, 'There is no name')


@pytest.mark.slow
def test_a_sample_at_the_width_of_a_phone(visit: Callable[..., Any]) -> None:
    tab = visit(360, 740)
    assert not wide(tab)
    tab.click('#sample')
    tab.wait_for_selector('#picture img')
    assert tab.input_value('#names textarea')
    tab.click('#find')
    answer_of(tab, 'found with a score')
    tab.wait_for_selector('#drawn img')
    assert not wide(tab)
    screenshot(tab, 'demo_phone.jpg')


@pytest.mark.slow
def test_by_keyboard_alone(visit: Callable[..., Any]) -> None:
    tab = visit()

    def reach(inside: str) -> None:
        """Press Tab until the focus is in an element."""
        for _ in range(60):
            if tab.evaluate(
                's => !!document.activeElement.closest(s)', inside
            ):
                return
            tab.keyboard.press('Tab')
        raise AssertionError(f'Tab does not reach {inside}')

    # Listening is not immediate, so it begins before what is waited for.
    tab.on('filechooser', lambda chooser: chooser.set_files(str(PICTURE)))
    reach('#picture')
    tab.keyboard.press('Enter')
    tab.wait_for_selector('#picture img')
    reach('#names')
    tab.keyboard.type(NAMES)
    reach('#find')
    tab.keyboard.press('Enter')
    answer_of(tab, 'found with a score')
    reach('#json')


@pytest.mark.slow
def test_bad_input_is_answered(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    tab = visit()
    tab.click('#find')
    answer_of(tab, 'There is no name')
    tab.fill('#names textarea', NAMES)
    tab.click('#find')
    answer_of(tab, 'There is no picture')
    bad = tmp_path / 'bad.png'
    bad.write_text('no picture')
    upload(tab, bad)
    tab.click('#find')
    answer_of(tab, 'no picture that can be read')
    tab.fill('#names textarea', MANY)
    tab.click('#find')
    answer_of(tab, 'at most 500 names')
    # Text of a visitor stays text.
    tab.fill('#names textarea', '<img src=x onerror=alert(1)>')
    tab.click('#find')
    answer_of(tab, '<img src=x')
    assert tab.query_selector('#status img') is None


def ask(
    url: str,
    body: bytes | None = None,
    kind: str = 'application/json',
    most: int = 100_000,
) -> tuple[int, bytes]:
    """Status and beginning of an answer; 0 where there is none."""
    request = urllib.request.Request(
        url, body, {'content-type': kind} if body is not None else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, reply.read(most)
    except urllib.error.HTTPError as error:
        return error.code, error.read(most)
    except (OSError, ValueError):
        return 0, b''


def form(name: str, content: bytes) -> bytes:
    """A file in a form."""
    kind = f'content-disposition: form-data; name="files"; filename="{name}"'
    head = f'--x\r\n{kind}\r\n\r\n'.encode()
    return head + content + b'\r\n--x--\r\n'


def hostile(address: str, secret: Path) -> list[tuple]:
    """Addresses and bodies of requests that nobody should make."""
    api = f'{address}/gradio_api'
    config = json.loads(ask(f'{address}/config', most=-1)[1])
    ids = [event['id'] for event in config['dependencies']]
    stolen = dict(
        path=str(secret), orig_name='a.png', meta={'_type': 'gradio.FileData'}
    )
    shown = [['anchor', str(secret), [0, 0, 8, 8]]]
    asked = [stolen, 'anchor', '', False, 0.3, True, True, shown]
    corners = '0, 0, 8, 8'
    posts = [
        json.dumps(dict(fn_index=i, data=data, session_hash='h')).encode()
        for i in ids
        for data in (
            asked,
            [dict(stolen, path=f'file://{secret}'), *asked[1:]],
            [dict(stolen, url=f'file://{secret}'), *asked[1:]],
            [None, MANY, MANY, True, 'x', {}, [], shown],
            [stolen, corners, 'anchor', shown],
            [None, corners, 'anchor', shown],
            [{'a': 1}] * 8,
            [],
        )
    ]
    multipart = 'multipart/form-data; boundary=x'
    return [
        *(
            (f'{api}/file={p}',)
            for p in (secret, '/etc/passwd', '../setup.py')
        ),
        (f'{address}/file={secret}',),
        (f'{api}/file=%2e%2e%2f%2e%2e%2fetc%2fpasswd',),
        (f'{api}/proxy=http://127.0.0.1:1/',),
        (f'{address}/static/..%2f..%2f..%2fetc%2fpasswd',),
        (f'{address}/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd',),
        (f'{api}/upload', form('../../escaped.png', b'x'), multipart),
        (f'{api}/upload', form('/tmp/escaped.png', b'x'), multipart),
        (f'{api}/upload', form('a.png', bytes(4_000_000)), multipart),
        (f'{api}/upload', b'rubbish', multipart),
        (f'{api}/queue/join', b'{'),
        (f'{api}/queue/join', b'[' * 100_000),
        (f'{api}/queue/join', bytes(4_000_000)),
        *((f'{api}/queue/join', post) for post in posts),
        *((f'{api}/run/predict', post) for post in posts),
    ]


@pytest.mark.slow
def test_200_hostile_requests_at_once(
    visit: Callable[..., Any], address: str, tmp_path: Path
) -> None:
    sync_api = pytest.importorskip('playwright.sync_api')
    secret = tmp_path / 'secret.png'
    Image.new('RGB', (8, 8), 'red').save(secret)
    secret.write_bytes(secret.read_bytes() + b'the secret of the host')
    kinds = hostile(address, secret)
    requests = [kinds[i % len(kinds)] for i in range(max(200, len(kinds)))]
    tab = visit()
    with ThreadPoolExecutor(200) as pool:
        replies = list(pool.map(lambda r: ask(*r), requests))
    for request, (status, text) in zip(requests, replies, strict=True):
        assert b'the secret of the host' not in text, request[0]
        assert b'root:' not in text, request[0]
        if len(request) > 1 and len(request[1]) > 3_500_000:
            assert status in (0, 413), (request[0], status)
    assert not Path('/tmp/escaped.png').exists()
    assert not list(ROOT.rglob('escaped.png'))
    upload(tab, PICTURE)
    tab.fill('#names textarea', NAMES)
    for _ in range(60):
        tab.click('#find')
        try:
            tab.wait_for_selector('#drawn img', timeout=5000)
            break
        except sync_api.TimeoutError:  # the queue is still full
            continue
    answer_of(tab, 'found with a score')
