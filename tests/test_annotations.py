"Masks from annotation tools: exports of our own making, in the tools' formats, become a folder that loads; what does not fit is named"
import io, json, zipfile
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from segvid.annotations import _brush_mask, import_cvat, import_label_studio
from segvid.augment import ClipDataLoaders
from segvid.clips import ClipDataset, FrameIndex
from segvid.organize import check_dataset

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding capabilities:DeprecationWarning')
H, W = 12, 20
COLORS = [(0, 0, 0), (10, 200, 30), (250, 50, 83)]

def ids(n):
    mask = np.zeros((H, W), np.uint8)
    mask[6:] = 1; mask[2:5, n:n+4] = 2
    return mask

def film(folder, frames=8, suffix='jpg'):
    Path(folder).mkdir(parents=True)
    for n in range(frames): Image.fromarray(np.array(COLORS, np.uint8)[ids(n)]).save(f'{folder}/frame_{n:06d}.{suffix}')
    return folder

def png(array, palette=None):
    buffer, picture = io.BytesIO(), Image.fromarray(array)
    if palette is not None: picture = picture.convert('P') if picture.mode != 'L' else picture; picture.putpalette(palette)
    picture.save(buffer, 'PNG')
    return buffer.getvalue()

def cvat(path, numbers=(0, 3, 6), kind='color', table='# label:color_rgb:parts:actions\nbackground:0,0,0::\nlawn:10,200,30::\nball:250,50,83::\n', masks=None):
    with zipfile.ZipFile(path, 'w') as z:
        if table: z.writestr('labelmap.txt', table)
        for n in numbers:
            mask = ids(n) if masks is None else masks[n]
            data = dict(color=lambda: png(np.array(COLORS, np.uint8)[mask]), number=lambda: png(mask), palette=lambda: png(mask, [c for color in COLORS for c in color]))[kind]()
            z.writestr(f'SegmentationClass/frame_{n:06d}.png', data); z.writestr(f'SegmentationObject/frame_{n:06d}.png', data)
    return path

def pack(values, rng):
    "Values as Label Studio's run lengths, runs and plain blocks at random"
    widths, bits, i = [3, 4, 9, 16], f'{len(values):032b}{7:05b}2'.replace('2', '') , 0
    bits += ''.join(f'{w-1:04b}' for w in widths)
    while i < len(values):
        run = 1
        while i+run < len(values) and values[i+run] == values[i] and run < 2**16: run += 1
        which = next(k for k, w in enumerate(widths) if run <= 2**w)
        if run > 1 or rng.integers(2): bits += f'1{which:02b}{run-1:0{widths[which]}b}{values[i]:08b}'; i += run
        else: n = min(int(rng.integers(1, 8)), len(values)-i); bits += f'000{n-1:03b}' + ''.join(f'{v:08b}' for v in values[i:i+n]); i += n
    bits += '0'*(-len(bits) % 8)
    return [int(bits[k:k+8], 2) for k in range(0, len(bits), 8)]

def brush(name, pixels): return dict(type='brushlabels', original_width=W, original_height=H, value=dict(format='rle', brushlabels=[name],
                                     rle=pack(np.repeat(pixels.ravel()*255, 4).astype(np.uint8), np.random.default_rng(0))))
def task(n, *results, **more): return dict(id=n, data=dict(image=f'/data/upload/7/ab12cd34-frame_{n:06d}.jpg'), annotations=[dict(result=list(results), **more)])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_run_lengths(h, w, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 0, 0, 255, 127, 128], (h, w, 4)).astype(np.uint8)
    assert (_brush_mask(pack(values.ravel(), rng), h, w) == (values[..., 3] > 127)).all()

@pytest.mark.parametrize('kind', ['color', 'palette', 'number'])
@pytest.mark.parametrize('unpacked', [False, True])
def test_cvat(tmp_path, kind, unpacked):
    export = cvat(tmp_path/'x.zip', kind=kind)
    if unpacked: zipfile.ZipFile(export).extractall(tmp_path/'x'); export = tmp_path/'x'
    report = import_cvat(export, film(tmp_path/'film'), tmp_path/'out')
    assert (report.frames, report.masks, report.empty, report.problems) == (8, 3, 0, [])
    checked = check_dataset(tmp_path/'out', progress=False)
    assert checked.exit_status == 0 and checked.layout.startswith('folder') and (checked.frames, checked.labelled) == (8, 3)
    index = FrameIndex(tmp_path/'out')
    assert index.labels.classes == ('background', 'lawn', 'ball') and index.labels.colors == tuple(COLORS)
    for item, (_, masks) in zip((data := ClipDataset(index, [])).items, data): assert (masks[0].numpy() == ids(item[0].frame)).all()

def test_two_videos_train(tmp_path):
    for v in ('a', 'b'): import_cvat(cvat(tmp_path/f'{v}.zip'), film(tmp_path/v, suffix='png'), tmp_path/'out', name=f'{"train" if v == "a" else "val"}/{v}')
    dls = ClipDataLoaders.from_folder(tmp_path/'out', dilation=[-2, -1], num_workers=0, device='cpu', aug='none')
    x, y = dls.valid.one_batch()
    assert dls.c == 3 and x.shape == (2, 3, 3, H, W) and y[:, -1].max() == 2 and y[0, 0].min() == 255

def test_cvat_faults(tmp_path):
    frames = film(tmp_path/'film')
    masks = {0: np.zeros((H, W), np.uint8), 1: np.zeros((5, 5), np.uint8), 2: ids(2), 44: ids(3)}
    report = import_cvat(cvat(tmp_path/'x.zip', masks, masks=masks), frames, tmp_path/'out')
    assert (report.masks, report.empty) == (1, 1) and ['frame 1: it is (5, 5)' in p or 'frame 44: there is no such frame' in p for p in report.problems] == [True, True]
    assert import_cvat(cvat(tmp_path/'x.zip', masks, masks=masks), frames, tmp_path/'all', skip_empty=False).masks == 2
    with pytest.raises(ValueError, match=r'unknown color \(250, 50, 83\)'):
        import_cvat(cvat(tmp_path/'y.zip', table='background:0,0,0::\nlawn:10,200,30::\n'), frames, tmp_path/'o2')
    with pytest.raises(ValueError, match='this export lawn, background, ball'):
        import_cvat(cvat(tmp_path/'z.zip', table='lawn:10,200,30::\nbackground:0,0,0::\nball:250,50,83::\n'), frames, tmp_path/'out')
    with pytest.raises(ValueError, match='Segmentation mask 1.1'): import_cvat(cvat(tmp_path/'q.zip', table=None), frames, tmp_path/'o3')
    with pytest.raises(FileNotFoundError): import_cvat(tmp_path/'none.zip', frames, tmp_path/'o3')
    with pytest.raises(FileNotFoundError, match='no such video'): import_cvat(tmp_path/'x.zip', tmp_path/'none.mp4', tmp_path/'o4')

def test_label_studio_json(tmp_path):
    tasks = [task(n, brush('lawn', ids(n) == 1), brush('ball', ids(n) == 2)) for n in (1, 4)]
    tasks[1]['annotations'].insert(0, dict(result=[brush('ball', np.ones((H, W), bool))])); tasks.append(task(5)); tasks.append(task(6, brush('ball', ids(6) == 2), was_cancelled=True))
    (tmp_path/'tasks.json').write_text(json.dumps(tasks))
    report = import_label_studio(tmp_path/'tasks.json', film(tmp_path/'film'), tmp_path/'out', labels=['lawn', 'ball'])
    assert (report.masks, report.problems) == (2, [])
    index = FrameIndex(tmp_path/'out')
    assert [r.frame for r in index.labelled] == [1, 4] and index.labels.classes == ('background', 'lawn', 'ball')
    for item, (_, masks) in zip((data := ClipDataset(index, [])).items, data): assert (masks[0].numpy() == ids(item[0].frame)).all()
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.write(tmp_path/'tasks.json', 'project-1.json')
    again = import_label_studio(tmp_path/'x.zip', tmp_path/'film', tmp_path/'ignored', labels=['lawn', 'ball'], background='ignore')
    assert again.masks == 2 and ClipDataset(FrameIndex(tmp_path/'ignored'), [])[0][1].unique().tolist() == [0, 1, 255]

def test_label_studio_faults(tmp_path):
    frames = film(tmp_path/'film')
    def run(tasks, **kwargs): (tmp_path/'t.json').write_text(json.dumps(tasks)); return import_label_studio(tmp_path/'t.json', frames, tmp_path/'out', **kwargs)
    with pytest.raises(ValueError, match="class 'ball' is not among background, lawn"): run([task(1, brush('ball', ids(1) == 2))], labels=['lawn'])
    cut = brush('ball', ids(1) == 2); cut['value']['rle'] = cut['value']['rle'][:-4]
    with pytest.raises(ValueError, match='export is cut'): run([task(1, cut)])
    with pytest.raises(ValueError, match='no picture in its data'): run([dict(id=3, data=dict(text='x'), annotations=[dict(result=[brush('a', ids(1) == 2)])])])
    with pytest.raises(ValueError, match="background='zero'"): run([], background='zero')

def test_label_studio_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z:
        for n in range(3):
            for k, name in ((1, 'lawn'), (2, 'ball')): z.writestr(f'task-{n+8}-annotation-{20-n}-by-2-tag-{name}-0.png', png(((ids(n) == k)*255).astype(np.uint8)))
        z.writestr('task-8-annotation-1-by-2-tag-ball-0.png', png(np.full((H, W), 255, np.uint8)))          # an older annotation
    report = import_label_studio(tmp_path/'x.zip', film(tmp_path/'film', 3), tmp_path/'out', labels=['lawn', 'ball'])
    assert report.masks == 3
    for n, (_, masks) in enumerate(ClipDataset(FrameIndex(tmp_path/'out'), [])): assert (masks[0].numpy() == ids(n)).all()
