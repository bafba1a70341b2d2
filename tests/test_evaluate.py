"Examination: memory does not grow, windows and views keep their own memory, only labelled frames count."
import gc, tracemalloc
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from segvid.clips import FrameIndex
from segvid.evaluate import Predictor, Scores, VideoScorer, cut_windows, evaluate_model, join_windows, prepare_frames, window_starts
from segvid.clips import FrameRecord
from segvid.labels import LabelSet, camvid_labels
from segvid.metrics import BoundaryIoU, MeanIoU, boundary, boundary_ref
from segvid.segmenter import video_segmenter
from segvid.toycity import make_toycity

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('data')/'city', sequences=3, frames=10, size=(32, 64), val=1)

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return video_segmenter('mit_b0', 19, embed_dim=16, depth=2, window=4, shift=2).eval()

@pytest.mark.parametrize('length', [1, 5, 31, 32, 33, 64, 100])
@pytest.mark.parametrize('stride', [1, 7, 32])
def test_windows_cover_every_pixel(length, stride):
    starts = window_starts(length, 32, stride)
    covered = {p for s in starts for p in range(s, min(s + 32, length))}
    assert covered == set(range(length)) and starts == sorted(set(starts)) and all(s + 32 <= max(length, 32) for s in starts)

def test_join_is_the_mean_where_windows_overlap():
    logits = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    joined = join_windows(logits, [(0, 0), (0, 2)], (4, 6))
    assert joined[0, 0, 0].tolist() == [0, 0, .5, .5, 1, 1]

@pytest.mark.parametrize('options', [dict(), dict(window=(32, 32), stride=(16, 16)), dict(scales=(.5, 1.), flip=True), dict(window=(32, 32), scales=(1., 1.5), flip=True)])
def test_law_of_streaming_in_every_view(model, city, options):
    frames = torch.stack([f for _, f, _ in next(iter(FrameIndex(city, 'val').stream()))][:4])
    stream, whole = Predictor(model, **options), Predictor(model, **options)
    with torch.no_grad():
        for frame in frames: out = stream(frame[None], streamed=True)
        assert (out - whole(frames)).abs().max() < 1e-3

def test_each_window_has_its_own_memory(model):
    "Motion in the left window changes nothing in the right one"
    torch.manual_seed(1)
    right = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    outs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        p = Predictor(model, window=(32, 32), stride=(32, 32))
        with torch.no_grad():
            for _ in range(3): out = p(torch.cat([torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8), right], 3), streamed=True)
        outs.append(out)
    assert torch.equal(outs[0][..., 40:], outs[1][..., 40:]) and not torch.equal(outs[0][..., :24], outs[1][..., :24])

def test_only_labelled_frames_are_scored(model, city):
    index = FrameIndex(city, 'val')
    records = [r if r.frame % 3 == 0 else r._replace(label=None) for r in index.records]
    sparse = FrameIndex(records=records, split='val', labels=index.labels)
    scores = evaluate_model(model, sparse, progress=False)
    assert scores.frames == sum(r.label is not None for r in records) and scores.seen == len(records)
    assert np.isnan(scores.VC8) and np.isnan(scores.flicker) and f'{scores.frames} labelled frames scored of {scores.seen} seen' in str(scores)
    full, want = Predictor(model), MeanIoU(19)
    with torch.no_grad():
        for snippet in sparse.stream():
            for record, frame, truth in snippet:
                mask = full(frame[None], streamed=True).argmax(0)
                if record.label: want.update(mask[None], truth[None])
    assert scores.mIoU == pytest.approx(want.value, abs=1e-9)

def test_clips_begin_with_an_empty_memory(model, city):
    "A stream is reset where a snippet begins: the order of the videos does not matter"
    index = FrameIndex(city, 'train')
    alone = [evaluate_model(model, index.subset(s), progress=False) for s in index.sequences]
    both = evaluate_model(model, index, progress=False)
    assert both.frames == sum(s.frames for s in alone) and both.pixel_accuracy == pytest.approx(np.mean([s.pixel_accuracy for s in alone]), abs=1e-6)

def test_memory_does_not_grow_with_the_frames():
    "A video three times as long through the scorer: the same peak, but for a few bytes a frame (the shares of the windows)"
    labels, truth = LabelSet('two', ['a', 'b'], [(0, 0, 0), (9, 9, 9)]), torch.zeros(8, 16, dtype=torch.uint8)
    truth[:, 8:] = 1
    def peak(frames):
        scorer = VideoScorer(labels); tracemalloc.start()
        for t in range(frames): scorer.update(FrameRecord('v', '1', t, 'x', 'y'), truth.roll(t % 3, 1), truth)
        top = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
        return top
    peak(20)
    assert peak(240) - peak(80) < 300*160

@pytest.mark.parametrize('options', [dict(), dict(streamed=False, dilation=[-2, -1]), dict(window=(32, 32), scales=(1., 1.5), flip=True)])
def test_no_tensor_stays_of_a_frame(model, city, options):
    "The whole examination: as many numbers in memory after 29 frames as after 12, both in the middle of a video"
    index, counts = FrameIndex(city), []
    def watched(items, total):
        for i, item in enumerate(items):
            yield item
            if i in (11, 28): gc.collect(); counts.append(sum(t.untyped_storage().nbytes() for t in gc.get_objects() if torch.is_tensor(t)))
    evaluate_model(model, index, progress=watched, **options)
    assert len(counts) == 2 and abs(counts[1] - counts[0]) < 1000

def test_labels_that_ignore_everything_score_nothing(model, city, tmp_path):
    "Cityscapes' test split: its label files say which frames are asked for, and no more"
    index, void = FrameIndex(city, 'val'), tmp_path/'void.png'
    Image.fromarray(np.full((32, 64), 255, np.uint8)).save(void)
    asked = FrameIndex(records=[r._replace(label=str(void) if r.frame in (3, 7) else None) for r in index.records], labels=index.labels)
    scores = evaluate_model(model, asked, out=tmp_path/'masks', progress=False)
    assert (scores.frames, scores.seen) == (0, len(index)) and np.isnan(scores.mIoU) and '0 labelled frames scored' in str(scores)
    assert sorted(p.name for p in (tmp_path/'masks').iterdir()) == [f'{Path(r.path).stem}.png' for r in index.records if r.frame in (3, 7)]

def test_masks_of_frames_without_any_label(model, city, tmp_path):
    index = FrameIndex(city, 'val')
    bare = FrameIndex(records=[r._replace(label=None) for r in index.records], labels=index.labels)
    evaluate_model(model, bare, out=tmp_path/'bare', progress=False); evaluate_model(model, index, out=tmp_path/'known', progress=False)
    for a, b in zip(*(sorted((tmp_path/name).iterdir()) for name in ('bare', 'known')), strict=True): assert a.name == b.name and a.read_bytes() == b.read_bytes()
    with pytest.raises(ValueError, match='nothing to score'): evaluate_model(model, bare, streamed=False, out=tmp_path/'clips', progress=False)

@pytest.mark.parametrize('what,say', [('frame', r'big.png is \(40, 80\), the first frame of its snippet \(32, 64\)'), ('mask', r'mask.png is \(1, 40, 80\) but its frame is \(32, 64\)'),
                                      ('value', r'value.png: cityscapes: unknown train id 200'), ('cut', 'cannot decode .*cut.png'), ('gone', 'picture is gone: .*gone.png')])
def test_a_file_that_does_not_fit_is_named(model, city, tmp_path, what, say):
    index = FrameIndex(city, 'val')
    path, size = index.records[3].path, (40, 80) if what in ('frame', 'mask') else (32, 64)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path/'big.png')
    Image.fromarray(np.full(size, 200 if what == 'value' else 0, np.uint8)).save(tmp_path/(f'{what}.png' if what in ('mask', 'value') else 'mask.png'))
    (tmp_path/'cut.png').write_bytes(Path(path).read_bytes()[:500])
    new = dict(frame=dict(path=tmp_path/'big.png', label=tmp_path/'mask.png'), mask=dict(label=tmp_path/'mask.png'), value=dict(label=tmp_path/'value.png'), cut=dict(path=tmp_path/'cut.png'), gone=dict(path=tmp_path/'gone.png'))[what]
    records = [r._replace(**{k: str(v) for k, v in new.items()}) if r.frame == 3 else r for r in index.records]
    with pytest.raises((ValueError, OSError), match=say): evaluate_model(model, FrameIndex(records=records, labels=index.labels), progress=False)

@pytest.mark.parametrize('wrong', [dict(window=32), dict(window=(32,)), dict(window=(32, 0)), dict(size=(0, 64)), dict(window=(32, 32), stride=(0, 32)), dict(scales=1), dict(scales=()), dict(scales=(0, 1))])
def test_views_refused(model, wrong):
    with pytest.raises(ValueError, match='expected (height and width in pixels|one or more numbers)'): Predictor(model, **wrong)

def test_classes_must_fit(model, city):
    with pytest.raises(ValueError, match='the model has 19 classes, the labels of camvid 11'): evaluate_model(model, FrameIndex(records=FrameIndex(city, 'val').records, labels=camvid_labels))
    unlabelled = FrameIndex(records=[r._replace(label=None) for r in FrameIndex(city, 'val').records])
    with pytest.raises(ValueError, match='no frame has a label'): evaluate_model(model, unlabelled)

@pytest.mark.parametrize('distance', [1, 3, 50])
def test_boundary_is_the_plain_loop(distance):
    g = torch.Generator().manual_seed(distance)
    mask = torch.nn.functional.interpolate(torch.randint(0, 4, (1, 1, 5, 6), generator=g).float(), (17, 23))[0, 0].long()
    mask[torch.rand(17, 23, generator=g) < .1] = 255
    assert torch.equal(boundary(mask, distance), boundary_ref(mask, distance))

def test_boundary_iou_of_all_pixels_is_iou():
    "With a distance larger than the picture every pixel is near an outline"
    g = torch.Generator().manual_seed(0)
    truth, pred = (torch.randint(0, 3, (12, 14), generator=g) for _ in range(2))
    truth[0, :5] = 255
    near, whole = BoundaryIoU(3, width=.99), MeanIoU(3)
    near.update(pred, truth); whole.update(pred[None], truth[None])
    assert torch.allclose(near.iou(), whole.iou())
