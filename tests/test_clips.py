"Clips: the right frames, real labels or 255 and nothing else, and nothing across gaps, recordings or splits"
import pickle, threading
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch.utils.data import DataLoader
import segvid.clips as clips
from segvid.clips import ClipDataset, FrameIndex, FrameRecord, check_disjoint, read_frame, read_mask
from segvid.labels import camvid_labels, cityscapes_labels
from segvid.organize import choose_frames, organize_frames

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding capabilities:DeprecationWarning')      # known; Pillow stands by
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def value(sequence, frame): return (17*sequence+frame) % 251
def train_id(sequence, frame): return (3*sequence+frame) % 19

def draw(folder, recordings, padded=True, suffix='png', kind='labelTrainIds'):
    "Frames and labels of one value each, so that every picture tells who it is; recordings: sequence -> (frame numbers, labelled ones)"
    pad = '06d' if padded else 'd'
    Path(folder).mkdir(parents=True)
    for sequence, (numbers, labelled) in recordings.items():
        for n in numbers:
            stem = f'{folder}/st_louis_{sequence:{pad}}_{n:{pad}}'
            Image.new('RGB', (6, 4), (value(sequence, n),)*3).save(f'{stem}_leftImg8bit.{suffix}')
            train = train_id(sequence, n)
            if n in labelled: Image.new('L', (6, 4), train if kind == 'labelTrainIds' else cityscapes_labels.ids[train]).save(f'{stem}_gtFine_{kind}.png')
    return folder


two = {0: (range(12), (4, 11)), 1: (range(12), range(12)), 2: ([0, 1, 2, 3, 7, 8, 9], (1, 8))}

@pytest.fixture(scope='module')
def index(tmp_path_factory): return FrameIndex(draw(tmp_path_factory.mktemp('clips')/'data', two))


@pytest.mark.parametrize('missing', ['mirror', 'repeat', 'drop'])
def test_every_clip_holds_what_it_should(index, missing):
    data = ClipDataset(index, [-3, -1], missing=missing)
    assert len(data) == 2+12+2
    for item, (frames, masks) in zip(data.items, (data[i] for i in range(len(data)))):
        s, current = int(item[-1].sequence), item[-1].frame
        snippet = next(x for x in ([*range(12)], [0, 1, 2, 3], [7, 8, 9]) if (len(x) == 12) == (s != 2) and current in x)
        wanted = choose_frames(snippet, current, [-3, -1], missing)
        assert [r.frame for r in item] == wanted and {int(r.sequence) for r in item} == {s}
        assert frames[:, 0, 0, 0].tolist() == [value(s, n) for n in wanted]
        assert masks[:, 0, 0].tolist() == [train_id(s, n) if n in two[s][1] else 255 for n in wanted]
        assert (masks == masks[:, :1, :1]).all() and frames.dtype == masks.dtype == torch.uint8
        if missing != 'drop': assert len(frames) == 3


def test_padding_suffix_order_and_numbering_do_not_matter(index, tmp_path):
    for i, kwargs in enumerate([dict(padded=False), dict(kind='labelIds'), dict(padded=False, suffix='jpg', kind='labelIds')]):
        other = FrameIndex(draw(tmp_path/str(i), two, **kwargs))
        assert [r.name for r in other.records] == [r.name for r in index.records] and [len(s) for s in other.snippets] == [12, 12, 4, 3]
        a, b = ClipDataset(index, [-3, -1]), ClipDataset(other, [-3, -1])
        for k in range(len(a)):
            assert (a[k][1] == b[k][1]).all() and (a[k][0].int()-b[k][0].int()).abs().max() <= 2
    backwards = FrameIndex(records=index.records[::-1])
    assert backwards.records == index.records and backwards.snippets == index.snippets


records = st.dictionaries(st.tuples(st.sampled_from(['a', 'a_1', 'b']), st.sampled_from(['000000', '000001']), st.integers(0, 30)), st.booleans(), min_size=1)

@quick
@given(records, st.lists(st.integers(-9, 4).filter(bool), unique=True, max_size=4), st.sampled_from(['mirror', 'repeat', 'drop']), st.integers(1, 4))
def test_laws_of_any_index(frames, dilation, missing, step):
    index = FrameIndex(records=[FrameRecord(*key, f'{key}.png', 'label.png' if labelled else None) for key, labelled in frames.items()], step=step)
    assert [r for s in index.snippets for r in s] == index.records and len(index) == len(frames)
    for snippet in index.snippets:
        assert len({r.recording for r in snippet}) == 1
        assert all(0 < b.frame-a.frame <= step for a, b in zip(snippet, snippet[1:]))
    if not index.labelled:
        with pytest.raises(ValueError, match='no labelled frame'): ClipDataset(index, dilation, missing)
        return
    data = ClipDataset(index, dilation, missing)
    assert sorted(item[-1] for item in data.items) == sorted(index.labelled)                # one clip for each labelled frame, which comes last
    home = {r: i for i, s in enumerate(index.snippets) for r in s}
    assert all(len({home[r] for r in item}) == 1 for item in data.items)
    if missing != 'drop': assert {len(item) for item in data.items} == {len(dilation)+1}
    if len({r.recording for r in index.labelled}) > 1:
        train, val = index.divide(0.5)
        check_disjoint(train, val)
        assert train.labelled and val.labelled
        assert sorted(train.records+val.records) == index.records and train.step == val.step == step


def test_training_and_testing_see_the_same_clip(tmp_path):
    "The same frames in the train and in the val folder give the same clips, near the edge as well"
    for split in ('train', 'val'): draw(tmp_path/f'{split}_data'/'leftImg8bit'/split, {0: (range(8), (1,))})
    a, b = (ClipDataset(FrameIndex(tmp_path/f'{split}_data', split), [-3, -2])[0] for split in ('train', 'val'))
    assert (a[0] == b[0]).all() and (a[1] == b[1]).all()
    assert a[0][:, 0, 0, 0].tolist() == [4, 3, 1]                                           # mirrored


def test_both_sides_are_refused(tmp_path):
    draw(tmp_path/'x'/'train', {0: (range(4), (1,))}); draw(tmp_path/'x'/'val', {0: (range(4, 8), (5,))})
    with pytest.raises(ValueError, match='st_louis_000000: this recording is in train and in val'): FrameIndex(tmp_path/'x')
    with pytest.raises(ValueError, match='in train and in val'): FrameIndex(tmp_path/'x', 'train')


@quick
@given(st.integers(0, 12), st.lists(st.integers(0, 15), max_size=30))
def test_cache_changes_nothing(index, size, order):
    plain, cached = ClipDataset(index, [-3, -1]), ClipDataset(index, [-3, -1], cache=size)
    for i in order: assert all((a == b).all() for a, b in zip(plain[i], cached[i]))
    assert len(cached.cache.pictures) <= size and cached.cache.hits+cached.cache.misses == 6*len(order)


def test_workers_read_the_same(index):
    data = ClipDataset(index, [-3, -1], cache=8)
    data[0]
    copy = pickle.loads(pickle.dumps(data))
    assert len(copy.cache.pictures) == 0 and copy.cache.size == 8 and copy.items == data.items and copy.dilation == data.dilation
    here = list(DataLoader(data, batch_size=4)); there = list(DataLoader(data, batch_size=4, num_workers=2))
    assert len(here) == len(there) == 4
    for a, b in zip(here, there): assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


def test_transform_in_place_does_not_reach_the_cache(index):
    def blacken(frames, masks): frames.zero_(); masks.fill_(255); return frames, masks
    data = ClipDataset(index, [-1], transform=blacken, cache=99)
    assert data[3][0].max() == 0
    data.transform = None
    assert (data[3][0] == ClipDataset(index, [-1])[3][0]).all() and (data[3][1] == ClipDataset(index, [-1])[3][1]).all()


def test_faults_name_the_file(tmp_path):
    index = FrameIndex(draw(tmp_path/'x', {0: (range(4), (1, 3))}))
    data, path = ClipDataset(index, [-1]), Path(index.records[0].path)
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(OSError, match=path.name): data[0]
    path.write_bytes(b'')
    with pytest.raises(OSError, match=path.name): data[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name): data[0]
    Image.new('RGB', (9, 9)).save(path)
    with pytest.raises(ValueError, match=path.name): data[0]
    path.write_bytes(whole); data[0]
    label = Path(index.records[1].label)
    Image.new('L', (6, 4), 26).save(label)
    with pytest.raises(ValueError, match=f'{label.name}.*unknown train id 26'): data[0]
    Image.new('L', (6, 5), 1).save(label)
    with pytest.raises(ValueError, match=label.name): data[0]
    label.unlink()
    with pytest.raises(FileNotFoundError, match=label.name): data[0]


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'I;16', 'CMYK', '1'])
@pytest.mark.parametrize('decoder', ['torchvision', 'pillow'])
def test_odd_pictures_become_rgb(tmp_path, monkeypatch, mode, decoder):
    if decoder == 'pillow': monkeypatch.setattr(clips, '_torchvision_decoder', lambda: None)
    path = tmp_path/('x.jpg' if mode == 'CMYK' else 'x.png')
    (Image.fromarray(np.full((4, 6), 40000, np.uint16)) if mode == 'I;16' else Image.new('RGB', (6, 4), (200, 10, 90)).convert(mode)).save(path)
    frame = read_frame(path)
    assert frame.shape == (3, 4, 6) and frame.dtype == torch.uint8
    if mode == 'I;16': assert (frame == 40000//256).all()
    if mode in ('RGBA',): assert frame[:, 0, 0].tolist() == [200, 10, 90]


def test_decoders_agree(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (31, 45, 3), np.uint8)).save(tmp_path/'x.png'); Image.fromarray(rng.integers(0, 19, (31, 45), np.uint8)).save(tmp_path/'y.png')
    record = FrameRecord('a', '0', 0, str(tmp_path/'x.png'), str(tmp_path/'y.png'))
    first = read_frame(record.path), read_mask(record, cityscapes_labels, (31, 45))
    monkeypatch.setattr(clips, '_torchvision_decoder', lambda: None)
    second = read_frame(record.path), read_mask(record, cityscapes_labels, (31, 45))
    assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(first, second))


def test_other_layouts_through_records(tmp_path):
    "CamVid as a plain folder: pictures and labels in two folders, raw ids with 11 for void"
    (tmp_path/'val').mkdir(); (tmp_path/'valannot').mkdir()
    records = []
    for n in range(7959, 7969):
        Image.new('RGB', (8, 6), (n-7959,)*3).save(tmp_path/f'val/0016E5_{n:05d}.jpg'); Image.new('L', (8, 6), n-7957).save(tmp_path/f'valannot/0016E5_{n:05d}.png')
        records.append(FrameRecord('camvid', '0016E5', n, str(tmp_path/f'val/0016E5_{n:05d}.jpg'), str(tmp_path/f'valannot/0016E5_{n:05d}.png'), 'val', True))
    data = ClipDataset(FrameIndex(records=records, split='val', labels=camvid_labels), [-2, -1])
    assert data[9][1][:, 0, 0].tolist() == [9, 10, 255] and len(data.index.snippets) == 1


def test_stream_gives_every_frame_once_and_in_order(index):
    seen = [(record, frame[0, 0, 0].item(), mask[0, 0].item()) for snippet in index.stream() for record, frame, mask in snippet]
    assert [record for record, *_ in seen] == index.records
    assert [v for _, v, _ in seen] == [value(int(r.sequence), r.frame) for r in index.records]
    assert [m for *_, m in seen] == [train_id(int(r.sequence), r.frame) if r.label else 255 for r in index.records]
    assert [len(snippet) for snippet in index.stream()] == [len(s) for s in index.snippets]


def test_real_video(shared, tmp_path):
    organize_frames(shared/'data/cityscapes_raw', tmp_path/'out', mode='symlink', verify=False, progress=False)
    train, val = (FrameIndex(tmp_path/'out', split) for split in ('train', 'val'))
    check_disjoint(train, val)
    assert (len(train), len(val), len(train.snippets), train.step) == (120, 30, 4, 1)
    data = ClipDataset(val)
    frames, masks = data[19]
    assert frames.shape == (4, 3, 1024, 2048) and masks.shape == (4, 1024, 2048) and [r.frame for r in data.items[19]] == [10, 13, 16, 19]
    assert int(masks.max()) < 256 and not ((masks > 18) & (masks != 255)).any() and not (masks == 255).all(-1).all(-1).any()
