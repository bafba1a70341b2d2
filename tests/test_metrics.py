"Loss and scores: golden losses, Cityscapes' own evaluation, the published consistency rule, two processes, faults."
import json, math, os, pickle, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file
from several import Program, finish, text
from segvid.labels import cityscapes_labels
from segvid.metrics import *
from segvid.metrics import MeanIoU, VideoConsistency, ClipLoss

shared = Path(os.environ.get('SEGVID_SHARED', 'nowhere'))
golden, raw = shared/'golden', shared/'data'/'cityscapes_raw'/'labels'
needs_golden = pytest.mark.skipif(not golden.is_dir(), reason='set SEGVID_SHARED to the folder that holds golden/')
needs_data = pytest.mark.skipif(not raw.is_dir(), reason='set SEGVID_SHARED to the folder that holds data/cityscapes_raw')
cases = ['mit_b0_small', 'city_small', 'vspw_small', 'city_b1_paper']

def random_clip(seed=0, B=2, T=3, K=5, size=(16, 24), extra=1, ignored=.2):
    g = torch.Generator().manual_seed(seed)
    pred = torch.randn(B, T + extra, K, 4, 6, generator=g)
    y = torch.randint(0, K, (B, T, *size), generator=g)
    y[torch.rand(y.shape, generator=g) < ignored] = 255
    return pred, y

def plain_mean(logits, y, ignore='valid', **kw):
    "Mean cross-entropy of (..., K, h, w) against (..., H, W), written plainly."
    large = F.interpolate(logits.flatten(0, -4), y.shape[-2:], mode='bilinear', align_corners=False)
    loss = F.cross_entropy(large, y.flatten(0, -3), ignore_index=255, reduction='none', **kw)
    return loss.mean() if ignore == 'published' else loss.sum()/(y != 255).sum()

# ---- ClipLoss
@needs_golden
@pytest.mark.parametrize('name', cases)
def test_golden_loss(name):
    sys.path.insert(0, str(golden))
    try: from fill import labels
    finally: sys.path.remove(str(golden))
    meta, want = json.loads((golden/f'{name}.json').read_text()), load_file(golden/f'{name}.safetensors')
    B, T, _, H, W = meta['image_shape']
    y = labels((B, T, 1, H, W), meta['num_classes'], meta['image_seed'])[:, :, 0]
    form = 'cityscapes' if meta['head'].endswith('city') else 'vspw'
    loss = ClipLoss(form, ignore='published')(want['train_logits'], y)
    assert loss.item() == pytest.approx(want['loss'].item(), rel=1e-5)
    other = ClipLoss('vspw' if form == 'cityscapes' else 'cityscapes', ignore='published')(want['train_logits'], y)
    assert abs(other.item()/want['loss'].item() - 1) > 1e-5          # the form matters

@pytest.mark.parametrize('form', ['vspw', 'cityscapes'])
@pytest.mark.parametrize('ignore', ['valid', 'published'])
@pytest.mark.parametrize('low_memory', [True, False])
def test_loss_and_gradient_equal_the_formula(form, ignore, low_memory):
    pred, y = random_clip()
    T = y.shape[1]
    results = []
    for loss in (ClipLoss(form, ignore, low_memory=low_memory),
                 lambda p, y: .5*(plain_mean(p[:, :T], y, ignore) if form == 'vspw' else plain_mean(p[:, T-1], y[:, -1], ignore)) + plain_mean(p[:, -1], y[:, -1], ignore)):
        p = pred.clone().requires_grad_()
        value = loss(p, y); value.backward()
        results.append((value, p.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])

def test_gradcheck():
    pred, y = random_clip(B=1, T=2, K=3, size=(5, 7))
    torch.autograd.gradcheck(lambda p: ClipLoss(label_smoothing=.1, weight=[1, 2, 3])(p, y), pred.double().requires_grad_())

def test_unlabelled_neighbours_drop_out():
    pred, y = random_clip()
    y[:, :-1] = 255
    torch.testing.assert_close(ClipLoss('vspw')(pred, y), ClipLoss('cityscapes')(pred, y))
    torch.testing.assert_close(ClipLoss()(pred[:, :-1], y), plain_mean(pred[:, -2], y[:, -1]))

@pytest.mark.parametrize('ignore', ['valid', 'published'])
def test_nothing_labelled(ignore):
    pred, y = random_clip(ignored=1.1)
    for p in (pred, pred[:, :-1], pred[:, -1]):
        p = p.clone().requires_grad_()
        loss = ClipLoss(ignore=ignore)(p, y); loss.backward()
        assert loss.item() == 0 and p.grad.abs().max() == 0

def test_every_part_of_the_head_gets_a_gradient_without_labels():
    "Several processes wait for each other's gradients: none may be None."
    alone, temporal = torch.nn.Conv2d(4, 5, 1), torch.nn.Conv2d(4, 5, 1)
    x, y = torch.randn(2, 3, 4, 4, 6), torch.full((2, 3, 16, 24), 255)
    pred = torch.cat([alone(x.flatten(0, 1)).unflatten(0, (2, 3)), temporal(x[:, -1])[:, None]], 1)
    ClipLoss()(pred, y).backward()
    assert all(p.grad is not None for m in (alone, temporal) for p in m.parameters())

def test_weights_and_smoothing_as_in_torch():
    pred, y = random_clip(K=3)
    weight = torch.tensor([.5, 1., 4.])
    large = F.interpolate(pred[:, -1], y.shape[-2:], mode='bilinear', align_corners=False)
    want = F.cross_entropy(large, y[:, -1], weight, ignore_index=255, label_smoothing=.2)
    torch.testing.assert_close(ClipLoss(weight=weight, label_smoothing=.2)(pred[:, -1], y), want)
    assert ClipLoss(weight=[.5, 1, 4]).weight.tolist() == [.5, 1, 4]
    assert 'weight' in ClipLoss(weight=weight).state_dict()          # moves with .to(device)

def test_one_loss_per_clip():
    pred, y = random_clip()
    loss = ClipLoss(); loss.reduction = 'none'
    torch.testing.assert_close(loss(pred, y), torch.stack([ClipLoss()(p[None], t[None]) for p, t in zip(pred, y)]))

@pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_types_and_subclasses(dtype):
    from fastai.torch_core import TensorBase, TensorMask
    pred, y = random_clip()
    want = ClipLoss()(pred, y)
    torch.testing.assert_close(ClipLoss()(pred, y.to(dtype)), want)
    got = ClipLoss()(TensorBase(pred), TensorMask(y.to(dtype)))
    assert type(got) is torch.Tensor
    torch.testing.assert_close(got, want)

def test_low_precision_logits_are_raised():
    pred, y = random_clip()
    assert ClipLoss()(pred.bfloat16(), y).dtype == torch.float32
    torch.testing.assert_close(ClipLoss()(pred.bfloat16(), y), ClipLoss()(pred.bfloat16().float(), y))
    with torch.autocast('cpu', torch.bfloat16): torch.testing.assert_close(ClipLoss()(pred, y), ClipLoss()(pred, y), rtol=1e-2, atol=1e-2)

@pytest.mark.parametrize('pred,y,words', [
    ((2, 7, 5, 4, 6), (2, 3, 16, 24), 'logits of 7 frames for labels of 3'), ((2, 2, 5, 4, 6), (2, 3, 16, 24), 'logits of 2 frames for labels of 3'),
    ((5, 4, 6), (2, 3, 16, 24), 'do not fit'), ((3, 4, 5, 4, 6), (2, 3, 16, 24), 'do not fit'), ((2, 4, 5, 4, 6), (16, 24), 'do not fit')])
def test_shapes_refused(pred, y, words):
    with pytest.raises(ValueError, match=words): ClipLoss()(torch.zeros(pred), torch.zeros(y, dtype=torch.long))

@pytest.mark.parametrize('label', [5, 19, 254, -1])
def test_labels_refused(label):
    pred, y = random_clip(); y[1, 0, 3, 3] = label
    with pytest.raises(ValueError, match=f'label {label} but there are 5 classes.*LabelSet.encode'): ClipLoss()(pred, y)

def test_options_refused():
    with pytest.raises(ValueError, match='vspw'): ClipLoss('kitti')
    with pytest.raises(ValueError, match='published'): ClipLoss(ignore='all')

def test_loss_pickles_and_decodes():
    pred, y = random_clip()
    loss = pickle.loads(pickle.dumps(ClipLoss('cityscapes', 'published', weight=[1., 2, 3, 4, 5])))
    assert (loss.form, loss.ignore, loss.weight.tolist()) == ('cityscapes', 'published', [1, 2, 3, 4, 5])
    for p in (pred, pred[:, -1]):
        assert torch.equal(loss.decodes(p), p.argmax(-3)) and torch.equal(loss.decodes(loss.activation(p)), p.argmax(-3))

# ---- MeanIoU
def cityscapes_scores(pairs, folder):
    "cityscapesscripts' own evaluation of (prediction, truth) masks in raw ids, written to files."
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    args, files = official.args, []
    args.quiet, args.evalInstLevelScore, args.evalPixelAccuracy, args.JSONOutput = True, False, False, False
    for i, pair in enumerate(pairs):
        for kind, mask in zip(('pred', 'gt'), pair): Image.fromarray(mask.astype(np.uint8)).save(folder/f'{kind}{i}.png')
    return official.evaluateImgLists([str(folder/f'pred{i}.png') for i in range(len(pairs))], [str(folder/f'gt{i}.png') for i in range(len(pairs))], args)

def assert_equal_to_cityscapes(pairs, folder):
    want = cityscapes_scores(pairs, folder)
    metric = MeanIoU(19, classes=cityscapes_labels.classes)
    for pair in pairs: metric.update(*(torch.from_numpy(cityscapes_labels.encode(mask))[None] for mask in pair))
    for name, iou in metric.table().IoU.items(): np.testing.assert_allclose(iou, want['classScores'][name], rtol=1e-12, equal_nan=True)
    assert metric.value == pytest.approx(want['averageScoreClasses'], rel=1e-12)
    return want

def test_equal_to_cityscapes_on_random_masks(tmp_path):
    "Raw ids 0 to 33, so unevaluated classes occur in truth and prediction; and a set in which classes are absent."
    r = np.random.default_rng(0)
    assert_equal_to_cityscapes([tuple(r.integers(0, 34, (2, 30, 40))) for _ in range(5)], tmp_path)
    few = [tuple(r.choice([0, 7, 8, 11, 26], (2, 30, 40))) for _ in range(3)]
    want = assert_equal_to_cityscapes(few, tmp_path)
    assert math.isnan(want['classScores']['bus']) and not math.isnan(want['classScores']['car'])

@needs_data
def test_equal_to_cityscapes_on_real_masks(tmp_path):
    "Each mask of real snippets is taken for the prediction of the frame three later."
    masks = [np.array(Image.open(f)) for f in sorted(raw.glob('aachen_000000_*'))[::3][:4] + sorted(raw.glob('aachen_000003_*'))[::3][:4]]
    assert len(masks) == 8
    assert_equal_to_cityscapes([(a, b) for a, b in zip(masks, masks[1:])], tmp_path)

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_confusion_equals_the_loop(K, seed):
    g = torch.Generator().manual_seed(seed)
    pred, truth = torch.randint(-1, K + 2, (2, 5, 7), generator=g), torch.randint(0, K + 1, (2, 5, 7), generator=g)
    truth[truth == K] = 255
    assert torch.equal(confusion_matrix(pred, truth, K), confusion_ref(pred, truth, K))
    metric = MeanIoU(K)
    for p, t in zip(pred, truth): metric.update(p, t)
    ious = []
    for k in range(K):                                               # from sets of pixels, without any matrix
        is_k, called = truth == k, (pred == k) & (truth != 255)
        if (is_k | called).any(): ious.append(((is_k & called).sum()/(is_k | called).sum()).item())
    np.testing.assert_allclose(metric.value, np.mean(ious) if ious else np.nan, rtol=1e-6)

def test_equal_to_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex
    theirs, ours = MulticlassJaccardIndex(6, average='none', ignore_index=255), MeanIoU(6)
    for seed in range(3):
        pred, y = random_clip(seed, K=6)
        masks = torch.randint(0, 6, y.shape, generator=torch.Generator().manual_seed(seed))
        theirs.update(masks, y); ours.update(masks, y)
    torch.testing.assert_close(ours.iou().float(), theirs.compute())

def test_all_shapes_of_predictions():
    pred, y = random_clip()
    for logits, masks, truth in [
            (pred, F.interpolate(pred[:, -1], (16, 24), mode='bilinear').argmax(1), y[:, -1]),                      # training, T+1
            (pred[:, -1], F.interpolate(pred[:, -1], (16, 24), mode='bilinear').argmax(1), y[:, -1]),               # evaluation
            (pred[:, :3], F.interpolate(pred[:, :3].flatten(0, 1), (16, 24), mode='bilinear').argmax(1).unflatten(0, (2, 3)), y)]:   # all frames
        a, b = MeanIoU(5), MeanIoU(5)
        a.update(logits, y); b.update(masks, truth)
        assert torch.equal(a.matrix, b.matrix) and a.matrix.sum() == (truth != 255).sum()
    c = MeanIoU(5); c.update(pred[:, -1], y[:, -1]); assert c.matrix.sum() == (y[:, -1] != 255).sum()
    d = MeanIoU(5); d.update(masks.to(torch.uint8), y.to(torch.uint8)); assert torch.equal(d.matrix, a.matrix)

def test_perfect_and_empty():
    _, y = random_clip()
    metric = MeanIoU(5); assert math.isnan(metric.value)
    metric.update(y, torch.full_like(y, 255)); assert math.isnan(metric.value) and math.isnan(metric.summary()['pixel_accuracy'])
    metric.update(y, y); assert metric.value == 1 and metric.summary() == dict(mIoU=1, mean_accuracy=1, pixel_accuracy=1, frequency_weighted_iou=1)

def test_iou_faults():
    with pytest.raises(ValueError, match='resize the masks'): MeanIoU(5).update(torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 8, 8, dtype=torch.long))
    with pytest.raises(ValueError, match='truth holds 0 to 7, but there are 5 classes'): MeanIoU(5).update(torch.zeros(1, 1, 2, dtype=torch.long), torch.tensor([[[0, 7]]]))
    with pytest.raises(ValueError, match='2 names for 3'): MeanIoU(3, classes='ab')

def test_table_reads_as_text_and_html():
    metric = MeanIoU(2, classes=('road', 'sky')); metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]))
    table = metric.table()
    assert 'road' in str(table) and '<table' in table.to_html()
    assert table.loc['road'].to_dict() == dict(IoU=.5, accuracy=.5, precision=1., pixels=pytest.approx(2/3))
    assert table.loc['sky'].to_dict() == dict(IoU=.5, accuracy=1., precision=.5, pixels=pytest.approx(1/3))

WORKER = """
import os, sys, torch, torch.distributed as dist, torch.nn.functional as F
from types import SimpleNamespace
from fastai.torch_core import to_detach
from segvid.metrics import MeanIoU, VideoConsistency
rank, path = int(sys.argv[1]), sys.argv[2]
g = torch.Generator().manual_seed(0)
truth = torch.randint(0, 3, (6, 5, 12, 12), generator=g).repeat_interleave(2, 1)             # 6 videos of 10 frames
pred = torch.where(torch.rand(truth.shape, generator=g) < .8, truth, torch.randint(0, 4, truth.shape, generator=g))
truth[torch.rand(truth.shape, generator=g) < .1] = 255

def scores(videos, by_learner=False):
    iou, vc = MeanIoU(4), VideoConsistency(2)
    for i in videos:
        batch = SimpleNamespace(pred=F.one_hot(pred[i], 4).movedim(-1, 1).float(), yb=(truth[i],), to_detach=to_detach)
        if by_learner: iou.accumulate(batch)
        else: iou.update(pred[i], truth[i])
        vc.add_video(pred[i], truth[i])
    answers = [(iou.counts().tolist(), iou.value, vc.value, vc.flicker) for _ in range(2)]
    assert answers[0] == answers[1]                                  # asking twice changes nothing
    return answers[0]

alone = scores(range(6))
dist.init_process_group('gloo', init_method=f'file://{path}/store', rank=rank, world_size=2)
for by_learner in (False, True):
    if by_learner: os.environ.update(WORLD_SIZE='2', RANK=str(rank))                         # what fastai looks at
    together = scores(range(rank, 6, 2), by_learner)
    assert together[0] == alone[0] and max(abs(a - b) for a, b in zip(together[1:], alone[1:])) < 1e-12, (by_learner, together, alone)
dist.destroy_process_group()
print('equal', alone[1:])
"""

def test_two_processes_equal_one(tmp_path):
    "Counts added up by ourselves, and masks gathered by fastai: both as if one process had seen all."
    results = finish([Program(text, WORKER, str(rank), str(tmp_path), log=tmp_path/f'log{rank}') for rank in range(2)], 180)
    assert results[0] == results[1] and results[0].startswith('equal')

def test_inside_a_learner():
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    class LastFrame(torch.nn.Module):
        def __init__(self): super().__init__(); self.layer = torch.nn.Conv2d(3, 4, 1)
        def forward(self, x): return self.layer(x[:, -1])
    torch.manual_seed(0)
    clips = [(torch.randn(2, 3, 8, 8), torch.randint(0, 4, (2, 8, 8))) for _ in range(7)]
    dls = DataLoaders(DataLoader(clips, bs=2), DataLoader(clips, bs=3))          # the last batch is smaller
    learn = Learner(dls, LastFrame(), loss_func=ClipLoss(), metrics=[MeanIoU(4)])
    import fastai.callback.progress                                  # gives the Learner no_bar
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    by_hand = MeanIoU(4)
    x, y = map(torch.stack, zip(*clips))
    with torch.no_grad(): by_hand.update(learn.model.eval()(x), y)
    assert learn.recorder.metric_names[3] == 'mIoU' and learn.recorder.values[-1][2] == by_hand.value
    preds, targets, decoded = learn.get_preds(with_decoded=True)
    assert decoded.shape == (7, 8, 8) and torch.allclose(preds.sum(1), torch.ones(7, 8, 8))
    preds, targets, losses = learn.get_preds(with_loss=True)
    want = torch.stack([ClipLoss()(learn.model(x[None]), y[None]) for x, y in clips])
    torch.testing.assert_close(losses, want)

# ---- VideoConsistency
def random_video(seed=0, T=20, size=(6, 8), K=3, keep=.93, ignored=.03):
    "Classes that mostly persist from frame to frame, and an ignored pixel here and there."
    g = torch.Generator().manual_seed(seed)
    def classes():
        frames = [torch.randint(0, K, size, generator=g)]
        for _ in range(T - 1): frames.append(torch.where(torch.rand(size, generator=g) < keep, frames[-1], torch.randint(0, K, size, generator=g)))
        return torch.stack(frames)
    pred, truth = classes(), classes()
    truth[torch.rand(truth.shape, generator=g) < ignored] = 255
    return pred, truth

def published_rule(pred, truth, n):
    "The evaluation script of VSPW in other words: windows begin at every frame that has n frames after it; all pixels take part."
    shares = []
    for start in range(len(truth) - n):
        first_t, first_p = truth[start], pred[start]
        still = np.logical_and.reduce([(truth[start+i] == first_t).numpy() for i in range(n)])
        calm = np.logical_and.reduce([(pred[start+i] == first_p).numpy() for i in range(n)])
        with np.errstate(invalid='ignore'): shares.append((still & calm).sum()/still.sum())
    return shares

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 20), st.sampled_from([0., .03, .5, 1.1]))
def test_runs_equal_windows(seed, n, T, ignored):
    pred, truth = random_video(seed, T, ignored=ignored)
    vc = VideoConsistency(n); vc.add_video(pred, truth)
    want = video_consistency_ref(pred, truth, n)
    np.testing.assert_allclose(vc.videos[0], want, rtol=1e-6)
    np.testing.assert_allclose(vc.value, np.nanmean(want) if np.isfinite(want).any() else np.nan, rtol=1e-6)

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.lists(st.integers(1, 20), min_size=1, max_size=3), st.sampled_from([0., .1, 1.1]))
def test_published_rule(seed, n, lengths, ignored):
    vc, want = VideoConsistency(n, published=True), []
    for i, T in enumerate(lengths):
        pred, truth = random_video(seed + i, T, ignored=ignored)
        vc.add_video(pred, truth)
        if T > n: want += published_rule(pred, truth, n)
    np.testing.assert_allclose(vc.value, np.nanmean(want) if np.isfinite(want).any() else np.nan, rtol=1e-6)
    assert vc.skipped == sum(T <= n for T in lengths)

def test_the_two_rules_differ_where_they_should():
    truth = torch.zeros(9, 1, 4, dtype=torch.long); truth[:, :, 0] = 255
    pred = torch.zeros_like(truth); pred[8, 0, 3] = 1                # the last frame flickers; the ignored pixel is calm
    ours, theirs = VideoConsistency(8), VideoConsistency(8, published=True)
    for vc in (ours, theirs): vc.add_video(pred, truth)
    assert ours.videos[0] == [1., 2/3] and ours.value == pytest.approx(5/6)
    assert theirs.value == 1.                                        # the window with the flicker is dropped
    pred[:] = torch.arange(9)[:, None, None]                         # everything flickers, so does the ignored pixel
    pred[:, :, 0] = 0                                                # ... unless it is calm
    ours, theirs = VideoConsistency(8), VideoConsistency(8, published=True)
    for vc in (ours, theirs): vc.add_video(pred, truth)
    assert ours.value == 0 and theirs.value == 1/4

def test_streaming_equals_whole_and_pieces():
    pred, truth = random_video()
    whole, stream, pieces = VideoConsistency(4), VideoConsistency(4), VideoConsistency(4)
    whole.add_video(pred, truth)
    for p, t in zip(pred, truth): stream.update(p, t)
    pieces.update(pred[:7], truth[:7]); pieces.update(pred[7:], truth[7:])
    assert whole.videos == stream.videos == pieces.videos and whole.flicker == stream.flicker == pieces.flicker

def test_videos_are_kept_apart():
    a, b = random_video(1), random_video(2)
    vc = VideoConsistency(4); vc.add_video(*a, name='a'); vc.add_video(*b, name='b')
    np.testing.assert_allclose(vc.videos['a'], video_consistency_ref(*a, 4)); np.testing.assert_allclose(vc.videos['b'], video_consistency_ref(*b, 4))
    with pytest.raises(ValueError, match="'a' was scored before"): vc.start('a')
    vc.reset(); assert math.isnan(vc.value) and math.isnan(vc.flicker)

def test_no_more_than_two_frames_are_held():
    vc = VideoConsistency(16)
    pred, truth = random_video(T=40)
    sizes = set()
    for p, t in zip(pred, truth):
        vc.update(p, t)
        sizes.add(sum(v.numel() for v in vars(vc).values() if isinstance(v, torch.Tensor)))
    assert sizes == {4*truth[0].numel()}

def test_short_videos_and_means():
    long, short = random_video(0, 20, ignored=0), random_video(1, 9, ignored=0)
    for average, shortest in (('windows', None), ('videos', None), ('windows', 10)):
        vc = VideoConsistency(8, average=average, shortest=shortest)
        vc.add_video(*long); vc.add_video(*short); vc.add_video(short[0][:7], short[1][:7])
        a, b = video_consistency_ref(*long), video_consistency_ref(*short)
        want = np.mean(a) if shortest else np.mean(a + b) if average == 'windows' else (np.mean(a) + np.mean(b))/2
        assert vc.value == pytest.approx(want, rel=1e-6) and vc.skipped == (2 if shortest else 1)

def test_logits_and_bytes():
    pred, truth = random_video()
    logits = F.one_hot(pred, 3).movedim(-1, 1).float()
    a, b = VideoConsistency(4), VideoConsistency(4)
    a.add_video(logits, truth.to(torch.uint8)); b.add_video(pred.to(torch.uint8), truth)
    assert a.videos == b.videos

def test_flicker_is_the_other_side_of_vc2():
    pred, truth = random_video(ignored=0, keep=1.)                    # truth never changes: all windows weigh the same
    pred, _ = random_video(3)
    vc = VideoConsistency(2); vc.add_video(pred, truth)
    assert vc.flicker == pytest.approx(1 - vc.value)
    assert flicker_map(pred, truth).mean().item() == pytest.approx(vc.flicker, rel=1e-5)

def test_consistency_faults():
    vc = VideoConsistency(); pred, truth = random_video()
    with pytest.raises(ValueError, match='one video at a time'): vc.update(pred[:3], truth)
    vc.update(pred, truth)
    with pytest.raises(ValueError, match=r'call start\(\)'): vc.update(pred[:, :3], truth[:, :3])
    with pytest.raises(ValueError, match='one frame cannot change'): VideoConsistency(1)
    with pytest.raises(ValueError, match="'windows' or 'videos'"): VideoConsistency(average='all')

@needs_data
def test_real_video_is_calmer_than_its_noise():
    files = sorted(raw.glob('aachen_000000_*'))[:10]
    truth = torch.stack([torch.from_numpy(cityscapes_labels.encode(np.array(Image.open(f))[::8, ::8])) for f in files])
    late = truth.roll(1, 0)                                          # every mask one frame late
    scores = []
    for pred in (truth, late, torch.where(torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < .1, 0, truth)):
        vc = VideoConsistency(8); vc.add_video(pred, truth); scores.append(vc.value)
        np.testing.assert_allclose(vc.videos[0], video_consistency_ref(pred, truth, 8), rtol=1e-6)
    assert scores[0] == 1 > scores[1] > scores[2]
