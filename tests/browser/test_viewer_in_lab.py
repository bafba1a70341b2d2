"Use the viewers as a person would: in a running JupyterLab, with mouse and keyboard; look at the page and at its pixels."
import json, re, time
import nbformat, numpy as np, pytest
from conftest import TOKEN

# What the notebook under test runs; the tests run it, too, to know what must appear.
CLIP = '''
import numpy as np
from segvid.labels import cityscapes_labels
from segvid.toycity import toycity_frame
street = [toycity_frame(3, t, size=(96, 192), noise=0, flicker=0, dropout=0) for t in range(24)]
frames, truth = np.stack([s.image for s in street]), np.stack([s.mask for s in street])
flicker, steady = truth.copy(), truth.copy()
for t in range(24):
    y, x = np.random.default_rng(t).integers(0, 80, 2)
    flicker[t, y:y+16, x:x+30] = 8
    steady[t, 60:70, 20:40] = 1
sure = np.where(flicker == truth, 0.9, 0.4)
'''
VIEWER = '''
from segvid.viewer import ClipViewer
viewer = ClipViewer(frames, flicker, truth=truth, compare={'steady': steady}, confidence=sure, title='Toy city', quality=95)
viewer
'''
BROWSER = '''
from segvid.clips import FrameIndex
from segvid.toycity import make_toycity
from segvid.viewer import DatasetBrowser
whole = FrameIndex(make_toycity('city', sequences=4, val=1))
records = [r if r.frame % 10 == 9 else r._replace(label=None) for r in whole.records if not (r.recording == whole.sequences[1] and 12 <= r.frame < 16)]
browser = DatasetBrowser(FrameIndex(records=records, step=1), title='Toy city with a gap')
browser
'''
EXPLORER = '''
from segvid.viewer import WindowExplorer
explorer = WindowExplorer(frames[::8], size=(512, 1024), norms={'block 0': [1, 2, 3], 'block 1': [2, 2.5, 2.6]})
explorer
'''

@pytest.fixture(scope='module')
def clip():
    "The arrays of the notebook, and its viewer without a page"
    names = {}
    exec(CLIP + VIEWER, names)
    return names

def write_notebook(root, name, *cells):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells])
    nb.metadata.kernelspec = dict(name='python3', display_name='Python 3', language='python')
    nbformat.write(nb, root/name)

def run_all(page):
    "Menu Run, Run All Cells, once the kernel is ready; once more if the kernel was not listening yet"
    page.wait_for_selector('.jp-Notebook .jp-Cell')
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    page.wait_for_function("""() => { const panel = window.jupyterapp?.shell.currentWidget;
        return !window.jupyterapp || (panel?.sessionContext?.isReady && panel.sessionContext.session?.kernel?.status === 'idle'); }""")
    accept = page.locator('.jp-Dialog .jp-mod-accept')                        # a slow server asks which kernel to take
    for _ in range(3):
        if accept.is_visible(): accept.click()
        page.click('.lm-MenuBar-itemLabel:text-is("Run")', timeout=5000)
        page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
        page.wait_for_timeout(500)
        if accept.is_visible(): accept.click()
        try: return page.wait_for_function(r"/\[(\d+|\*)\]/.test(document.querySelector('.jp-InputPrompt').textContent)", timeout=8000)
        except Exception: pass

def open_lab(lab, make_page, name, *cells, **options):
    url, root = lab
    write_notebook(root, name, *cells)
    page = make_page(f'{url}/lab/workspaces/{name.split(".")[0]}/tree/{name}?token={TOKEN}&reset', **options)
    run_all(page)
    return page

def tell_kernel(page, code):
    "Run `code` in the open notebook's kernel and return what it printed"
    return page.evaluate('''async (code) => {
        const panel = window.jupyterapp.shell.currentWidget, kernel = panel.sessionContext.session.kernel;
        let text = '';
        const future = kernel.requestExecute({ code, stop_on_error: false });
        future.onIOPub = (m) => { if (m.header.msg_type === 'stream') text += m.content.text; if (m.header.msg_type === 'error') text += m.content.evalue; };
        await future.done;
        return text.trim();
    }''', code)

def frame_of(page): return int(page.locator('.sv-clip').get_attribute('data-frame'))

def frame_of_all(page): return page.evaluate("[...document.querySelectorAll('.sv-clip')].map((e) => e.dataset.frame)")

def wait_frame(page, t): page.wait_for_function(f"document.querySelector('.sv-clip').dataset.frame === '{t}'")

def pixel(page, x, y, pane=0):
    "Color of the canvas where point (x, y) of the picture is drawn"
    return np.array(page.evaluate('''([x, y, pane]) => {
        const { stage } = document.querySelector('.sv-clip').viewer, [left, top] = stage.screen(x + 0.5, y + 0.5, pane);
        return [...stage.context.getImageData(Math.floor(left * stage.ratio), Math.floor(top * stage.ratio), 1, 1).data].slice(0, 3);
    }''', [x, y, pane]))

def place(page, x, y, pane=0):
    "Where point (x, y) of the picture is on the screen"
    return page.evaluate('''([x, y, pane]) => {
        const { stage } = document.querySelector('.sv-clip').viewer, [left, top] = stage.screen(x + 0.5, y + 0.5, pane), box = stage.canvas.getBoundingClientRect();
        return [box.left + left, box.top + top];
    }''', [x, y, pane])

def inner_point(mask, k, reach=3):
    "A point (x, y) of class `k` with only its own class around it"
    H, W = mask.shape
    for y, x in np.argwhere(mask == k):
        if reach <= y < H-reach and reach <= x < W-reach and (mask[y-reach:y+reach+1, x-reach:x+reach+1] == k).all(): return int(x), int(y)
    raise AssertionError(f'no inner point of class {k}')

def choose(page, text): page.click(f'.sv-clip .sv-segmented button:text-is("{text}")')

@pytest.fixture
def page(lab, make_page):
    "A notebook with a clip viewer, run"
    page = open_lab(lab, make_page, 'clip.ipynb', CLIP, VIEWER, 'print("the cell below")')
    page.wait_for_selector('.sv-clip[data-frame="0"]')
    page.locator('.sv-clip').scroll_into_view_if_needed()
    return page

def test_play_scrub_filter_hover_compare(page, clip, shots):
    viewer, labels = clip['viewer'], clip['cityscapes_labels']
    page.screenshot(path=shots/'lab_first_look.png')
    # The picture for saved notebooks is there, but hidden as long as the widget runs.
    hidden = page.evaluate('''() => [...document.querySelectorAll('.jp-OutputArea-child img')].map((i) => getComputedStyle(i.closest('.jp-OutputArea-child')).display)''')
    assert hidden == ['none']

    # Pixels: what Python would draw is what the browser draws.
    for k in (0, 10, 13):
        x, y = inner_point(clip['flicker'][0], k)
        assert abs(pixel(page, x, y) - viewer.overlay(0, 'prediction')[y, x].astype(int)).max() <= 12, labels.classes[k]

    # Play: frames go by in the browser, nothing is sent to the kernel meanwhile; pause tells it where.
    page.click('[aria-label="Play (space)"]')
    page.wait_for_timeout(600)
    quiet = page.evaluate("""async () => { const view = document.querySelector('.sv-clip').viewer, send = WebSocket.prototype.send, drawn = view.painted;
        let sent = 0; WebSocket.prototype.send = function (data) { sent++; return send.call(this, data); };
        await new Promise((r) => setTimeout(r, 700)); WebSocket.prototype.send = send; return [sent, view.painted - drawn]; }""")
    assert quiet[0] == 0 and quiet[1] >= 3, quiet
    page.click('[aria-label="Pause (space)"]')
    page.wait_for_timeout(500)
    assert tell_kernel(page, 'print(viewer.frame, viewer.playing)') == f'{frame_of(page)} False'

    # Scrub: drag the thumb; the frame, the chart's cursor and the picture follow.
    box = page.locator('.sv-clip .sv-scrub').bounding_box()
    at = lambda t: (box['x'] + 8 + t/23*(box['width']-16), box['y'] + box['height']/2)
    page.mouse.move(*at(frame_of(page))); page.mouse.down(); page.mouse.move(*at(10), steps=5); page.mouse.move(*at(17), steps=5); page.mouse.up()
    wait_frame(page, 17)
    cursor = page.evaluate("document.querySelector('.sv-clip .sv-cursor').getBoundingClientRect().left + 0.75")
    assert abs(cursor - at(17)[0]) < 2
    x, y = inner_point(clip['flicker'][17], 8)
    assert abs(pixel(page, x, y) - viewer.overlay(17, 'prediction')[y, x].astype(int)).max() <= 12
    assert 'frame 17' in page.locator('.sv-clip .sv-where').inner_text()

    # Share and IoU in the legend are numpy's.
    page.wait_for_timeout(200)
    row = page.locator('.sv-clip [data-class="13"]')
    share, iou = (clip['flicker'][17] == 13).mean(), ((clip['flicker'][17] == 13) & (clip['truth'][17] == 13)).sum() / ((clip['flicker'][17] == 13) | (clip['truth'][17] == 13)).sum()
    assert abs(float(row.locator('.sv-number').first.inner_text().split()[0]) - 100*share) < 0.6
    assert abs(float(row.locator('.sv-iou').inner_text()) - iou) < 1e-3

    # Hover: class and confidence.
    x, y = inner_point(clip['truth'][17], 13)
    page.mouse.move(*place(page, x, y))
    page.wait_for_selector('.sv-clip .sv-tip:visible')
    tip = page.locator('.sv-clip .sv-tip').inner_text()
    assert labels.classes[clip['flicker'][17, y, x]] in tip and f'{round(100*clip["sure"][17, y, x])} % sure' in tip and 'truth' in tip and f'{x}, {y}' in tip
    page.screenshot(path=shots/'lab_hover.png')

    # Filter a class: its color goes, the picture is back, others stay.
    x, y = inner_point(clip['flicker'][17], 13)
    before = pixel(page, x, y)
    row.locator('.sv-class').click()
    page.wait_for_function("document.querySelector('.sv-clip [data-class=\"13\"] .sv-class').getAttribute('aria-pressed') === 'false'")
    page.wait_for_timeout(100)
    assert abs(pixel(page, x, y) - clip['frames'][17, y, x].astype(int)).max() <= 12 and abs(pixel(page, x, y) - before).max() > 12
    page.wait_for_timeout(400)
    assert tell_kernel(page, 'print(viewer.hidden)') == '[13]'
    page.screenshot(path=shots/'lab_without_cars.png')
    page.click('.sv-clip .sv-legend-bar button:text-is("all")')

    # Compare: side by side, swipe, difference, flicker.
    choose(page, 'Side by side')
    page.wait_for_function("document.querySelector('.sv-clip').viewer.stage.panes.length === 2")
    page.wait_for_timeout(200)
    x, y = inner_point(clip['steady'][17], 1)
    for pane, layer in enumerate(('prediction', 'steady')):
        assert abs(pixel(page, x, y, pane) - viewer.overlay(17, layer)[y, x].astype(int)).max() <= 14, layer
    page.screenshot(path=shots/'lab_side_by_side.png')
    choose(page, 'Swipe')
    page.wait_for_selector('.sv-clip .sv-divider:visible')
    page.focus('.sv-clip .sv-divider')
    for _ in range(5): page.keyboard.press('ArrowLeft')
    assert page.locator('.sv-clip .sv-divider').get_attribute('aria-valuenow') == '40'
    assert frame_of(page) == 17                                              # the arrows moved the divider alone
    page.screenshot(path=shots/'lab_swipe.png')
    choose(page, 'Difference')
    page.wait_for_selector('.sv-clip .sv-caption:visible')
    caption = page.locator('.sv-clip .sv-caption').inner_text()
    a, b, t = clip['flicker'][17], clip['steady'][17], clip['truth'][17]
    only_b = 100*((a != t) & (b == t)).mean()
    assert abs(float(re.search(r'only steady right ([\d.]+) %', caption)[1]) - only_b) < 0.6
    page.screenshot(path=shots/'lab_difference.png')
    choose(page, 'Flicker')
    page.wait_for_timeout(300)
    flickers = 100*((a != clip['flicker'][16]) & (t == clip['truth'][16])).mean()
    assert abs(float(re.search(r'flickers ([\d.]+) %', page.locator('.sv-clip .sv-caption').inner_text())[1]) - flickers) < 0.6
    page.screenshot(path=shots/'lab_flicker.png')

def test_keyboard_stays_inside(page, clip):
    "All keys work, and none reaches the notebook, where digits make headings and 'a' makes cells"
    cells = page.locator('.jp-Notebook .jp-Cell').count()
    page.focus('.sv-clip')
    press = page.keyboard.press
    press('ArrowRight'); wait_frame(page, 1)
    press('Shift+ArrowRight'); wait_frame(page, 11)
    press('ArrowLeft'); wait_frame(page, 10)
    press('End'); wait_frame(page, 23)
    press('5'); wait_frame(page, 12)
    press('Home'); wait_frame(page, 0)
    worst = clip['viewer']._meta['layers'][0]['worst']
    press('w'); wait_frame(page, worst[0])
    press('w'); wait_frame(page, worst[1])
    press('o'); press('h'); press('m')
    page.wait_for_timeout(500)
    assert tell_kernel(page, 'print(viewer.style, viewer.hatch, viewer.mode)') == 'outline True side'
    press('a'); press('b'); press('x'); press('1')                           # 'x' cuts a cell in JupyterLab
    wait_frame(page, 2)
    assert page.locator('.jp-Notebook .jp-Cell').count() == cells
    assert page.locator('.jp-MarkdownCell').count() == 0
    press(' ')
    page.wait_for_function("document.querySelector('.sv-clip').classList.contains('sv-playing')")
    press(' ')
    page.wait_for_function("!document.querySelector('.sv-clip').classList.contains('sv-playing')")
    # Focus can be seen, and everything that can be clicked has a name.
    assert page.evaluate("getComputedStyle(document.querySelector('.sv-clip')).outlineStyle") == 'solid'
    nameless = page.evaluate("""[...document.querySelectorAll('.sv-clip :is(button, input, select, summary)')].filter((e) =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')?.textContent.trim())).map((e) => e.outerHTML)""")
    assert nameless == []

def test_python_and_page_share_state(page, clip, shots):
    tell_kernel(page, 'viewer.frame = 7'); wait_frame(page, 7)
    tell_kernel(page, 'viewer.show_only("car"); viewer.style = "both"; viewer.palette = "colorblind"; viewer.hatch = True')
    page.wait_for_function("document.querySelector('.sv-clip [data-class=\"0\"] .sv-class').getAttribute('aria-pressed') === 'false'")
    assert page.locator('.sv-clip .sv-toggle[aria-checked="true"]').count() == 3         # hatching, palette, loop
    tell_kernel(page, 'viewer.show_only()')
    page.wait_for_timeout(400)
    page.screenshot(path=shots/'lab_colorblind.png')
    # Zoom about a point and pan: the point under the pointer stays, dragging moves it along.
    tell_kernel(page, 'viewer.hatch = False; viewer.palette = "dataset"; viewer.style = "fill"')
    left, top = place(page, 100, 50)
    page.mouse.move(left, top)
    page.keyboard.down('Control'); page.mouse.wheel(0, -300); page.keyboard.up('Control')
    page.wait_for_function("document.querySelector('.sv-clip').viewer.stage.zoom > 2")
    assert np.abs(np.subtract(place(page, 100, 50), (left, top))).max() < 4
    page.mouse.down(); page.mouse.move(left+40, top+10, steps=4); page.mouse.up()
    assert np.abs(np.subtract(place(page, 100, 50), (left+40, top+10))).max() < 5
    page.focus('.sv-clip'); page.keyboard.press('z')
    # A click follows a pixel: its class is pinned, its labels appear as a bar code.
    x, y = inner_point(clip['flicker'][7], 10)
    page.mouse.click(*place(page, x, y))
    page.wait_for_selector('.sv-clip .sv-strip:visible')
    page.wait_for_timeout(500)
    assert tell_kernel(page, 'print(viewer.pinned)') == '10'
    changes = (np.diff(clip['flicker'][:, y, x].astype(int)) != 0).sum()
    assert page.locator('.sv-clip .sv-strip-name').first.inner_text() == f'prediction {changes} ×'
    page.screenshot(path=shots/'lab_pixel.png')
    choose(page, 'Per class')
    page.wait_for_timeout(200)
    page.screenshot(path=shots/'lab_per_class.png')

def test_themes_and_reload(page, lab, shots):
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_selector('body[data-jp-theme-light="false"]', state='attached')
    page.wait_for_timeout(600)
    background = page.evaluate("getComputedStyle(document.querySelector('.sv-clip')).backgroundColor")
    assert max(map(int, re.findall(r'\d+', background)[:3])) < 80
    page.screenshot(path=shots/'lab_dark.png')
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
    page.wait_for_selector('body[data-jp-theme-light="true"]', state='attached')
    # Saved and opened again with the kernel still running: the widget comes back.
    page.focus('.sv-clip'); page.keyboard.press('5'); wait_frame(page, 12)
    page.wait_for_timeout(500)
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1500)
    page.reload()
    page.wait_for_selector('.sv-clip[data-frame="12"]')
    # The file on disk holds a picture beside the widget.
    outputs = nbformat.read(lab[1]/'clip.ipynb', 4).cells[1].outputs
    assert 'image/png' in outputs[0].data and len(outputs[0].data['image/png']) > 5000
    assert 'application/vnd.jupyter.widget-view+json' in outputs[1].data
    # Without the kernel the picture shows.
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.wait_for_timeout(1000)
    page.goto('about:blank')
    page.goto(f'{lab[0]}/lab/workspaces/again/tree/clip.ipynb?token={TOKEN}&reset')
    page.wait_for_selector('.jp-OutputArea-child img:visible')
    page.wait_for_timeout(1500)
    page.screenshot(path=shots/'lab_without_kernel.png')

def test_dataset_browser(lab, make_page, shots):
    from segvid.organize import choose_frames
    page = open_lab(lab, make_page, 'data.ipynb', BROWSER)
    page.wait_for_selector('.sv-dataset[data-clip="10,13,16,19"]')
    page.wait_for_selector('.sv-dataset .sv-film img')
    assert '11 clips complete' in page.locator('.sv-coverage').inner_text().replace('\n', ' ')
    page.click('.sv-recordings button:has-text("toycity_000001")')
    page.wait_for_selector('.sv-dataset[data-clip="28,25,22,19"][data-how="mirror"]')
    page.wait_for_function("document.querySelectorAll('.sv-film img').length === 4")    # these pictures came from the kernel
    page.screenshot(path=shots/'lab_dataset.png')
    page.fill('.sv-short', '-2, -1'); page.keyboard.press('Enter')
    page.wait_for_selector('.sv-dataset[data-clip="17,18,19"]')
    page.wait_for_timeout(500)
    assert tell_kernel(page, 'print(browser.dilation, browser.clip())') == '[-2, -1] [17, 18, 19]'
    # The page's rule for missing frames is Python's, in every case.
    snippet = [0, 1, 2, 5, 6, 7, 8, 11, 12, 20]
    cases = [(n, list(d), how) for n in snippet for d in ((-9, -6, -3), (-1,), (-4, 4), (-30, -2)) for how in ('mirror', 'repeat', 'drop', 'error')]
    theirs = page.evaluate('''([snippet, cases]) => { const { viewer } = document.querySelector('.sv-dataset');
        return cases.map(([n, d, missing]) => viewer.constructor.rule(snippet, n, d, missing)); }''', [snippet, cases])
    for (n, d, how), found in zip(cases, theirs):
        try: expected = choose_frames(snippet, n, d, how)
        except ValueError: expected = [n]; assert found['how'] == 'error'
        assert found['frames'] == expected, (n, d, how)
    page.fill('.sv-dataset input[type=search]', '0003')
    assert page.locator('.sv-recordings li').count() == 1

def test_window_explorer(lab, make_page, shots):
    page = open_lab(lab, make_page, 'windows.ipynb', CLIP, EXPLORER)
    page.wait_for_selector('.sv-windows[data-parts="28"]')
    page.click('.sv-windows button:text-is("Odd layers")')
    page.wait_for_selector('.sv-windows[data-parts="40"]')
    assert page.locator('.sv-windows .sv-legend li').count() == 9                        # nine kinds
    page.click('.sv-windows button:text-is("As rolled")')
    page.focus('.sv-windows')
    page.keyboard.press('ArrowUp')                                           # the last part: the corner
    page.keyboard.press('End')
    page.wait_for_function("document.querySelector('.sv-windows').dataset.token === '299'")
    assert 'Window 40 of 40 reads 3 frames × 10 rows × 10 columns' in page.locator('.sv-story').inner_text()
    assert 'frame 2, row 9, column 9' in page.locator('.sv-story').inner_text()
    page.wait_for_timeout(500)
    assert tell_kernel(page, 'print(explorer.part, explorer.token, explorer.shifted, explorer.rolled)') == '39 299 True True'
    page.keyboard.press(' ')
    page.wait_for_function("Number(document.querySelector('.sv-windows').dataset.token) < 200")
    page.keyboard.press(' ')
    page.screenshot(path=shots/'lab_windows.png')

def test_notebook_7(lab, make_page, shots):
    "The same in the classic interface"
    pytest.importorskip('notebook', minversion='7', reason='pip install notebook')
    url, root = lab
    write_notebook(root, 'seven.ipynb', CLIP, VIEWER)
    page = make_page(f'{url}/notebooks/seven.ipynb?token={TOKEN}')
    run_all(page)
    page.wait_for_selector('.sv-clip[data-frame="0"]')
    page.focus('.sv-clip')
    page.keyboard.press('5'); wait_frame(page, 12)
    assert page.locator('.jp-MarkdownCell').count() == 0
    page.screenshot(path=shots/'notebook7.png')

def test_fragment_as_output(lab, make_page, shots):
    "to_html(fragment=True) inside a notebook: animated, and independent of the widget above it"
    page = open_lab(lab, make_page, 'fragment.ipynb', CLIP, VIEWER, 'from IPython.display import HTML\nHTML(viewer.to_html(fragment=True))')
    page.wait_for_function("document.querySelectorAll('.sv-clip[data-frame=\"0\"]').length === 2")
    page.evaluate("document.querySelectorAll('.sv-clip')[1].focus()")
    page.keyboard.press('End')
    page.wait_for_function("document.querySelectorAll('.sv-clip')[1].dataset.frame === '23'")
    assert frame_of_all(page) == ['0', '23']

def test_page_without_kernel(tmp_path, make_page, clip, shots):
    "to_html: the same viewer from a file, with nothing fetched from anywhere; dark by the system's choice; on a phone"
    file = clip['viewer'].to_html(tmp_path/'clip.html')
    page = make_page(file.as_uri(), color_scheme='dark')
    asked = []
    page.on('request', lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector('.sv-clip[data-frame="0"]')
    page.keyboard.press('Tab'); page.keyboard.press('End'); wait_frame(page, 23)
    x, y = inner_point(clip['flicker'][23], 0)
    assert abs(pixel(page, x, y) - clip['viewer'].overlay(23, 'prediction')[y, x].astype(int)).max() <= 12
    # A picture that the cache had to throw away is fetched again when the user zooms.
    page.evaluate("globalThis.segvidPictures.drop(() => true)")
    page.wait_for_timeout(100)
    page.evaluate("document.querySelector('.sv-clip').viewer.stage.zoomBy(1.01)")
    page.wait_for_timeout(300)
    assert abs(pixel(page, x, y) - clip['viewer'].overlay(23, 'prediction')[y, x].astype(int)).max() <= 12
    background = page.evaluate("getComputedStyle(document.querySelector('.sv-clip')).backgroundColor")
    assert max(map(int, re.findall(r'\d+', background)[:3])) < 80
    assert all(a.startswith(('file:', 'blob:', 'data:')) for a in asked), asked
    page.screenshot(path=shots/'html_dark.png')
    phone = make_page(file.as_uri(), width=390, height=844)
    phone.wait_for_selector('.sv-clip[data-frame="0"]')
    assert phone.evaluate('document.documentElement.scrollWidth') <= 390
    phone.screenshot(path=shots/'html_phone.png', full_page=True)

def test_page_without_script(tmp_path, browser, clip, shots):
    "Where scripts are not allowed, the picture stays"
    file = clip['viewer'].to_html(tmp_path/'clip.html')
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator('img').count() == 1 and page.locator('img').bounding_box()['width'] > 500
    page.screenshot(path=shots/'html_without_script.png')
    context.close()
