"Clips for training: one draw for the whole clip, the same seed the same batches, fastai from end to end"
import pickle
import numpy as np
import pytest
import torch
from fastai.callback.schedule import lr_find
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner, load_learner
from hypothesis import given, settings, strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2
from segvid.augment import ClipDataLoaders, ClipDL, ClipItems, NormalizeClip, RandomScaleCrop, ResizeClip, load_clip, published_augmentation
from segvid.clips import ClipDataset, FrameIndex
from segvid.labels import camvid_labels, cityscapes_labels
from segvid.toycity import make_toycity, toycity_frame

DILATION = [-3, -2, -1]

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('city'), sequences=3, frames=6, val=1, size=(48, 96))

def loaders(city, **options):
    return ClipDataLoaders.from_cityscapes(city, **{**dict(dilation=DILATION, size=(32, 64), bs=3, num_workers=0, seed=0, device='cpu'), **options})

def still(T=4, seed=0):
    "A clip of `T` times the same frame"
    toy = toycity_frame(sequence=seed, frame=3, size=(48, 96))
    frame, mask = torch.tensor(toy.image).permute(2, 0, 1), torch.tensor(toy.mask)
    return tv_tensors.Video(frame.expand(T, -1, -1, -1).clone()), tv_tensors.Mask(mask.expand(T, -1, -1).clone())

def block_clip(H, W, seed=0, tile=12):
    "Frames that are 10 times their mask, of random tiles"
    tiles = torch.randint(0, 19, (-(-H//tile), -(-W//tile)), generator=torch.Generator().manual_seed(seed))
    mask = tiles.repeat_interleave(tile, 0).repeat_interleave(tile, 1)[:H, :W].byte()
    return tv_tensors.Video((mask*10).expand(3, 3, H, W).clone()), tv_tensors.Mask(mask.expand(3, H, W).clone())


# ---- transforms

@pytest.mark.parametrize('seed', range(20))
def test_equal_frames_stay_equal(seed):
    torch.manual_seed(seed)
    frames, masks = published_augmentation((40, 80))(*still(seed=seed % 3))
    for t in range(1, len(frames)): assert torch.equal(frames[t], frames[0]) and torch.equal(masks[t], masks[0])

def test_colors_per_frame_on_request():
    differ = 0
    for seed in range(10):
        torch.manual_seed(seed)
        frames, masks = published_augmentation((40, 80), color_per_frame=True)(*still())
        differ += not torch.equal(frames[0], frames[1])
        assert torch.equal(masks[0], masks[1])
    assert differ >= 8

@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(8, 60), st.integers(8, 60), st.floats(0.3, 1), st.floats(1, 3), st.integers(0, 10**6))
def test_sizes_values_and_padding(H, W, h, w, low, high, seed):
    frames, masks = block_clip(H, W)
    torch.manual_seed(seed)
    out, out_masks = published_augmentation((h, w), ratio=(low, high))(frames, masks)
    assert out.shape == (3, 3, h, w) and out_masks.shape == (3, h, w) and out.dtype == out_masks.dtype == torch.uint8
    assert set(out_masks.unique().tolist()) <= set(masks.unique().tolist()) | {255}
    filled = out_masks[0] == 255
    rows, columns = (~filled).any(1), (~filled).any(0)
    assert torch.equal(~filled, rows[:, None] & columns[None])                     # padding is a border, not holes
    assert (out[0][:, filled] == torch.tensor([124, 116, 104])[:, None]).all()

@settings(max_examples=30, deadline=None)
@given(st.floats(0.4, 2.5), st.integers(0, 10**6))
def test_masks_stay_on_their_frames(ratio, seed):
    frames, masks = block_clip(60, 120, seed % 50, tile=20)
    torch.manual_seed(seed)
    out, out_masks = RandomScaleCrop((60, 120), ratio=(ratio, ratio))(frames, masks)
    pool = lambda m: torch.nn.functional.max_pool2d(m.float(), 5, 1, 2)
    inside = pool(out_masks) == -pool(-out_masks.float())
    assert inside.float().mean() > 0.2
    assert (out[:, 0] == out_masks*10)[inside].all()

def test_one_class_rule():
    masks = tv_tensors.Mask(torch.zeros(4, 40, 200, dtype=torch.uint8))
    masks[-1, :, 170:] = 13                                                        # a few cars at the end of a long road ...
    masks[:-1] = 5                                                                 # ... and frames before that do not count
    frames = tv_tensors.Video(torch.zeros(4, 3, 40, 200, dtype=torch.uint8))
    def share(max_share, seed):
        torch.manual_seed(seed)
        last = RandomScaleCrop((40, 40), (1, 1), (40, 200), max_share)(frames, masks)[1][-1]
        return (last == 0).float().mean().item()
    assert np.mean([share(0.75, k) > 0.75 for k in range(60)]) < 0.6 < np.mean([share(1., k) > 0.75 for k in range(60)])

def test_ignored_frame_does_not_break_the_rule():
    frames, masks = still()
    masks[:] = 255
    out, out_masks = published_augmentation((40, 80))(frames, masks)
    assert (out_masks == 255).all() and out.shape[-2:] == (40, 80)

def test_unlabelled_neighbours_stay_unlabelled():
    frames, masks = still()
    masks[:-1] = 255
    torch.manual_seed(0)
    _, out = published_augmentation((40, 80))(frames, masks)
    assert (out[:-1] == 255).all() and (out[-1] != 255).any()

def test_flip_is_half_and_half():
    frames, masks = still()
    flips = []
    for seed in range(100):
        torch.manual_seed(seed)
        out = v2.Compose(published_augmentation((48, 96), ratio=(1, 1)).transforms[:2])(frames, masks)[0]
        flips.append(torch.equal(out, frames.flip(-1)))
        assert flips[-1] or torch.equal(out, frames)
    assert 30 < sum(flips) < 70


# ---- loaders

def test_batches_are_plain_tensors(city):
    for dl in loaders(city):
        x, y = dl.one_batch()
        assert type(x) is type(y) is torch.Tensor
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((3, 4, 3, 32, 64), (3, 4, 32, 64), torch.float32, torch.int64)
        for x, y in dl: assert type(x) is type(y) is torch.Tensor and x.dtype == torch.float32

def test_normalised_with_imagenet_statistics(city):
    dls = loaders(city, size=(48, 96))
    x, _ = dls.valid.one_batch()
    frames = dls.valid_ds.clips[0][0]
    mean, std = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
    assert torch.allclose(x[0], (frames/255 - mean)/std, atol=1e-5)

@pytest.mark.parametrize('aug', ['published', 'none'])
def test_same_seed_same_batches_whatever_the_workers(city, aug):
    def epochs(**options):
        dls = loaders(city, aug=aug, **options)
        return [x for _ in range(2) for x, _ in dls.train]
    reference = epochs()
    torch.manual_seed(99); np.random.seed(99)                                      # the global states do not matter
    for other in (epochs(), epochs(num_workers=2)):
        assert len(other) == len(reference) == 8 and all(torch.equal(a, b) for a, b in zip(reference, other))
    assert not torch.equal(reference[0], epochs(seed=1)[0])

def test_without_a_seed_fastai_decides(city):
    from fastai.torch_core import set_seed
    def first():
        set_seed(5)
        return loaders(city, seed=None).one_batch()[0]
    assert torch.equal(first(), first())

def test_drawing_leaves_random_states_alone(city, monkeypatch):
    dl = loaders(city).train
    def never(*args): raise AssertionError('this would reseed the GPUs too')
    monkeypatch.setattr(torch, 'manual_seed', never)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    dl.create_item(0)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()

def test_validation_is_not_random(city):
    dl = loaders(city).valid
    first, second = [[b for b in dl] for _ in range(2)]
    for (x, y), (x2, y2) in zip(first, second): assert torch.equal(x, x2) and torch.equal(y, y2)
    assert sum(len(x) for x, _ in first) == 6                                       # nothing is left out

def test_every_training_clip_once_per_epoch(city):
    dl = loaders(city, bs=4, aug='none').train
    for _ in dl: pass
    assert sorted(dl.drawn) == list(range(12))

def test_small_sets_still_give_a_batch(city):
    dls = loaders(city, bs=64)
    assert len(dls.train) == 1 and len(dls.one_batch()[0]) == 12

def test_mixed_lengths_explain_themselves(city):
    for workers in (0, 2):
        dls = loaders(city, missing='drop', bs=6, num_workers=workers)
        with pytest.raises(ValueError, match="use missing='mirror' or 'repeat' to fill up, or bs=1"): list(dls.valid)
    assert len(list(loaders(city, missing='drop', bs=1).valid)) == 6

def test_mixed_sizes_explain_themselves():
    clips = ClipItems([still(), tuple(ResizeClip((16, 32))(*still()))])
    with pytest.raises(ValueError, match='frames of .16, 32., .48, 96. .height, width.'): ClipDL(clips, bs=2, num_workers=0).one_batch()

def test_what_the_loaders_tell(city):
    dls = loaders(city, missing='repeat')
    assert (dls.c, dls.size, list(dls.dilation), dls.missing, dls.labels) == (19, (32, 64), DILATION, 'repeat', cityscapes_labels)
    assert list(dls.vocab) == list(cityscapes_labels.classes)
    assert dls.valid_ds.index.snippets and dls.valid_ds.items[0][-1].split == 'val'

def test_own_augmentation_and_wrong_ones(city):
    calls = []
    def mine(frames, masks):
        calls.append(frames.shape)
        return frames, masks
    x, _ = loaders(city, aug=mine).one_batch()
    assert calls == [(4, 3, 48, 96)]*3 and x.shape[-2:] == (32, 64)
    with pytest.raises(ValueError, match="aug='heavy'"): loaders(city, aug='heavy')

def test_from_datasets_takes_the_size_of_the_frames(city):
    train, valid = (ClipDataset(FrameIndex(city, split=s), DILATION) for s in ('train', 'val'))
    dls = ClipDataLoaders.from_datasets(train, valid, bs=2, num_workers=0, device='cpu')
    assert dls.size == (48, 96) and dls.one_batch()[0].shape == (2, 4, 3, 48, 96)
    plain = torch.utils.data.TensorDataset(torch.zeros(5, 2, 3, 16, 24, dtype=torch.uint8), torch.zeros(5, 2, 16, 24, dtype=torch.uint8))
    dls = ClipDataLoaders.from_datasets(plain, plain, labels=camvid_labels, num_workers=0, device='cpu', aug='none')
    assert dls.c == 11 and dls.one_batch()[1].shape == (2, 2, 16, 24)

def test_options_of_fastai_reach_both_loaders(city):
    dls = loaders(city, pin_memory=False, timeout=7)
    assert [dl.timeout for dl in dls] == [7, 7] and not any(dl.pin_memory for dl in dls)

def test_pickled_loaders_give_the_same(city):
    dls = loaders(city)
    copy = pickle.loads(pickle.dumps(loaders(city)))
    assert torch.equal(dls.one_batch()[0], copy.one_batch()[0])

def test_test_loader_takes_any_form(city):
    dls = loaders(city)
    records = dls.valid_ds.items[4]
    frames = load_clip(records)
    forms = [[r.path for r in records], records, frames, frames.permute(0, 2, 3, 1).numpy(), list(frames)]
    batches = [x for x, in dls.test_dl(forms, bs=2)]
    assert [len(b) for b in batches] == [2, 2, 1]
    for x in torch.cat(batches): assert torch.equal(x, batches[0][0])
    x, y = dls.test_dl(dls.valid_ds.clips).one_batch()
    assert y.shape == (3, 4, 32, 64)

def test_pictures(city):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    dls = loaders(city)
    for show in (lambda: dls.show_batch(max_n=2), lambda: dls.show_batch(unique=True, max_n=2), lambda: dls.valid.show_results(b := dls.valid.one_batch(), b[1][:, -1])):
        plt.close('all')
        show()
        axes = plt.gcf().axes
        assert len(axes) in (6, 9) and all(ax.images for ax in axes)
    assert axes[0].get_title() == 'toycity 000002 000000' and [ax.get_title() for ax in axes[1:3]] == ['truth', 'prediction']
    plt.close('all')


# ---- with a Learner

class LastFrame(torch.nn.Module):
    "A 1×1 convolution of the last frame"
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 19, 1)
    def forward(self, clip): return self.conv(clip[:, -1])

class LastLoss:
    "Cross-entropy on the last frame"
    def __call__(self, pred, target, reduction='mean'): return torch.nn.functional.cross_entropy(pred, target[:, -1], ignore_index=255, reduction=reduction)
    def decodes(self, pred): return pred.argmax(1)

@pytest.mark.filterwarnings('ignore')
def test_learner_from_end_to_end(city, tmp_path):
    dls = loaders(city)
    learn = Learner(dls, LastFrame(), loss_func=LastLoss(), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(show_plot=False, num_it=5)
        learn.fit(2, 0.05)
        preds, targets = learn.get_preds()
        assert preds.shape == (6, 19, 32, 64) and targets.shape == (6, 4, 32, 64)
        shuffled, _ = learn.get_preds(ds_idx=0)
        assert len(shuffled) == 12                                                  # nothing dropped
        mask = learn.predict([r.path for r in dls.valid_ds.items[4]])[0]
        assert torch.equal(mask, preds[4].argmax(0))
    learn.export(tmp_path/'tiny.pkl')
    assert (tmp_path/'tiny.pkl').stat().st_size < 100_000                           # no data inside
    assert len(learn.dls.train_ds) == 12                                            # and the learner keeps its own
    again = load_learner(tmp_path/'tiny.pkl')
    assert (again.dls.c, again.dls.size, again.dls.labels) == (19, (32, 64), cityscapes_labels)
    with again.no_bar(): assert torch.equal(again.predict([r.path for r in dls.valid_ds.items[4]])[0], mask)
