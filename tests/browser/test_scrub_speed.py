"""How fast does the viewer scrub 300 frames of 1024 × 512 in a running JupyterLab? Prints the figures and keeps them as JSON.

A figure depends on the machine and on what else it does, so this runs only when asked for: SEGVID_MEASURE=1 pytest -s tests/browser/test_scrub_speed.py"""
import json, os, time
import pytest
from test_viewer_in_lab import open_lab

CLIP = '''
import numpy as np
from PIL import Image
from segvid.toycity import toycity_frame
T, H, W = 300, 512, 1024
grain = np.random.default_rng(0).normal(0, 5, (H, 2*W, 3))
large = lambda picture: np.asarray(Image.fromarray(picture).resize((W, H), Image.NEAREST))
street = [toycity_frame(t//30, t % 30, size=(256, 512), noise=0, flicker=0, dropout=0) for t in range(T)]
frames = np.stack([np.clip(large(s.image) + grain[:, 3*t:3*t+W], 0, 255).astype(np.uint8) for t, s in enumerate(street)])
truth = np.stack([large(s.mask) for s in street])
masks = np.roll(truth, 3, axis=2)
'''
VIEWER = '''
from segvid.viewer import ClipViewer
viewer = ClipViewer(frames, masks, truth=truth, title='300 frames')
print(f'{len(viewer._blob)/1e6:.1f} MB')
viewer
'''

@pytest.mark.skipif(not os.environ.get('SEGVID_MEASURE'), reason='a measurement: set SEGVID_MEASURE=1')
def test_scrub_speed(lab, make_page, shots):
    page = open_lab(lab, make_page, 'speed.ipynb', CLIP, VIEWER)
    page.set_default_timeout(300_000)
    page.wait_for_selector('.sv-clip[data-frame="0"]')
    page.locator('.sv-clip').scroll_into_view_if_needed()
    size = page.locator('.jp-OutputArea-output pre').first.inner_text().strip()
    found = dict(clip=f'300 frames of 1024 × 512, {size}', canvas=page.evaluate("(({ width, height }) => [width, height])(document.querySelector('.sv-canvas'))"))
    def measure(what): return page.evaluate(f"document.querySelector('.sv-clip').viewer.measure({what})")
    found['one after another, cold'] = measure("'forward'")
    found['one after another'] = measure("'forward'")
    found['jumping about'] = measure("'random'")
    found['not waiting for the screen'] = measure("'forward', false")
    page.evaluate("document.querySelector('.sv-clip').viewer.set('mode', 'side')")
    found['side by side'] = measure("'forward'")
    page.evaluate("(() => { const v = document.querySelector('.sv-clip').viewer; v.set('mode', 'overlay'); v.set('style', 'both'); v.set('hatch', true); })()")
    found['areas, outlines and hatching'] = measure("'forward'")
    page.evaluate("(() => { const v = document.querySelector('.sv-clip').viewer; v.set('style', 'fill'); v.set('hatch', false); })()")
    # With the mouse: drag the thumb through the clip and count what was drawn.
    box = page.locator('.sv-scrub').bounding_box()
    y, x = box['y'] + box['height']/2, lambda t: box['x'] + 8 + t/299*(box['width']-16)
    page.evaluate("document.querySelector('.sv-clip').viewer.seek(0)")
    page.mouse.move(x(0), y); page.mouse.down()
    drawn, begin = page.evaluate("document.querySelector('.sv-clip').viewer.painted"), time.time()
    for t in range(0, 300, 1): page.mouse.move(x(t), y)
    page.mouse.up()
    seconds = time.time()-begin
    found['dragging the thumb'] = dict(fps=(page.evaluate("document.querySelector('.sv-clip').viewer.painted")-drawn)/seconds, seconds=seconds)
    page.screenshot(path=shots/'lab_300_frames.png')
    for name, value in found.items(): print(f'{name}: {value["fps"]:.0f} frames/s' + (f', median {value["median_ms"]:.0f} ms, 95 % below {value["p95_ms"]:.0f} ms' if 'p95_ms' in value else '') if isinstance(value, dict) else f'{name}: {value}')
    (shots/'scrub_speed.json').write_text(json.dumps(found, indent=1))
    assert found['one after another']['frames'] == 300
