"The learner on a toy street: freezing, rates, predictions, streams, scores, export."
import warnings
import pytest, torch
from fastai.learner import load_learner
from fastai.torch_core import set_seed
from segvid.augment import ClipDataLoaders
from segvid.learner import clip_learner, undecayed
from segvid.metrics import MeanIoU
from segvid.toycity import make_toycity

tiny = dict(embed_dim=16, depth=2, window=4, shift=2)

@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    city = make_toycity(tmp_path_factory.mktemp('city')/'toy', sequences=3, frames=8, size=(32, 64), val=1)
    return ClipDataLoaders.from_cityscapes(city, dilation=[-2, -1], size=(32, 64), bs=4, aug='none', num_workers=0, seed=0)

def quiet(learn, train):
    with learn.no_bar(), learn.no_logging(): train()
    return learn

@pytest.mark.parametrize('encoder', ['mit_b0', 'tf_efficientnet_lite0', 'convnext_atto'])
def test_freeze_touches_the_encoder_and_only_it(dls, encoder):
    learn = clip_learner(dls, encoder, **tiny)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.freeze()
    assert sum(p.requires_grad for p in learn.model.encoder.parameters()) == 0
    assert all(p.requires_grad for p in learn.model.head.parameters())
    quiet(learn, lambda: learn.fit(1, 1e-3))
    after = learn.model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and not any(k.startswith('encoder.') for k in changed)      # not even BatchNorm's statistics
    assert len(changed) > .9*sum(k.startswith('head.') for k in before)
    learn.unfreeze()
    quiet(learn, lambda: learn.fit(1, 1e-3))
    assert any(k.startswith('encoder.') and not torch.equal(after0, learn.model.state_dict()[k]) for k, after0 in before.items())

def test_default_rate_is_ten_times_higher_in_the_head(dls):
    learn = clip_learner(dls, 'mit_b0', **tiny)
    quiet(learn, lambda: learn.fit_one_cycle(1))
    assert learn.opt.hypers[1]['lr'] == pytest.approx(10*learn.opt.hypers[0]['lr'], rel=1e-3)

def test_weight_decay_reaches_only_what_it_should(dls):
    "With gradients of zero, a step changes exactly the decayed parameters"
    learn = clip_learner(dls, 'mit_b0', wd=.5, **tiny)
    learn.create_opt()
    before = {n: p.detach().clone() for n, p in learn.model.named_parameters()}
    for p in learn.model.parameters(): p.grad = torch.zeros_like(p)
    learn.opt.step()
    still = {n for n, p in learn.model.named_parameters() if torch.equal(p, before[n])}
    zero = {n for n, p in before.items() if not p.any()}                       # biases that start at zero cannot shrink
    assert still - zero == set(undecayed(learn.model)) - zero

def test_gradients_are_clipped(dls):
    norms = []
    learn = clip_learner(dls, 'mit_b0', clip_grad=.01, **tiny)
    from fastai.callback.core import Callback
    class Norm(Callback):
        order = 99
        def before_step(self): norms.append(torch.stack([p.grad.norm() for p in self.model.parameters() if p.grad is not None]).norm().item())
    learn.add_cb(Norm())
    quiet(learn, lambda: learn.fit(1, 1e-3))
    assert norms and max(norms) < .0101

def test_lr_find(dls):
    learn = clip_learner(dls, 'mit_b0', **tiny)
    before = [p.detach().clone() for p in learn.model.parameters()]
    with learn.no_bar(): found = learn.lr_find(num_it=8, show_plot=False)
    assert 1e-8 < found.valley < 10
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))

def test_training_is_reproducible(dls):
    losses = []
    for _ in range(2):
        set_seed(3, reproducible=True); dls.train.rng.seed(3)
        learn = clip_learner(dls, 'mit_b0', **tiny)
        losses.append(quiet(learn, lambda: learn.fit(1, 1e-3)).recorder.losses)
    assert torch.equal(torch.stack(list(losses[0])), torch.stack(list(losses[1])))

def test_predictions_agree(dls, tmp_path):
    learn = clip_learner(dls, 'mit_b0', **tiny)
    quiet(learn, lambda: learn.fit(1, 1e-3))
    masks, truth = learn.get_preds()
    assert masks.dtype == torch.uint8 and masks.shape == truth.shape == (8, 32, 64)
    items = dls.valid_ds.items
    one, probabilities = learn.predict([r.path for r in items[5]])
    assert torch.equal(one, masks[5]) and probabilities.shape[0] == dls.c
    score = MeanIoU(dls.c); score.update(masks, truth)
    assert learn.validate()[1] == pytest.approx(score.value, abs=1e-6)
    assert learn.evaluate(streamed=False, progress=False).mIoU == pytest.approx(score.value, abs=1e-6)
    video = [r.path for r in dls.valid_ds.index.snippets[0]]
    assert torch.equal(list(learn.stream_masks(video))[-1], learn.predict(video)[0])
    learn.path = tmp_path
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'l.pkl')
    assert torch.equal(again.predict([r.path for r in items[5]])[0], one)

def test_clip_length_is_free(dls):
    learn = clip_learner(dls, 'mit_b0', **tiny)
    video = [r.path for r in dls.valid_ds.index.snippets[0]]
    for n in (1, 2, 6): assert learn.predict(video[:n])[0].shape == (32, 64)

def test_mixed_precision_trains(dls):
    learn = clip_learner(dls, 'mit_b0', **tiny).to_bf16()
    quiet(learn, lambda: learn.fit(1, 1e-3))
    assert torch.isfinite(torch.tensor(learn.recorder.values[-1][0]))
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())

def test_show(dls):
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt
    learn = clip_learner(dls, 'mit_b0', **tiny)
    learn.show_results(max_n=2)
    assert len(plt.gcf().axes) == 6; plt.close('all')
