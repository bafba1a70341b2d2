"Training as a stream is used: pieces, memory, bad batches, the optimizer's state, and zoom on the device."
from pathlib import Path
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from segvid.augment import ClipDataLoaders, WarpClip
from segvid.cli import merge_options, read_options, segvid_train
from segvid.learner import CarriedMemory, FusedAdam, class_weights, clip_learner
from segvid.survive import LossGuard
from segvid.toycity import make_toycity

small = dict(embed_dim=16, depth=2, window=4, shift=2)

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('toy')/'city', sequences=3, frames=8, size=(32, 64), val=1)

def loaders(city, **options):
    return ClipDataLoaders.from_cityscapes(city, **dict(dict(size=(32, 64), dilation=[-3, -2, -1], bs=2, num_workers=0, aug='none', seed=0, device=torch.device('cpu')), **options))

def quiet(learn): return learn.no_bar(), learn.no_logging()

@pytest.mark.parametrize('head, frames', [('tv3s', 1), ('tv3s', 3), ('tv3s', 9), ('frame', 2)])
def test_any_split(city, head, frames):
    "Pieces need not divide the clip; a head without memory is fine"
    learn = clip_learner(loaders(city), 'mit_b0', head, cbs=CarriedMemory(frames), **(small if head == 'tv3s' else dict(embed_dim=16)))
    a, b = quiet(learn)
    with a, b: learn.fit(1, 1e-3)
    assert np.isfinite(float(learn.recorder.losses[-1])) and np.isfinite(learn.recorder.values[-1][1])

class Spoil(Callback):
    "Puts NaN into the first frame of one batch"
    order = 50
    def __init__(self, step): self.step = step
    def before_batch(self):
        if self.training and self.iter == self.step: self.learn.xb = (self.xb[0].index_fill(1, torch.tensor([0]), float('nan')),)

class Weights(Callback):
    "Copies of one weight and of whether gradients are left, before every batch"
    order = 40
    def __init__(self): self.seen, self.left = [], []
    def before_batch(self):
        if not self.training: return
        p = next(self.model.head.mamba.parameters())
        self.seen.append(p.detach().clone()); self.left.append(p.grad is not None and bool(p.grad.abs().sum() > 0))

def test_bad_batch_leaves_nothing(city):
    "NaN in an early piece: the batch is skipped, no gradient of it stays behind"
    watch = Weights()
    learn = clip_learner(loaders(city), 'mit_b0', cbs=[CarriedMemory(2), LossGuard('skip'), Spoil(2), watch], **small)
    a, b = quiet(learn)
    with a, b: learn.fit(1, 1e-3)
    assert torch.equal(watch.seen[2], watch.seen[3]) and not torch.equal(watch.seen[1], watch.seen[2])
    assert not any(watch.left) and all(p.isfinite().all() for p in learn.model.parameters())

def test_optimizer_state_travels(city, tmp_path):
    "save and load with the optimizer go on as if nothing had happened"
    def made(): return clip_learner(loaders(city), 'mit_b0', path=tmp_path, encoder_options=dict(drop_path_rate=0.), dropout=0., drop_path=0., **small)
    torch.manual_seed(0); first = made()
    a, b = quiet(first)
    with a, b: first.fit(1, 1e-3); first.save('kept', with_opt=True)
    assert isinstance(first.opt, FusedAdam)
    second = made(); second.create_opt(); second.load('kept', with_opt=True)
    x, y = first.dls.valid.one_batch()
    for learn in (first, second):
        learn.opt.set_hypers(lr=1e-3); learn.model.train()
        learn.loss_func(learn.model(x), y).backward(); learn.opt.step(); learn.opt.zero_grad()
    for (name, p), q in zip(first.model.named_parameters(), second.model.parameters()): torch.testing.assert_close(p, q, msg=name)

def test_zoom_on_the_device(city):
    "The same seed gives the same batches; sizes, types and labels are those of the workers' way"
    make = lambda warp: loaders(city, aug='published', warp=warp, crop=(16, 32), still=.5, color='none')
    (x, y), (x2, y2), (plain, labels) = make('batch').train.one_batch(), make('batch').train.one_batch(), make('worker').train.one_batch()
    assert torch.equal(x, x2) and torch.equal(y, y2)
    assert x.shape == plain.shape == (2, 4, 3, 16, 32) and (x.dtype, y.dtype) == (plain.dtype, labels.dtype)
    assert set(y.unique().tolist()) <= {*range(19), 255}
    with pytest.raises(ValueError, match="belongs to aug='published'"): loaders(city, aug='none', warp='batch')

def test_still_needs_the_published_recipe(city):
    with pytest.raises(ValueError, match="belong to aug='published'"): loaders(city, aug='none', still=.5)

def test_weights_of_classes(city):
    ds = loaders(city).train_ds
    full, half, none = (class_weights(ds, power) for power in (1., .5, 0.))
    assert {*none} <= {0., 1.} and max(full) > max(half) > 1.
    assert [w == 0 for w in full] == [w == 0 for w in none]              # classes that do not occur

def test_recipe_is_understood():
    "Every option of the kept recipe exists and has a value of its kind"
    options = merge_options(segvid_train, {}, read_options(str(Path(__file__).parents[1]/'local_configs/camvid.toml')))
    assert (options['encoder'], options['carry'], options['skip'], options['size']) == ('tf_efficientnet_lite2', 4, True, [720, 960])

def test_pieces_and_added_up_gradients_go_together(city):
    "Steps of three batches: the gradient is the mean of those of the batches, each over all its pieces; the loss that is shown stays that of a batch"
    plain = dict(small, dropout=0., drop_path=0., encoder_options=dict(drop_path_rate=0.), clip_grad=None)
    class Note(Callback):
        order = 150
        def before_step(self): seen.append(torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None].copy()).clone())
        def after_loss(self):
            if self.training: losses.append(float(self.learn.loss))
    runs = []
    for add in ([], [GradientAccumulation(6)]):
        seen, losses = [], []
        torch.manual_seed(0)
        learn = clip_learner(loaders(city), 'mit_b0', cbs=[CarriedMemory(2), *add, Note()], **plain)
        for m in learn.model.modules():
            if isinstance(m, torch.nn.BatchNorm2d): m.eval(); m.train = lambda mode, m=m: m
        a, b = quiet(learn)
        with a, b: learn.fit(1, 0., wd=0.)
        runs.append((seen, losses))
    (single, alone), (added, together) = runs
    assert len(single) == 8 and len(added) == 2 and np.allclose(alone, together, rtol=1e-5)
    for k in range(2): torch.testing.assert_close(added[k], sum(single[3*k:3*k + 3])/3, rtol=1e-3, atol=1e-6)

def test_bad_labels_of_an_early_piece_are_noticed(city):
    "A loss that is NaN in the first piece alone"
    learn = clip_learner(loaders(city), 'mit_b0', cbs=[CarriedMemory(2), guard := LossGuard('skip')], **small)
    real, calls = learn.loss_func, []
    class Once(torch.nn.Module):
        def forward(self, pred, y): calls.append(1); return real(pred, y)*(float('nan') if len(calls) == 5 else 1.)       # the first piece of the third batch
    learn.loss_func = Once()
    a, b = quiet(learn)
    with a, b: learn.fit(1, 1e-3)
    assert len(guard.skipped) == 1 and all(p.isfinite().all() for p in learn.model.parameters())
