"Fast loading changes nothing: memories, lent views, byte order and colors by matrix give what the plain way gives, in any process"
import errno, os, pickle
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF
import segvid.clips as clips_room
from segvid.augment import (ClipDataLoaders, ClipItems, ColorClip, NormalizeClip, PadClip, RandomScaleCrop, ResizeClip, color_matrices, loader_bench,
                            photometric_distortion, published_augmentation)
from segvid.clips import ClipDataset, FaultLog, FrameIndex, SharedCache, memory_size
from segvid.toycity import make_toycity

pytestmark = pytest.mark.filterwarnings('ignore:The image decoding and encoding capabilities:DeprecationWarning')
DILATION = [-3, -2, -1]

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('city'), sequences=3, frames=6, val=1, size=(48, 96))

@pytest.fixture(scope='module')
def index(city): return FrameIndex(city, 'train')

def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b))
def loaders(city, **options):
    return ClipDataLoaders.from_cityscapes(city, **{**dict(dilation=DILATION, size=(32, 64), bs=3, num_workers=0, seed=0, device='cpu'), **options})


# ---- memories
@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_shared_memory_fills_once_for_all_processes(index, context):
    plain, data = ClipDataset(index, DILATION), ClipDataset(index, DILATION, cache='10MB', unreadable='replace')
    for epoch in range(2 if context == 'fork' else 1):
        for i, clip in enumerate(DataLoader(data, batch_size=None, num_workers=2 if context == 'fork' else 1, multiprocessing_context=context)): assert same(clip, plain[i])
    assert len(data.cache) == 24 and (data.cache.hits, data.cache.misses) == (0, 0) and data.faults.found() == {}
    assert same(data[7], plain[7]) and (data.cache.hits, data.cache.misses) == (8, 0)

@settings(max_examples=15, deadline=None)
@given(st.integers(1, 24*48*96*4), st.lists(st.integers(0, 11), max_size=12))
def test_shared_memory_is_bounded_and_changes_nothing(index, room, order):
    plain, data = ClipDataset(index, DILATION), ClipDataset(index, DILATION, cache=f'{room}B')
    for i in order: assert same(data[i], plain[i])
    assert sum(C*48*96 for _, _, C in data.cache.places.values()) <= room and os.path.getsize(data.cache.file) <= room+24

def test_shared_memory_leaves_nothing_behind_and_survives_pickling(index):
    data = ClipDataset(index, DILATION, cache='5MB')
    first = data[3]
    copy = pickle.loads(pickle.dumps(data))
    assert copy.cache.file == data.cache.file and len(copy.cache) == len(data.cache) > 0 and same(copy[3], first)
    file = data.cache.file
    del copy
    assert os.path.exists(file)
    del data
    assert not os.path.exists(file)

def test_no_room_on_the_disk_is_said_at_once(index, monkeypatch):
    def full(*args): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'posix_fallocate', full, raising=False)
    before = set(Path(os.environ.get('TMPDIR', '/tmp')).glob('segvid-cache-*'))
    with pytest.raises(OSError, match=r'no room for a cache of 0\.0 GB.*No space left on device.*ask for less'): ClipDataset(index, DILATION, cache='5MB')
    assert set(Path(os.environ.get('TMPDIR', '/tmp')).glob('segvid-cache-*')) == before

def test_in_place_changes_do_not_reach_the_shared_memory(city, index):
    def blacken(frames, masks): frames.zero_(); masks.fill_(255); return frames, masks
    data = ClipDataset(index, DILATION, cache='5MB', transform=blacken)
    data[3]; data.transform = None
    assert same(data[3], ClipDataset(index, DILATION)[3])
    dls = loaders(city, cache='5MB', size=(48, 96), aug=blacken)
    list(dls.train); list(dls.valid)
    for ds in (dls.train_ds.clips, dls.valid_ds.clips): assert all(same(ds[i], ClipDataset(ds.index, DILATION)[i]) for i in range(len(ds)))

def test_other_sizes_are_not_kept(tmp_path):
    for n, size in enumerate([(8, 6), (8, 6), (10, 6)]):
        Image.new('RGB', size, (n, 0, 0)).save(tmp_path/f'a_0_{n}_leftImg8bit.png'); Image.new('L', size, n).save(tmp_path/f'a_0_{n}_gtFine_labelTrainIds.png')
    data = ClipDataset(FrameIndex(tmp_path), [], cache='1MB')
    for _ in range(2): assert [tuple(data[i][0].shape[-2:]) for i in range(3)] == [(6, 8), (6, 8), (6, 10)]
    assert len(data.cache) == 4

@pytest.mark.parametrize('bad', ['much', '2 GBit', '', '-1GB'])
def test_amounts_of_memory(index, bad):
    assert memory_size('1.5GB') == 3*2**29 and memory_size('64 mb') == 2**26
    with pytest.raises(ValueError, match='expected an amount of memory'): memory_size(bad)
    with pytest.raises(ValueError, match="cache=-3"): ClipDataset(index, DILATION, cache=-3)

@pytest.mark.parametrize('cache', [0, 7, '200kB', '10MB'])
@pytest.mark.parametrize('workers', [0, 2])
def test_batches_do_not_depend_on_memory_or_workers(city, cache, workers):
    reference, dls = loaders(city), loaders(city, cache=cache, num_workers=workers)
    for _ in range(2):
        for (x, y), (x2, y2) in zip(reference.train, dls.train): assert torch.equal(x, x2) and torch.equal(y, y2)


# ---- lent views
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(10, 80), st.integers(10, 120))
def test_views_and_copies_agree(index, seed, h, w):
    data = ClipDataset(index, DILATION, cache='10MB')
    for transform in (published_augmentation((h, w)), RandomScaleCrop((h, w)), ResizeClip((h, w))):
        frames, masks = data[5]
        torch.manual_seed(seed); expected = transform(tv_tensors.Video(frames), tv_tensors.Mask(masks))
        torch.manual_seed(seed); out = ClipItems(data, transform)[5]
        assert same(expected, out) and all(type(x) is torch.Tensor and x.is_contiguous() for x in out)

@settings(max_examples=20, deadline=None)
@given(st.integers(4, 70), st.integers(4, 70), st.integers(0, 99))
def test_byte_order_changes_no_pixel(h, w, seed):
    frames = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ResizeClip((h, w))(tv_tensors.Video(frames)), TF.resize(frames, [h, w], antialias=True))


# ---- colors
def test_colors_by_matrix_resemble_those_by_hue_and_saturation():
    "Brightness, contrast and gray exactly; hue turns red towards green or blue as the color circle does"
    red = torch.tensor([200., 40, 40])
    change = lambda light=0., contrast=1., saturation=1., hue=0.: (lambda m, o: m[0] @ red + o)(*color_matrices(*(torch.tensor([float(v)]) for v in (light, contrast, saturation, hue))))
    assert torch.allclose(change(light=20), red+20, atol=1e-2) and torch.allclose(change(contrast=0.5), red/2, atol=1e-2)
    assert torch.allclose(change(saturation=0.5), TF.adjust_saturation(red.view(3, 1, 1)/255, 0.5).flatten()*255, atol=1.5)
    for degrees in (-30, 30):
        turned, true = change(hue=-np.radians(degrees)), TF.adjust_hue(red.view(3, 1, 1)/255, degrees/360).flatten()*255
        assert turned.argsort().tolist() == true.argsort().tolist() or (turned-true).abs().max() < 45

def test_color_ranges_and_probability():
    drawn = ColorClip(per_frame=True).draw(4000)
    m, o = drawn[..., :3], drawn[:, 0, 3]
    assert o.abs().max() <= 48.1 and 0.45 < (o != 0).float().mean() < 0.55
    gray = m @ torch.ones(3)                                                        # rows sum to the contrast
    assert torch.allclose(gray[:, 0], gray[:, 2], atol=1e-4) and 0.49 < gray.min() and gray.max() < 1.51

@pytest.mark.parametrize('per_frame', [False, True])
def test_color_draws_per_clip_or_frame(per_frame):
    x = torch.randint(0, 256, (1, 1, 3, 8, 8), dtype=torch.uint8).expand(5, 4, 3, 8, 8).contiguous()
    color = ColorClip(p=1., per_frame=per_frame)
    out, = color((x, torch.stack([color.draw(4) for _ in range(5)])))
    assert out.dtype == torch.float32 and 0 <= out.min() and out.max() <= 255
    assert all(torch.equal(out[:, 0], out[:, t]) for t in range(4)) != per_frame
    assert not torch.equal(out[0], out[1])

def test_filled_areas_stay_zero_for_the_network(city):
    dls = loaders(city, size=(64, 160), bs=4)
    found = 0
    for x, y in dls.train:
        for clip, mask in zip(x, y):
            if (mask[-1, -1] == 255).all(): found += 1; assert clip[:, :, -1].abs().max() < 0.02
    assert found

def test_where_colors_change(city):
    names = lambda dl: [type(step).__name__ for step in dl.after_batch.fs]
    batch, worker, none = (loaders(city, color=c) for c in ('batch', 'worker', 'none'))
    assert names(batch.train) == ['ColorClip', 'NormalizeClip'] and names(worker.train) == names(none.train) == names(batch.valid) == ['NormalizeClip']
    assert torch.equal(batch.train.one_batch()[1], none.train.one_batch()[1]) and not torch.equal(batch.train.one_batch()[0], none.train.one_batch()[0])
    assert names(loaders(city, aug='none').train) == ['NormalizeClip']
    assert not torch.equal(loaders(city, color_per_frame=True).one_batch()[0], batch.one_batch()[0])
    assert torch.equal(pickle.loads(pickle.dumps(loaders(city))).one_batch()[0], loaders(city).one_batch()[0])
    test = batch.test_dl([ClipDataset(FrameIndex(city, 'val'), DILATION)[0][0]])
    assert torch.equal(test.one_batch()[0], batch.test_dl([ClipDataset(FrameIndex(city, 'val'), DILATION)[0][0]]).one_batch()[0])

def test_epochs_differ_and_repeat(city):
    one, two = loaders(city), loaders(city)
    epochs = [[x for x, _ in dl] for dl in (one.train, one.train, two.train, two.train)]
    assert same(epochs[0], epochs[2]) and same(epochs[1], epochs[3]) and not torch.equal(epochs[0][0], epochs[1][0])


def test_colors_belong_to_the_clip_not_to_the_batch(city):
    "Other batch sizes, other company, an epoch that goes on in the middle: the same pixels"
    whole, parts, rest = loaders(city, bs=4).train, loaders(city, bs=2).train, loaders(city, bs=2).train
    x = torch.cat([x for x, _ in whole])
    assert torch.equal(x, torch.cat([x for x, _ in parts]))
    order = type(rest).get_idxs
    rest.get_idxs = lambda: order(rest)[6:]
    assert torch.equal(x[6:], torch.cat([x for x, _ in rest]))


# ---- bench
def test_bench_reports_every_kind(city):
    result = loader_bench(city, (32, 64), bs=2, num_workers=0, clips=4, turns=2, dilation=DILATION, cache='10MB')
    kinds = set(result['clips_per_second'])
    assert len(kinds) == 6 and set(result['ratio']) == kinds-{'plain'} and result['frame'] == [48, 96] and result['clips'] == 4
    assert all(0 < v['low'] <= v['median'] <= v['high'] for v in [*result['clips_per_second'].values(), *result['ratio'].values()])

def test_fault_log_counts_are_shared():
    log = FaultLog(['a', 'b'])
    torch.multiprocessing.get_context('fork').Process(target=log.add, args=('b',)).start()
    import time
    for _ in range(100):
        if log.found(): break
        time.sleep(0.05)
    assert log.found() == {'b': 1}
