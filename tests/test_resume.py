"Runs that survive: kill -9 at random points, damaged and missing files, a full disk, bad losses, too little memory."
import os, random, time
from contextlib import nullcontext
from pathlib import Path
import numpy as np, pytest, torch
resource = pytest.importorskip('resource')                                  # limits of the system
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import set_seed
from several import Program
from segvid.augment import ClipDataLoaders
from segvid.learner import CarriedMemory, clip_learner
from segvid.survive import Checkpoints, LossGuard, WeightAverage, batch_files, checkpoint_files, newest_checkpoint, seal, unseal, write_atomically
from segvid.toycity import make_toycity

tiny = dict(embed_dim=16, depth=2, window=4, shift=2)

class Say(Callback):
    "Prints every step"
    order = 150
    def after_batch(self):
        if self.training: print('step', self.learn.checkpoints.step, flush=True)

def train(city, out, workers, resume):
    "A training in two phases, with augmentation, dropout, dropped paths and averaged weights, in a process of its own"
    seed = 99 if resume else 0                                               # after a kill, chance must come from the checkpoint
    set_seed(seed, reproducible=True)
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=4, num_workers=workers, seed=seed, aug='published')
    learn = clip_learner(dls, 'mit_b0', cbs=[Say(), WeightAverage(.9)], path=out, **tiny)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(2, 1e-3, freeze_epochs=1, checkpoints=Checkpoints(out/'c', every=3, resume=resume))
    learn.save_model(out/'final')

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('data')/'city', sequences=4, frames=8, size=(32, 64), val=1)

def start(city, out, workers, mode): return Program(train, city, out, workers, mode == 'resume', log=out/f'log_{time.time_ns()}')

def finish(city, out, workers=0, mode='new'):
    run = start(city, out, workers, mode)
    assert run.wait() == 0, run.text
    return (out/'final.safetensors').read_bytes()

def kill_at(city, out, step, delay, workers, mode):
    "kill -9 a little after a step"
    run = start(city, out, workers, mode)
    run.wait_until(lambda lines: any(l.startswith('step') and int(l.split()[1]) >= step for l in lines))
    time.sleep(delay)
    run.kill()

@pytest.fixture(scope='module')
def straight(city, tmp_path_factory): return finish(city, tmp_path_factory.mktemp('straight'))

def test_kill_at_three_random_points(city, straight, tmp_path):
    "6 steps frozen, then 12: kills in both phases, within and between epochs; the weights are the same to the last bit"
    dice, mode = random.Random(time.time_ns()), 'new'
    points = sorted(dice.sample(range(1, 17), 3))
    for step in points:
        kill_at(city, tmp_path, step, dice.random()*.2, 0, mode)
        assert len(checkpoint_files(tmp_path/'c')) <= 3                      # two, and one more if the kill came between writing and tidying up
        mode = 'resume' if checkpoint_files(tmp_path/'c') else 'new'
    assert finish(city, tmp_path, 0, mode) == straight, f'killed at {points}'

def test_kill_with_worker_processes(city, straight, tmp_path):
    "Data read ahead by two processes: the same order, the same draws"
    kill_at(city, tmp_path, 10, 0., 2, 'new')
    assert finish(city, tmp_path, 2, 'resume') == straight

@pytest.fixture(scope='module')
def dls(city): return ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=4, aug='none', num_workers=0, seed=0)

def fit(dls, out, epochs=1, resume=False, cbs=(), **options):
    set_seed(0, reproducible=True); dls.train.rng.seed(0); dls.valid.rng.seed(0)
    learn = clip_learner(dls, 'mit_b0', cbs=list(cbs), path=out, **tiny)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-3, cbs=Checkpoints(out/'c', resume=resume, **options))
    return learn

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

class Stop(Callback):
    order = 150
    def __init__(self, step): self.step, self.seen = step, 0
    def after_batch(self):
        self.seen += self.training
        if self.training and self.seen == self.step: raise KeyboardInterrupt

def test_a_damaged_last_one_is_named_and_the_one_before_used(dls, tmp_path, capsys):
    whole = fit(dls, tmp_path/'a', 2)
    with pytest.raises(KeyboardInterrupt): fit(dls, tmp_path/'b', 2, every=2, cbs=[Stop(11)])
    last = checkpoint_files(tmp_path/'b'/'c')[-1]
    data = bytearray(last.read_bytes()); data[len(data)//2] ^= 1; last.write_bytes(data)          # one bit
    again = fit(dls, tmp_path/'b', 2, resume=True)
    said = capsys.readouterr().out
    assert f'{last.name} is damaged' in said and 'going on after step 8' in said
    assert torch.equal(weights(whole), weights(again))

def test_full_disk(dls, tmp_path, monkeypatch):
    import errno
    real, count = os.fsync, [0]
    def fills(fd):
        count[0] += 1
        if count[0] > 1: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(fd)
    monkeypatch.setattr(os, 'fsync', fills)
    with pytest.raises(OSError, match='No space left on device; .* MB did not fit, nothing was changed') as caught: fit(dls, tmp_path, every=2)
    assert 'step_00000004.ckpt' in str(caught.value)
    assert [p.name for p in (tmp_path/'c').iterdir()] == ['step_00000002.ckpt'] and newest_checkpoint(tmp_path/'c')['step'] == 2
    monkeypatch.undo()
    assert torch.equal(weights(fit(dls, tmp_path, resume=True)), weights(fit(dls, tmp_path/'other')))

def test_best_and_last_are_kept(dls, tmp_path):
    learn = fit(dls, tmp_path, 4, best=2)
    values = sorted((v[-1] for v in learn.recorder.values), reverse=True)
    best = sorted((p.name for p in (tmp_path/'c').glob('best_*')), reverse=True)
    assert [n.split('_')[2] for n in best] == [f'{v:.4f}' for v in values[:2]] and len(checkpoint_files(tmp_path/'c')) == 2
    from segvid.learner import load_model
    assert load_model(tmp_path/'c'/best[0], 'cpu').size == (32, 64)

def test_another_training_is_refused(dls, tmp_path):
    fit(dls, tmp_path)
    with pytest.raises(ValueError, match='earlier training'): fit(dls, tmp_path)
    with pytest.raises(ValueError, match='epochs 3 here, 1 there'): fit(dls, tmp_path, 3, resume=True)

def test_checkpoints_hold_no_code(tmp_path):
    class Trap:
        def __reduce__(self): return (Path.touch, (tmp_path/'ran',))
    write_atomically(tmp_path/'x.ckpt', seal(dict(a=Trap())))
    with pytest.raises(ValueError, match='more than tensors and plain values'): unseal(tmp_path/'x.ckpt')
    assert not (tmp_path/'ran').exists()
    write_atomically(tmp_path/'step_00000001.ckpt', seal(dict(step=1))); write_atomically(tmp_path/'step_00000002.ckpt', seal(dict(a=Trap())))
    assert newest_checkpoint(tmp_path) == dict(step=1) and not (tmp_path/'ran').exists()
    (tmp_path/'step_00000003.ckpt').mkdir()                                                       # not to be read at all
    assert newest_checkpoint(tmp_path) == dict(step=1)

def poison(dls, number):
    "A callback that turns one clip of the training into nan, wherever it comes in the order"
    class Poison(Callback):
        order = 5
        def before_batch(self):
            here = self.learn.order.all[self.learn.iter*4:self.learn.iter*4 + 4]
            if self.training and number in here: self.learn.xb = (self.xb[0]*float('nan'),)
    return Poison()

def test_nan_is_named_with_its_files_and_stops_or_is_left_out(dls, tmp_path, capsys):
    path = Path(dls.train_ds.items[9][-1].path).name
    with pytest.raises(FloatingPointError, match=path): fit(dls, tmp_path/'a', cbs=[poison(dls, 9), LossGuard('stop')])
    guard = LossGuard('skip')
    learn = fit(dls, tmp_path/'b', cbs=[poison(dls, 9), guard])
    assert len(guard.skipped) == 1 and any(path in f for f in guard.skipped[0]) and path in capsys.readouterr().out
    assert torch.isfinite(weights(learn)).all() and np.isfinite(float(learn.recorder.losses[-1]))
    assert all(torch.isfinite(b).all() for b in learn.model.buffers()) and np.isfinite(float(learn.recorder.values[-1][1]))   # nothing of it is left in statistics
    with pytest.raises(FloatingPointError): fit(dls, tmp_path/'c', cbs=[poison(dls, n) for n in range(24)] + [LossGuard('skip', most=2)])

def test_nan_weights_are_never_saved(dls, tmp_path, capsys):
    class Break(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.iter == 4: next(iter(self.learn.model.parameters())).data.fill_(float('nan'))
    fit(dls, tmp_path, every=2, cbs=[Break()])
    assert sorted(p.name for p in (tmp_path/'c').iterdir()) == ['step_00000002.ckpt', 'step_00000004.ckpt']
    assert 'the weights are not finite' in capsys.readouterr().out

def test_out_of_memory(dls, tmp_path, capsys):
    def learner(limit, pieces):
        set_seed(0, reproducible=True); dls.train.rng.seed(0)
        learn = clip_learner(dls, 'mit_b0', **(tiny | dict(dropout=0., drop_path=0.)), encoder_options=dict(drop_path_rate=0.), clip_grad=None)
        learn.model.head.linear_fuse.bn.eval(); learn.model.head.linear_fuse.bn.train = lambda mode=True: learn.model.head.linear_fuse.bn
        real = learn.model.forward
        def forward(x):
            if learn.model.training and len(x) > limit: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')
            return real(x)
        learn.model.forward, learn.max_pieces = forward, pieces
        return learn
    full, small = learner(4, 1), learner(1, 8)
    for learn in (full, small):
        dls.train.rng.seed(0)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4)
    assert small.pieces == 4 and 'in 4 pieces' in capsys.readouterr().out
    assert (weights(full) - weights(small)).abs().max() < 1e-3
    with pytest.raises(RuntimeError, match='lower bs, size') as caught:
        with (learn := learner(1, 1)).no_bar(), learn.no_logging(): learn.fit(1, 1e-4)
    assert '4x2x3x32x64' in str(caught.value) and 'to_bf16' in str(caught.value)

def test_bfloat16_in_pieces(dls):
    learn = clip_learner(dls, 'mit_b0', **tiny).to_bf16()
    learn.pieces = learn.max_pieces = 2
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert torch.isfinite(weights(learn)).all() and not torch.is_autocast_enabled('cpu')

def test_nothing_of_a_bad_batch_stays_when_it_is_in_pieces(dls, capsys):
    "The first piece is good, the second is nan: the gradients of the first go, too"
    class Bad(Callback):
        order = 5
        def before_batch(self):
            if self.training and self.iter == 2: x = self.xb[0].clone(); x[1] = float('nan'); self.learn.xb = (x,)
        def after_cancel_batch(self): left.append(sum(float(p.grad.abs().sum()) for p in self.model.parameters() if p.grad is not None))
    left, learn = [], clip_learner(dls, 'mit_b0', cbs=[Bad(), guard := LossGuard('skip')], **tiny)
    learn.pieces = learn.max_pieces = 2
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert left == [0.] and len(guard.skipped) == 1 and torch.isfinite(weights(learn)).all()

def test_out_of_memory_with_carried_memory(dls):
    "Pieces in time and pieces of a batch do not go together; the message says what does"
    long = ClipDataLoaders.from_index(dls.train_ds.index, dls.valid_ds.index, dilation=[-3, -2, -1], size=(32, 64), bs=4, aug='none', num_workers=0, seed=0)
    def learner(**limits):
        learn = clip_learner(long, 'mit_b0', cbs=CarriedMemory(2), **tiny)
        for name in limits:
            def full(*args, **kwargs): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')
            setattr(learn.model, name, full)
        learn.max_pieces = 8
        return learn
    for where in ('train_piece', 'forward'):
        with pytest.raises(RuntimeError, match=r'batch of 4x.x3x32x64: lower bs, size.*CarriedMemory\(frames=...\)'):
            with (learn := learner(**{where: 0})).no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    learn = learner(); learn.pieces = 2
    with pytest.raises(ValueError, match='learn.pieces=2: expected 1 with CarriedMemory'), learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)

class Scaled(MixedPrecision):
    "fastai's mixed precision with its gradient scaler, on the processor and without autocast"
    def before_fit(self): self.autocast, self.learn.scaler, self.scales = nullcontext(), torch.amp.GradScaler('cpu', init_scale=4., growth_interval=2), []
    def after_step(self): super().after_step(); noted.append(self.scaler.get_scale())

noted = []

def test_the_gradient_scaler_goes_on(dls, tmp_path):
    noted.clear(); whole = fit(dls, tmp_path/'a', 2, cbs=[Scaled()]); want = list(noted)
    assert want[-1] > want[6] > want[0]                                                           # it grows every two steps
    noted.clear()
    with pytest.raises(KeyboardInterrupt): fit(dls, tmp_path/'b', 2, every=2, cbs=[Scaled(), Stop(8)])
    before = len(noted); noted.clear()
    again = fit(dls, tmp_path/'b', 2, resume=True, cbs=[Scaled()])
    assert noted == want[-len(noted):] and len(noted) < len(want) <= len(noted) + before
    assert torch.equal(weights(whole), weights(again))

def test_the_system_refuses_to_write(dls, tmp_path):
    "A real refusal, of files larger than a limit: named, nothing half-written, the checkpoint before it whole"
    class Limit(Callback):
        order = 90
        def after_batch(self):
            if self.training and self.learn.train_iter == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match='MB did not fit, nothing was changed'): fit(dls, tmp_path, every=2, cbs=[Limit()])
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (tmp_path/'c').iterdir()] == ['step_00000002.ckpt'] and newest_checkpoint(tmp_path/'c')['step'] == 2

def test_what_a_kill_left_is_removed_when_it_is_old(dls, tmp_path):
    (tmp_path/'c').mkdir()
    for name, age in (('.step_00000002.ckpt.abc', 900), ('.best_mIoU_0.5_step_2.safetensors.abc', 900), ('.step_00000004.ckpt.xyz', 0)):
        (tmp_path/'c'/name).write_bytes(b'half'); os.utime(tmp_path/'c'/name, (time.time() - age,)*2)
    fit(dls, tmp_path)
    assert [p.name for p in (tmp_path/'c').glob('.*')] == ['.step_00000004.ckpt.xyz']

def test_two_programs_resume_the_same_training(city, straight, tmp_path):
    "A mistake that spoils nothing: both end with the same weights"
    kill_at(city, tmp_path, 5, 0., 0, 'new')
    runs = [start(city, tmp_path, 0, 'resume') for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0], [run.text for run in runs]
    assert (tmp_path/'final.safetensors').read_bytes() == straight and newest_checkpoint(tmp_path/'c')['step'] == 18

def test_gradients_that_are_being_added_up_go_on(dls, tmp_path):
    "A checkpoint between two steps of the optimizer: what was added up so far is in it"
    accumulate = lambda: GradientAccumulation(12)                                                # three batches of four
    whole = fit(dls, tmp_path/'a', 2, cbs=[accumulate()])
    for stop in (5, 7, 9):
        with pytest.raises(KeyboardInterrupt): fit(dls, tmp_path/f'{stop}', 2, every=4, cbs=[accumulate(), Stop(stop)])
        assert torch.equal(weights(whole), weights(fit(dls, tmp_path/f'{stop}', 2, resume=True, cbs=[accumulate()]))), stop
