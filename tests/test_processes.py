"Two processes on the CPU (gloo) against one: the same clips, weights and scores; killed and resumed; errors that all must hear of."
import json, os, time
from pathlib import Path
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.optimizer import SGD
from fastai.torch_core import num_distrib, rank_distrib, set_seed
from several import Program, finish, free_port, together
from segvid.augment import ClipDataLoaders
from segvid.learner import CarriedMemory, clip_learner
from segvid.processes import SharedDL, several_processes
from segvid.survive import Checkpoints, LossGuard, WeightAverage, batch_files, checkpoint_files, unseal
from segvid.toycity import make_toycity

calm = dict(dropout=0., drop_path=0., encoder_options=dict(drop_path_rate=0.))            # chance would fall differently on one and on two
tiny = dict(embed_dim=16, depth=2, window=4, shift=2)

@pytest.fixture(scope='module')
def city(tmp_path_factory):
    "24 clips to train, 7 to validate; pixels without labels, more of them here than there"
    from PIL import Image
    import numpy as np
    folder = make_toycity(tmp_path_factory.mktemp('data')/'city', sequences=4, frames=7, size=(32, 64), val=1)
    for i, path in enumerate(sorted(folder.rglob('*labelTrainIds.png'))):
        mask = np.array(Image.open(path)); mask[:i % 5*6] = 255
        Image.fromarray(mask).save(path)
    return folder

class Seen(Callback):
    "Which files each step and each validation saw, and whether they had labels"
    order = 150
    def before_fit(self): self.train_files, self.valid_files = [], []
    def after_batch(self):
        files = batch_files(self.learn)
        if self.training: self.train_files.append(files)
        else: self.valid_files += [f for f, y in zip(files, self.learn.yb[0]) if (y[:, -1] != 255).any()]

def train(city, out, bs, epochs=2, aug='none', resume=False, every=None, options=calm, accumulate=None, seed=0, slow=0., average=False, sync_bn=True, lr=1e-3, phases=False, opt=None, carry=None):
    "A training in however many processes; each leaves its facts and weights"
    out, rank, processes = Path(out), rank_distrib(), num_distrib() or 1
    set_seed(seed + rank if options is not calm else seed, reproducible=True)
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=bs, aug=aug, num_workers=0, seed=seed)
    class Say(Callback):
        order = 151
        def after_batch(self):
            if self.training and hasattr(self.learn, 'checkpoints'): print('step', self.learn.checkpoints.step, flush=True); time.sleep(slow)
    cbs = [seen := Seen(), Say(), *([GradientAccumulation(accumulate)] if accumulate else []), *([WeightAverage(.9)] if average else []), *([CarriedMemory(carry)] if carry else [])]
    learn = clip_learner(dls, 'mit_b0', cbs=cbs, path=out, **tiny, **options)
    if opt: learn.opt_func = opt
    keeper = Checkpoints(out/'c', every=every, resume=resume) if every else None
    with several_processes(learn, sync_bn=sync_bn), learn.no_bar(), learn.no_logging():
        if phases: learn.fine_tune(epochs, lr, freeze_epochs=1, checkpoints=keeper)
        else: learn.fit(epochs, lr, cbs=keeper)
    facts = dict(processes=processes, train=seen.train_files, valid=seen.valid_files, table=[list(map(float, row)) for row in learn.recorder.values], losses=[float(l) for l in learn.recorder.losses])
    (out/f'facts_{rank}.json').write_text(json.dumps(facts))
    torch.save({k: v for k, v in learn.model.state_dict().items()}, out/f'weights_{rank}.pth')
    if rank == 0: learn.save_model(out/'model.safetensors')
    print('done', flush=True)

def results(folder, processes):
    return [json.loads((folder/f'facts_{rank}.json').read_text()) for rank in range(processes)], [torch.load(folder/f'weights_{rank}.pth') for rank in range(processes)]

def one_and_two(city, tmp_path, bs=4, accumulate=None, **options):
    "The same training in one process and in two; facts and weights of both"
    (tmp_path/'one').mkdir(); (tmp_path/'two').mkdir()
    programs = [Program(_train, city, tmp_path/'one', bs, options | dict(accumulate=accumulate), log=tmp_path/'log')]
    finish(programs + together(_train, city, tmp_path/'two', bs//2, options | dict(accumulate=accumulate and accumulate//2), folder=tmp_path))
    return *results(tmp_path/'one', 1), *results(tmp_path/'two', 2)

def _train(city, out, bs, options): train(city, out, bs, **options)

def difference(a, b): return max((a[k].double() - b[k].double()).abs().max().item() for k in a)

def test_two_processes_end_where_one_does(city, tmp_path):
    "Weights, statistics of batch normalisation, losses and scores; shares of labelled pixels differ from clip to clip. (Without Adam, which makes steps of the rounding errors of gradients that are zero.)"
    (one,), (w,), two, ws = one_and_two(city, tmp_path, opt=SGD, lr=3e-2)
    assert difference(ws[0], ws[1]) == 0 and difference(w, ws[0]) < 1e-5, (difference(ws[0], ws[1]), difference(w, ws[0]))
    assert two[0]['losses'] == two[1]['losses'] and two[0]['table'] == two[1]['table']
    torch.testing.assert_close(torch.tensor(two[0]['losses']), torch.tensor(one['losses']), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(two[0]['table']), torch.tensor(one['table']), rtol=1e-4, atol=1e-5)
    for whole, *parts in zip(one['train'], two[0]['train'], two[1]['train']): assert whole == sum(parts, [])      # the same clips in the same steps
    assert len(one['train']) == len(two[0]['train']) == 2*(21//4)

def test_gradients_are_accumulated_alike(city, tmp_path):
    (one,), (w,), two, ws = one_and_two(city, tmp_path, bs=2, accumulate=4, opt=SGD, lr=3e-2, epochs=1)
    assert difference(w, ws[0]) < 1e-5, difference(w, ws[0])

def test_pieces_of_clips_add_up_alike(city, tmp_path):
    "Memory carried from piece to piece, gradients exchanged once a step"
    (one,), (w,), two, ws = one_and_two(city, tmp_path, opt=SGD, lr=3e-2, epochs=1, carry=1)
    assert difference(ws[0], ws[1]) == 0 and difference(w, ws[0]) < 1e-5, (difference(ws[0], ws[1]), difference(w, ws[0]))
    torch.testing.assert_close(torch.tensor(two[0]['losses']), torch.tensor(one['losses']), rtol=1e-5, atol=1e-6)

def test_every_clip_once_and_no_frame_scored_twice(city, tmp_path):
    "Seven frames to validate with over two processes; 21 clips to train with in steps of four"
    finish(together(_train, city, tmp_path, 2, dict(epochs=1), folder=tmp_path))
    facts, _ = results(tmp_path, 2)
    scored = sum((f['valid'] for f in facts), [])
    assert len(scored) == len(set(scored)) == 7
    trained = sum(sum((f['train'] for f in facts), []), [])
    assert len(trained) == len(set(trained)) == 20                                         # the last, incomplete batch is left out

def scores(city, out):
    "Scores of one model, by the learner, at the batch size of a process"
    set_seed(0)
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=2, aug='none', num_workers=0, seed=0)
    learn = clip_learner(dls, 'mit_b0', **tiny)
    with several_processes(learn), learn.no_bar(), learn.no_logging():
        learn.fit(0, 1e-3)
        loss, _ = learn.validate()
        matrix = learn.metrics[0].counts()
    Path(out, f'scores_{num_distrib() or 1}_{rank_distrib()}.json').write_text(json.dumps(dict(loss=loss, matrix=matrix.tolist(), mIoU=learn.metrics[0].value)))

def test_scores_are_those_of_one_process_exactly(city, tmp_path):
    finish([Program(scores, city, tmp_path, log=tmp_path/'log'), *together(scores, city, tmp_path, folder=tmp_path)])
    one, *two = [json.loads((tmp_path/f'scores_{name}.json').read_text()) for name in ('1_0', '2_0', '2_1')]
    for other in two:
        assert other['matrix'] == one['matrix'] and other['mIoU'] == one['mIoU']
    assert sum(map(sum, one['matrix'])) > 0

def test_killed_in_the_middle_of_an_epoch(city, tmp_path):
    "kill -9 of both processes, in both phases of fine_tune; with draws of augmentation, dropout and dropped paths, and averaged weights. The same last bit"
    options = dict(epochs=2, aug='published', every=2, options={}, average=True, phases=True)
    for folder in ('straight', 'broken'): (tmp_path/folder).mkdir()
    finish(together(_train, city, tmp_path/'straight', 2, options, folder=tmp_path))
    for step in (3, 9):                                                                    # five steps an epoch
        runs = together(_train, city, tmp_path/'broken', 2, options | dict(resume=step > 3, seed=0 if step == 3 else 7, slow=.1), folder=tmp_path)
        runs[0].wait_until(lambda lines: f'step {step}' in lines)
        for run in runs: run.kill()
        state = unseal(checkpoint_files(tmp_path/'broken'/'c')[-1])
        assert len(state['random']) == 2 and state['step'] >= step - 1 and state['step'] < 15
    texts = finish(together(_train, city, tmp_path/'broken', 2, options | dict(resume=True, seed=9), folder=tmp_path))
    assert 'going on after step' in texts[0] and 'going on' not in texts[1]                # process 0 speaks for all
    _, (a, _) = results(tmp_path/'straight', 2); _, (b, _) = results(tmp_path/'broken', 2)
    assert difference(a, b) == 0
    assert (tmp_path/'straight'/'model.safetensors').read_bytes() == (tmp_path/'broken'/'model.safetensors').read_bytes()
    best = next((tmp_path/'broken'/'c').glob('best_*'))
    from segvid.learner import load_model
    assert load_model(best, 'cpu').size == (32, 64)                                        # a model file, though it was wrapped for two processes

def test_another_number_of_processes_is_refused(city, tmp_path):
    finish([Program(_train, city, tmp_path, 4, dict(epochs=1, every=2), log=tmp_path/'log')])
    runs = together(_train, city, tmp_path, 2, dict(epochs=1, every=2, resume=True), folder=tmp_path)
    assert [r.wait() for r in runs] == [1, 1] and all('processes 2 here, 1 there' in r.text for r in runs)

def poisoned(city, out, action):
    "One process meets a loss that is not a number; neither must wait for the other"
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=2, aug='none', num_workers=0, seed=0)
    class Poison(Callback):
        order = 5
        def before_batch(self):
            if self.training and rank_distrib() == 1 and self.iter == 2: self.learn.xb = (self.xb[0]*float('nan'),)
    guard = LossGuard(action)
    learn = clip_learner(dls, 'mit_b0', cbs=[Poison(), guard], **tiny)
    with several_processes(learn, sync_bn=False), learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    Path(out, f'skipped_{rank_distrib()}.json').write_text(json.dumps([guard.skipped, all(torch.isfinite(t).all().item() for t in learn.model.state_dict().values())]))

def test_a_bad_batch_is_left_out_by_all(city, tmp_path):
    finish(together(poisoned, city, tmp_path, 'skip', folder=tmp_path), 120)
    a, b = [json.loads((tmp_path/f'skipped_{rank}.json').read_text()) for rank in range(2)]
    assert a == b and len(a[0]) == 1 and len(a[0][0]) == 2 and a[1]                        # both know the two files, which only one had
    runs = together(poisoned, city, tmp_path, 'stop', folder=tmp_path)
    assert [r.wait(120) for r in runs] == [1, 1] and all('Look at these files' in r.text for r in runs)

def test_one_bar(city, tmp_path):
    texts = finish(together(with_bar, city, folder=tmp_path))
    assert 'train_loss' in texts[0] and 'train_loss' not in texts[1] and '%' not in texts[1]

def with_bar(city):
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=2, aug='none', num_workers=0, seed=0)
    learn = clip_learner(dls, 'mit_b0', **tiny)
    bars = lambda: [cb for cb in learn.cbs if cb.name == 'progress']
    with several_processes(learn):
        learn.fit(1, 1e-3)
        assert len(bars()) == (rank_distrib() == 0)
    assert len(bars()) == 1 and type(learn.model).__name__ == 'VideoSegmenter'
    if rank_distrib() == 0: assert learn.evaluate(progress=False).frames == 7                # process 0 alone may examine: nobody waits for another

def from_notebook(city, out, port):
    "What notebook_launcher does in a notebook, with processes on the CPU (itself it starts only one there)"
    from accelerate.utils import PrepareForLaunch, patch_environment
    from torch.multiprocessing import start_processes
    with patch_environment(world_size=2, master_addr='127.0.0.1', master_port=port, accelerate_use_cpu='yes'):
        start_processes(PrepareForLaunch(_in_notebook, distributed_type='MULTI_GPU'), args=(city, out), nprocs=2, start_method='fork')

def _in_notebook(city, out):
    dls = ClipDataLoaders.from_cityscapes(city, dilation=[-1], size=(32, 64), bs=2, aug='none', num_workers=0, seed=0)
    learn = clip_learner(dls, 'mit_b0', **tiny)
    with learn.distrib_ctx(in_notebook=True), learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    Path(out, f'{rank_distrib()}_of_{num_distrib()}').write_text(str(len(learn.recorder.losses)))

def test_from_a_notebook(city, tmp_path):
    finish([Program(from_notebook, city, tmp_path, str(free_port()), log=tmp_path/'log')])
    assert {p.name: p.read_text() for p in tmp_path.glob('*_of_*')} == {'0_of_2': '5', '1_of_2': '5'}

def test_accelerate_launch(city, tmp_path):
    "The command of the tutorial, with two processes on the processor"
    import subprocess, sys
    (tmp_path/'train.py').write_text("""
import sys
from fastai.torch_core import num_distrib, rank_distrib
from pathlib import Path
from segvid.all import *
if __name__ == '__main__':
    dls = ClipDataLoaders.from_cityscapes(sys.argv[1], dilation=[-1], size=(32, 64), bs=2, aug='none', num_workers=0, seed=0)
    set_seed(0)
    learn = clip_learner(dls, 'mit_b0', embed_dim=16, depth=2, window=4, shift=2)
    with learn.distrib_ctx(), learn.no_bar(): learn.fine_tune(1, 1e-3)
    Path(f'{rank_distrib()}_of_{num_distrib()}').write_text(str(sum(p.double().sum().item() for p in learn.model.parameters())))
""")
    env = os.environ | dict(ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--main_process_port', str(free_port()), 'train.py', str(city)],
                          cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    a, b = ((tmp_path/f'{rank}_of_2').read_text() for rank in range(2))
    assert a == b and sum(line.startswith('[0, ') for line in done.stdout.splitlines()) == 1            # one model, one table
