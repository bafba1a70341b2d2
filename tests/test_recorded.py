"Training by a recorded step (on the CPU the step itself, without a graph) gives what ordinary training gives, whatever callbacks there are."
import pytest, torch
from fastai.callback.training import GradientAccumulation
from fastai.callback.core import Callback
from segvid.augment import ClipDataLoaders
from segvid.learner import clip_learner
from segvid.recorded import RecordedStep, RecordedTraining
from segvid.toycity import make_toycity

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('recorded')/'city', sequences=3, frames=8, size=(32, 64), val=1)

def trained(city, *cbs, bs=2, bf16=False, freeze=False):
    "Losses and weights after an epoch"
    torch.manual_seed(0)
    dls = ClipDataLoaders.from_cityscapes(city, size=(32, 64), dilation=[-1], bs=bs, num_workers=0, aug='none', seed=0)
    learn = clip_learner(dls, 'mit_b0', embed_dim=16, depth=1, window=4, shift=2, drop_path=0., dropout=0., encoder_options=dict(drop_path_rate=0.), cbs=list(cbs))
    if bf16: learn.to_bf16()
    if freeze: learn.freeze()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    return learn, torch.stack(list(learn.recorder.losses)), [p.detach().clone() for p in learn.model.parameters()]

@pytest.mark.parametrize('options', [{}, dict(bf16=True), dict(freeze=True), dict(bs=3)])
def test_same_as_without(city, options):
    _, losses, weights = trained(city, **options)
    learn, others, got = trained(city, RecordedTraining(), **options)
    assert (losses - others).abs().max() < 1e-4
    assert all((a - b).abs().max() < 1e-3 for a, b in zip(weights, got))
    assert type(learn.model).__name__ == 'VideoSegmenter' and type(learn.loss_func).__name__ == 'ClipLoss'

def test_gradients_accumulate(city):
    weights = [trained(city, GradientAccumulation(4), *cbs)[2] for cbs in ([], [RecordedTraining()])]
    assert all((a - b).abs().max() < 1e-3 for a, b in zip(*weights))

class Interrupts(Callback):
    def after_pred(self): raise KeyboardInterrupt

def test_model_comes_back_after_an_error(city):
    callback = RecordedTraining()
    with pytest.raises(KeyboardInterrupt): trained(city, callback, Interrupts())
    assert type(callback.learn.model).__name__ == 'VideoSegmenter' and type(callback.learn.loss_func).__name__ == 'ClipLoss'

def test_what_cannot_be_recorded_runs_as_always(city, monkeypatch, capsys):
    def fail(self): raise RuntimeError('no capture here')
    monkeypatch.setattr(RecordedStep, '_record', fail)
    _, losses, _ = trained(city)
    _, others, _ = trained(city, RecordedTraining(record=True))
    assert 'no capture here' in capsys.readouterr().out and (losses - others).abs().max() < 1e-4
