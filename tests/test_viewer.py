"Viewers: what is sent comes back exactly, numbers are those of slow and plain definitions, broken input is refused."
import base64, io, json, os, re, shutil, subprocess
from itertools import product
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
import segvid
from segvid.labels import LabelSet, camvid_labels, cityscapes_labels, vspw_labels
from segvid.viewer import (ClipViewer, DatasetBrowser, PartList, PictureWidget, WindowExplorer, as_frames, as_masks, class_shares, colorblind_palette,
                           encode_mask, encode_picture, frame_consistency, frame_ious, has_live_page, join_script, pack_clip, poster_file, runs_of, shrink,
                           video_frames, window_cuts, worst_frames)

STATIC = Path(segvid.__file__).parent/'static'
few = settings(max_examples=40, deadline=None)
masks_of = lambda high, shape=(3, 5, 7): hnp.arrays(np.uint8, shape, elements=st.integers(0, high))

def read(file): return np.asarray(Image.open(io.BytesIO(file)))

def small_clip(T=4, H=12, W=20, K=5, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (T, H, W, 3), dtype=np.uint8), random.integers(0, K, (T, H, W), dtype=np.uint8)

# --- encoding -------------------------------------------------------------------------------------------------------------

@few
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_masks_come_back_exactly(mask):
    for colors in (None, cityscapes_labels.colors, [(1, 2, 3)]*256):
        file = encode_mask(mask, colors)
        assert (read(file) == mask).all()
        assert file[24] == 8                                                # bits per pixel: what the page can read

@few
@given(st.lists(st.binary(max_size=30), max_size=12))
def test_parts_come_back(files):
    parts = PartList()
    half = len(files)//2
    assert (parts.add(files[:half]), parts.add(files[half:])) == (0, half)
    assert [parts.blob[start:start+length] for start, length in parts.spans] == files

def test_message_holds_everything():
    frames, masks = small_clip()
    truth, sure = masks[::-1].copy(), np.linspace(0, 1, masks.size).reshape(masks.shape)
    meta, blob = pack_clip(frames, {'prediction': masks, 'truth': truth}, {'prediction': sure}, camvid_labels, kind='png')
    part = lambda n: read(blob[meta['parts'][n][0]:][:meta['parts'][n][1]])
    for t in range(4):
        assert (part(meta['frames']+t) == frames[t]).all()
        assert (part(meta['layers'][0]['masks']+t) == masks[t]).all() and (part(meta['layers'][1]['masks']+t) == truth[t]).all()
        assert abs(part(meta['layers'][0]['confidence']+t)/100 - sure[t]).max() <= 0.0051
    assert sum(length for _, length in meta['parts']) == len(blob)
    json.dumps(meta, allow_nan=False)

@pytest.mark.parametrize('size', [(1, 1), (3, 1), (1, 5), (17, 13), (512, 31)])
def test_odd_sizes(size):
    H, W = size
    frames, masks = small_clip(2, H, W)
    viewer = ClipViewer(frames, masks, truth=masks, labels=camvid_labels, max_width=8)
    assert viewer._meta['width'] == min(W, 8) and viewer.frames.shape[1] >= 1
    assert viewer.filmstrip().width == 960

def test_shrinking_keeps_class_numbers():
    masks = np.random.default_rng(0).integers(0, 256, (2, 33, 77), dtype=np.uint8)
    small = shrink(masks, 20)
    assert small.shape == (2, 9, 20) and set(np.unique(small)) <= set(np.unique(masks))
    assert shrink(masks, 77) is masks

# --- numbers --------------------------------------------------------------------------------------------------------------

def slow_iou(mask, true, k, ignore):
    pairs = [(p, q) for p, q in zip(mask.ravel(), true.ravel()) if q != ignore]
    either = sum(p == k or q == k for p, q in pairs)
    return np.nan if either == 0 else sum(p == k and q == k for p, q in pairs)/either

@few
@given(masks_of(4), masks_of(4))
def test_iou_is_intersection_over_union(masks, truth):
    masks, truth = (np.where(m == 4, 255, m).astype(np.uint8) for m in (masks, truth))
    found = frame_ious(masks, truth, 4)
    expected = [[slow_iou(m, t, k, 255) for k in range(4)] for m, t in zip(masks, truth)]
    np.testing.assert_allclose(found, expected, equal_nan=True)

@few
@given(masks_of(3), masks_of(4), st.booleans())
def test_consistency_counts_pixels_that_stay(masks, truth, known):
    truth = np.where(truth == 4, 255, truth).astype(np.uint8) if known else None
    found = frame_consistency(masks, truth)
    assert np.isnan(found[0])
    for t in range(1, len(masks)):
        pixels = [(a, b, p, q) for a, b, p, q in zip(masks[t-1].ravel(), masks[t].ravel(), *((truth[t-1].ravel(), truth[t].ravel()) if known else (masks[t].ravel()*0+255,)*2))]
        labelled = [x for x in pixels if 255 not in x[2:]]
        asked = [x for x in labelled if x[2] == x[3]] if labelled else pixels
        expected = np.mean([a == b for a, b, *_ in asked]) if asked else np.nan
        np.testing.assert_allclose(found[t], expected, equal_nan=True)

@few
@given(masks_of(5))
def test_shares_add_up(masks):
    shares = class_shares(masks, 4)
    np.testing.assert_allclose(shares.sum(1), [(m < 4).mean() for m in masks])
    np.testing.assert_allclose(shares[:, 2], [(m == 2).mean() for m in masks])

def test_numbers_of_a_viewer_are_those_of_numpy():
    frames, masks = small_clip()
    truth = np.roll(masks, 2, axis=2)
    layer = ClipViewer(frames, masks, truth=truth, labels=camvid_labels)._meta['layers'][0]
    ious = frame_ious(masks, truth, 11)
    np.testing.assert_allclose(layer['miou'], np.nanmean(ious, 1), atol=1e-4)
    assert layer['worst'][0] == int(np.argmin(layer['miou'])) and sorted(layer['worst'], key=lambda t: layer['miou'][t]) == layer['worst']

def test_no_label_in_most_frames():
    "As in Cityscapes: one frame of a snippet has labels"
    frames, masks = small_clip()
    truth = np.full_like(masks, 255); truth[2] = masks[2]
    meta = ClipViewer(frames, masks, truth=truth, labels=camvid_labels)._meta
    layer = meta['layers'][0]
    assert [v is None for v in layer['miou']] == [True, True, False, True] and layer['worst'] == [2]
    json.dumps(meta, allow_nan=False)

def test_nothing_labelled_at_all():
    frames, masks = small_clip()
    meta = ClipViewer(frames, np.full_like(masks, 255), truth=np.full_like(masks, 255))._meta
    assert meta['present'] == [] and meta['layers'][0]['worst'] == []

@few
@given(st.lists(st.integers(0, 300), unique=True).map(sorted))
def test_runs_unroll_to_the_same_numbers(numbers):
    assert [n for start, stop, step in runs_of(numbers) for n in range(start, stop+1, step)] == numbers

@few
@given(st.integers(1, 6), st.integers(1, 9), st.data())
def test_windows_tile_the_grid(count, window, data):
    shift = data.draw(st.integers(0, window-1))
    cuts = window_cuts(count*window, window, shift)
    assert [n for start, length, _ in cuts for n in range(start, start+length)] == list(range(count*window))
    assert {kind for *_, kind in cuts} <= {0, 1, 2} and len(cuts) == count + (shift > 0)

def test_worst_frames_ignores_gaps():
    assert worst_frames([np.nan, 0.3, 0.1, np.nan, 0.2], 10) == [2, 4, 1]

def test_palette_has_56_pairs():
    colors, hatches = colorblind_palette(124)
    assert len(set(zip(colors[:56], hatches[:56]))) == 56 and max(hatches) == 6

# --- input ----------------------------------------------------------------------------------------------------------------

def test_forms_of_a_clip(tmp_path):
    import torch
    frames, masks = small_clip()
    Image.fromarray(frames[0]).save(tmp_path/'a.png')
    assert (as_frames([tmp_path/'a.png']) == frames[:1]).all()
    assert (as_frames(torch.from_numpy(frames).permute(0, 3, 1, 2).half()/255) - frames.astype(int) == 0).mean() > 0.9     # half precision rounds
    assert as_frames(frames.astype(np.int64)).dtype == np.uint8
    assert (as_masks(torch.from_numpy(masks).int()) == masks).all()

@pytest.mark.parametrize('make, words', [
    (lambda f, m: as_frames(f[0]), 'single picture'),
    (lambda f, m: as_frames(f[:0]), 'got (0, 12, 20, 3)'),
    (lambda f, m: as_frames(f/127 - 1), 'undo a normalisation'),
    (lambda f, m: as_frames(f.astype(float)), 'divide bytes by 255'),
    (lambda f, m: as_masks(m.astype(np.float32)), 'argmax'),
    (lambda f, m: as_masks(m.astype(int)*200), 'in 0..255'),
    (lambda f, m: ClipViewer(f, m[:2]), 'expected masks (4, 12, 20), got (2, 12, 20)'),
    (lambda f, m: ClipViewer(f, m+40), 'unknown train id'),
    (lambda f, m: ClipViewer(f, compare={'truth': m}), 'choose another'),
    (lambda f, m: ClipViewer(f, m, confidence=m[:1]/9), 'expected confidence'),
    (lambda f, m: ClipViewer(f, m).show_only('unicorn'), 'unicorn'),
    (lambda f, m: WindowExplorer(f, window=4, shift=4), '0 <= shift < window'),
])
def test_mistakes_are_named(make, words):
    frames, masks = small_clip()
    with pytest.raises(ValueError, match=re.escape(words)): make(frames, masks)

def test_many_classes():
    frames, masks = small_clip(K=124)
    viewer = ClipViewer(frames, masks, labels=vspw_labels)
    assert len(viewer._meta['classes']) == 124
    assert len(ClipViewer(frames, masks*2, labels=None).labels) == masks.max()*2+1
    assert viewer.filmstrip().width == 960

def test_broken_video(tmp_path):
    pytest.importorskip('av', reason='pip install av')
    import av
    (tmp_path/'a.mp4').write_bytes(b'no film at all'*50)
    with pytest.raises(av.error.FFmpegError): video_frames(tmp_path/'a.mp4')
    with pytest.raises((FileNotFoundError, av.error.FFmpegError)): video_frames(tmp_path/'missing.mp4')

# --- pages ----------------------------------------------------------------------------------------------------------------

def test_titles_cannot_break_the_page(tmp_path):
    frames, masks = small_clip()
    nasty = '</script><!--<script>alert(1)</script>"&<b>'
    labels = LabelSet('x', [f'{nasty}{k}' for k in range(5)], [(k, k, k) for k in range(5)])
    page = ClipViewer(frames, masks, labels=labels, title=nasty).to_html()
    assert page.count('<script') == page.count('</script') == 2
    state = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert state['_meta']['title'] == nasty and state['_meta']['classes'][3] == nasty+'3'
    assert '<b>' not in re.search(r'<title>(.*?)</title>', page, re.S)[1]

def test_page_holds_state_and_bytes():
    frames, masks = small_clip()
    viewer = ClipViewer(frames, masks, labels=camvid_labels, mode='flicker', opacity=0.2)
    state = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', viewer.to_html(), re.S)[1])
    assert base64.b64decode(state['_blob']) == viewer._blob
    assert (state['mode'], state['opacity'], state['layer']) == ('flicker', 0.2, 'prediction')
    assert not any(key.startswith('_') for key in set(state) - {'_meta', '_blob'})

def test_batch_runs_open_no_channel(monkeypatch):
    "Without a live page nothing is registered that nbconvert could save; with one, the bundle offers the widget"
    frames, masks = small_clip()
    monkeypatch.setenv('SEGVID_WIDGETS', '0')
    viewer = ClipViewer(frames, masks, labels=camvid_labels)
    assert not has_live_page() and viewer.comm is None and sorted(viewer._repr_mimebundle_()) == ['image/png', 'text/plain']
    monkeypatch.setenv('SEGVID_WIDGETS', '1')
    assert 'application/vnd.jupyter.widget-view+json' in ClipViewer(frames, masks, labels=camvid_labels)._repr_mimebundle_()
    monkeypatch.delenv('SEGVID_WIDGETS'); monkeypatch.setenv('SERVER_SOFTWARE', 'voila/0.5')
    assert has_live_page()

def test_executed_notebook_holds_a_picture_and_no_widget(tmp_path):
    "What nbconvert, papermill and our own tests save"
    import nbformat
    nbclient = pytest.importorskip('nbclient')
    code = ('import numpy as np\nfrom segvid.viewer import ClipViewer\nfrom segvid.labels import camvid_labels\n'
            'ClipViewer(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8), labels=camvid_labels)')
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(nb, timeout=120, kernel_name='python3', resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    assert [sorted(o.data) for o in nb.cells[0].outputs] == [['image/png', 'text/plain']]
    assert not nb.metadata.get('widgets', {}).get('application/vnd.jupyter.widget-state+json', {}).get('state')

def test_posters_can_be_told_apart():
    picture = Image.fromarray(small_clip()[0][0])
    heads = {base64.b64encode(poster_file(picture, f'{n:032x}'))[:150] for n in range(50)}
    assert len(heads) == 50

def test_gif_and_filmstrip_files(tmp_path):
    frames, masks = small_clip()
    viewer = ClipViewer(frames, masks, truth=masks, labels=camvid_labels)
    assert viewer.to_gif(tmp_path/'a.gif', ['prediction', 'truth'], width=40) == tmp_path/'a.gif'
    assert Image.open(tmp_path/'a.gif').size == (80, 24) and Image.open(tmp_path/'a.gif').n_frames == 4
    viewer.filmstrip(2, tmp_path/'a.png')
    assert Image.open(tmp_path/'a.png').width == 960

def test_overlay_shows_what_is_chosen():
    frames, masks = small_clip(K=11)
    viewer = ClipViewer(frames, masks, labels=camvid_labels, opacity=1.)
    assert (viewer.overlay(1, 'prediction') == np.array(camvid_labels.colors)[masks[1]]).all()
    viewer.palette = 'colorblind'
    assert (viewer.overlay(1, 'prediction') == np.array(colorblind_palette(11)[0])[masks[1]]).all()
    viewer.show_only('sky')
    assert (viewer.overlay(1, 'prediction')[masks[1] != 0] == frames[1][masks[1] != 0]).all()

def test_from_learner():
    "A real Learner on real loaders"
    from segvid.augment import ClipDataLoaders
    from segvid.learner import clip_learner
    from segvid.toycity import make_toycity
    dls = ClipDataLoaders.from_cityscapes(make_toycity(sequences=4, val=1), dilation=[-2], size=(64, 128), bs=2, num_workers=0)
    learn = clip_learner(dls, 'mit_b0', window=4, shift=2, depth=2)
    viewer = ClipViewer.from_learner(learn, most=3)
    assert list(viewer.layers) == ['prediction', 'truth'] and viewer._meta['layers'][0]['confidence'] is not None
    assert ClipViewer.from_dataset(dls.valid_ds, 3)._meta['count'] == 2
    browser = DatasetBrowser(dls.valid_ds)
    assert browser.dilation == [-2] and len(browser._meta['sequences']) == 1

# --- the JavaScript, where Node.js is installed ------------------------------------------------------------------------------

node = pytest.mark.skipif(shutil.which('node') is None, reason='Node.js is not installed')

def run_js(code, *data):
    "Run a module beside the viewer's scripts; `data` arrives as an array, the answer is what it prints as JSON"
    script = f"import {{ readFileSync }} from 'node:fs'; const data = JSON.parse(readFileSync(0, 'utf8'));\n{code}"
    for name in set(re.findall(r"'\./(\w+\.js)'", script)): script = script.replace(f"'./{name}'", f"'{(STATIC/name).as_uri()}'")
    done = subprocess.run(['node', '--input-type=module', '-e', script], input=json.dumps(data), capture_output=True, text=True, timeout=60,
                          env=os.environ | dict(NODE_NO_WARNINGS='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)

@node
def test_page_reads_every_png_filter():
    "Our PNG reader against PIL, on files that use each of the five row filters"
    import struct, zlib
    random = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(23), np.arange(17)).astype(np.uint8)
    files = [encode_mask(random.integers(0, 256, (23, 17), dtype=np.uint8)), encode_mask(smooth, cityscapes_labels.colors)]
    def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind+body))
    for kind in range(5):                                                   # any bytes are a valid row under any filter; PIL says what they mean
        rows = b''.join(bytes([kind]) + random.integers(0, 256, 17, dtype=np.uint8).tobytes() for _ in range(23))
        files.append(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 17, 23, 8, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows)[:40]) +
                     chunk(b'IDAT', zlib.compress(rows)[40:]) + chunk(b'IEND', b''))
    code = """import { decodeIndexPng } from './media.js';
        console.log(JSON.stringify(await Promise.all(data[0].map(async (text) => [...await decodeIndexPng(new Uint8Array(Buffer.from(text, 'base64')))]))));"""
    for file, found in zip(files, run_js(code, [base64.b64encode(f).decode() for f in files])):
        assert (np.array(found, np.uint8).reshape(23, 17) == read(file)).all()

@node
def test_page_chooses_the_frames_that_python_chooses():
    from segvid.organize import choose_frames
    snippet = [0, 1, 2, 5, 6, 7, 8, 11, 12, 20]
    cases = [(n, list(d), how) for n, d, how in product(snippet, ((-9, -6, -3), (-1,), (-4, 4), (-30, -2), (3, 9)), ('mirror', 'repeat', 'drop', 'error'))]
    found = run_js("""globalThis.document = {};
        const { clipFrames } = await import('./dataset_browser.js');
        console.log(JSON.stringify(data[1].map(([n, d, how]) => clipFrames(data[0], n, d, how))));""", snippet, cases)
    for (n, d, how), clip in zip(cases, found):
        try: expected = choose_frames(snippet, n, d, how)
        except ValueError: expected = [n]; assert clip['how'] == 'error'
        assert clip['frames'] == expected, (n, d, how)

@node
def test_page_counts_differences_as_numpy_does():
    random = np.random.default_rng(1)
    a, b, t = (random.integers(0, 3, 500).tolist() for _ in range(3))
    t[::7] = [255]*len(t[::7])
    code = """import { differenceCases, flickerCases } from './paint.js';
        const [a, b, t] = data, tell = (cases) => a.map((_, p) => cases.texts[cases.test(p)] ?? 'same');
        console.log(JSON.stringify([tell(differenceCases(a, b, t, 255, ['A', 'B'])), tell(differenceCases(a, t, t, 255, ['A', 'truth'])), tell(flickerCases(a, b, null, null, 255))]));"""
    three, two, changed = run_js(code, a, b, t)
    a, b, t = map(np.array, (a, b, t))
    tests = {'only A right': (a == t) & (b != t), 'only B right': (a != t) & (b == t), 'both wrong': (a != t) & (b != t) & (t != 255), 'not labelled': t == 255}
    for text, expected in tests.items(): assert ([x == text for x in three] == (expected & ((t != 255) | (text == 'not labelled')))).all(), text
    assert ([x == 'different' for x in two] == ((a != t) & (t != 255))).all()
    assert ([x == 'changed' for x in changed] == (a != b)).all()

@node
def test_page_draws_hidden_and_hatched_classes():
    code = """import { classAlphas, fillTable, lineTable } from './paint.js';
        const alphas = classAlphas(3, { opacity: 0.5, hidden: [1], pinned: -1 }), colors = [[10, 20, 30], [1, 1, 1], [250, 250, 250]];
        const plain = fillTable(colors, null, alphas), hatched = fillTable(colors, [0, 1, 1], alphas), bytes = (v) => [v & 255, (v >> 8) & 255, (v >> 16) & 255, v >>> 24];
        const seen = (table, c) => [...new Set(Array.from({ length: 64 }, (_, p) => bytes(table[(p << 8) | c]).join()))];
        console.log(JSON.stringify([0, 1, 2, 255].map((c) => [seen(plain, c), seen(hatched, c)])));"""
    first, hidden, third, ignored = run_js(code)
    assert first == [['10,20,30,128']]*2                                    # pattern 0 is plain
    assert hidden == [['0,0,0,0']]*2 == ignored
    assert third[0] == ['250,250,250,128'] and len(third[1]) == 2           # color and dark lines

@node
def test_cache_forgets_the_oldest():
    code = """import { Cache } from './media.js';
        const made = [], cache = new Cache(30), get = (k) => cache.get(k, 10, async () => { made.push(k); return k; });
        for (const k of ['a', 'b', 'c', 'a', 'd', 'a', 'b']) await get(k);
        await cache.get('x', 10, async () => { throw new Error('broken'); }).catch(() => {});
        await new Promise((r) => setTimeout(r, 5));
        console.log(JSON.stringify([made, cache.used, [...cache.entries.keys()]]));"""
    made, used, kept = run_js(code)
    assert made == ['a', 'b', 'c', 'd', 'b']                                # 'b' went when 'd' came, since 'a' had been used again
    assert 'x' not in kept and used == 10*len(kept)

def test_scripts_join_without_seams():
    for name, render in (('clip_viewer', 'renderClip'), ('dataset_browser', 'renderBrowser'), ('window_explorer', 'renderWindows')):
        script = join_script(name, render)
        assert not re.search(r'^import ', script, re.M) and re.findall(r'^export .*', script, re.M) == [f'export default {{ render: {render} }};']
        names = re.findall(r'^(?:async )?(?:function|class|const|let) (\w+)', script, re.M)
        assert len(names) == len(set(names)) and render in names and 'mountPage' in names

def test_nothing_comes_from_the_network():
    for file in STATIC.iterdir():
        addresses = re.findall(r'https?://[^\s\'"`)]+', file.read_text())
        assert set(addresses) <= {'http://www.w3.org/2000/svg'}, (file.name, addresses)

@few
@given(st.lists(st.floats(0, 1) | st.just(float('nan')), max_size=40), st.integers(1, 8))
def test_worst_frames_keep_their_distance(scores, apart):
    found = worst_frames(np.array(scores), 5, apart)
    assert all(abs(a-b) >= apart for i, a in enumerate(found) for b in found[:i])
    assert [scores[t] for t in found] == sorted(scores[t] for t in found)
    rest = [t for t in range(len(scores)) if not np.isnan(scores[t]) and all(abs(t-f) >= apart for f in found)]
    assert len(found) == 5 or not rest                                       # none was left out
