"A newcomer's first five minutes: the quickstart in a running JupyterLab, run as it is, then used. Small form, so that it takes a minute."
import re, shutil
import nbformat, numpy as np, pytest
from conftest import TOKEN, TOP
from test_viewer_in_lab import choose, frame_of, pixel, place, run_all, tell_kernel, wait_frame

@pytest.fixture(scope='module')
def root(lab):
    "The notebooks' folder on the server, as `make lab` opens it, without outputs"
    folder = lab[1]/'nbs'
    (folder/'tutorials').mkdir(parents=True, exist_ok=True)
    shutil.copytree(TOP/'nbs'/'images', folder/'images', dirs_exist_ok=True)
    nb = nbformat.read(TOP/'nbs'/'tutorials'/'quickstart.ipynb', 4)
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.outputs, cell.execution_count = [], None
    nb.cells.insert(0, nbformat.v4.new_code_cell("import os; os.environ['SEGVID_FULL'] = '0'"))
    nbformat.write(nb, folder/'tutorials'/'quickstart.ipynb')
    return folder

def in_view(page, selector): page.locator(selector).scroll_into_view_if_needed()

def test_quickstart(lab, root, make_page, shots):
    page = make_page(f'{lab[0]}/lab/workspaces/quickstart/tree/nbs/tutorials/quickstart.ipynb?token={TOKEN}&reset', width=1280, height=1000)
    run_all(page)
    page.wait_for_function("""() => { const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter((w) => w.model.type === 'code');
        return cells.length > 10 && cells.every((w) => w.model.executionCount); }""", timeout=400_000)
    failed = page.evaluate("""() => window.jupyterapp.shell.currentWidget.content.widgets.filter((w) => w.model.type === 'code')
        .flatMap((w) => w.model.outputs.toJSON()).filter((o) => o.output_type === 'error' || o.name === 'stderr').map((o) => JSON.stringify(o).slice(0, 500))""")
    assert failed == []                                                    # no error and no warning either
    page.evaluate("document.querySelectorAll('.jp-Cell').forEach((c) => c.scrollIntoView())")     # the lab draws what is in view

    # The street's viewer: play, scrub, compare, filter, hover.
    page.evaluate("document.querySelector('.sv-clip').scrollIntoView()")
    page.wait_for_selector('.sv-clip[data-frame="0"]')
    assert page.locator('.sv-clip').count() >= 2 and page.locator('.sv-dataset').count() == 1
    page.screenshot(path=shots/'quickstart_first_look.png')
    page.locator('.sv-clip [aria-label="Play (space)"]').first.click()
    page.wait_for_function("Number(document.querySelector('.sv-clip').dataset.frame) > 1")
    page.locator('.sv-clip [aria-label="Pause (space)"]').first.click()
    page.wait_for_timeout(500)
    assert tell_kernel(page, 'print(viewer.frame, viewer.playing)') == f'{frame_of_first(page)} False'
    box = page.locator('.sv-clip .sv-scrub').first.bounding_box()
    page.mouse.click(box['x'] + 8 + 5/11*(box['width'] - 16), box['y'] + box['height']/2)
    wait_frame(page, 5)
    # Pixels on the screen are what Python would draw, and the label under the pointer is Python's.
    shown = eval(tell_kernel(page, 'print((viewer.overlay(5, "prediction")[20, 30].tolist(), viewer.labels.classes[viewer.layers["prediction"][5, 20, 30]]))'))
    assert abs(pixel(page, 30, 20) - np.array(shown[0])).max() <= 60        # a noisy frame as JPEG: near, not equal
    page.mouse.move(*place(page, 30, 20))
    page.wait_for_selector('.sv-clip .sv-tip:visible')
    assert shown[1] in page.locator('.sv-clip .sv-tip').first.inner_text()
    page.screenshot(path=shots/'quickstart_hover.png')
    # Filter the largest class: the street itself appears there.
    most = int(tell_kernel(page, 'print(np.bincount(viewer.layers["prediction"][5].ravel()).argmax())'))
    y, x = eval(tell_kernel(page, f'print(tuple(np.argwhere(viewer.layers["prediction"][5] == {most})[40].tolist()))'))
    before = pixel(page, x, y)
    page.locator(f'.sv-clip [data-class="{most}"] .sv-class').first.click()
    page.wait_for_function("([x]) => true", arg=[0]); page.wait_for_timeout(600)
    assert tell_kernel(page, 'print(viewer.hidden)') == f'[{most}]'
    assert abs(pixel(page, x, y) - before).max() > 5
    page.screenshot(path=shots/'quickstart_filter.png')
    page.locator('.sv-clip .sv-legend-bar button:text-is("all")').first.click()
    page.locator('.sv-clip .sv-segmented button:text-is("Side by side")').first.click()
    page.wait_for_function("document.querySelector('.sv-clip').viewer.stage.panes.length === 2")
    page.wait_for_timeout(300)
    page.screenshot(path=shots/'quickstart_side_by_side.png')
    page.locator('.sv-clip .sv-segmented button:text-is("Flicker")').first.click()
    page.wait_for_timeout(300)
    assert re.search(r'flickers [\d.]+ %', page.locator('.sv-clip .sv-caption').first.inner_text())
    page.screenshot(path=shots/'quickstart_flicker.png')

    # The film that was written plays in the last viewer, and its file in the browser's own player.
    last = page.locator('.sv-clip').last
    last.scroll_into_view_if_needed()
    last.focus()
    page.keyboard.press('End')
    page.wait_for_function("[...document.querySelectorAll('.sv-clip')].at(-1).dataset.frame === '11'")
    page.screenshot(path=shots/'quickstart_film.png')
    film = tell_kernel(page, 'print((work/"segmented.mp4").resolve())')
    shutil.copy(film, lab[1]/'segmented.mp4')
    player = make_page(f'{lab[0]}/files/segmented.mp4?token={TOKEN}')
    player.wait_for_function("document.querySelector('video')?.readyState >= 2")
    facts = player.evaluate("(() => { const v = document.querySelector('video'); return [v.videoWidth, v.videoHeight, v.duration]; })()")
    assert facts[:2] == [64, 32] and 1 <= facts[2] <= 2
    player.screenshot(path=shots/'quickstart_film_in_player.png')

def frame_of_first(page): return int(page.locator('.sv-clip').first.get_attribute('data-frame'))
