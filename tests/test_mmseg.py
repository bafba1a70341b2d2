"Configs without MMEngine: reading, accounting, learner; parts as plain PyTorch; checkpoints."
import copy, json, math, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from segvid.mmseg import (EncoderDecoder_clips, TV3SHead_shift_city, config_leaves, evaluate, from_config, learner_from_config, make_optimizer, merge_config,
                          mmengine_rates, param_groups, read_config)
from segvid.segmenter import load_published, read_state, video_segmenter
from segvid.toycity import make_toycity

configs = Path(__file__).parent.parent/'local_configs'
files = sorted(p.relative_to(configs) for p in configs.glob('*/*.py') if '_base_' not in p.parts)
tiny = dict(embed_dim=16, depth=1, window=4, shift=2)

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('city')/'city', sequences=3, frames=6, size=(32, 64), val=1)

def small(city, **more):
    return dict(data_root=city, dilation=[-1], crop_size=(32, 64), samples_per_gpu=2, workers_per_gpu=0, pretrained=None, seed=0, max_iters=4, val_interval=2, warmup=2, **tiny) | more

# ---- files
def test_the_promised_files_are_there():
    assert {str(f) for f in files} >= {'segformer/segformer_cityscapes_video.py', *(f'tv3s/tv3s_b{b}_{d}.py' for b in (0, 1, 2, 5) for d in ('cityscapes', 'vspw'))}

@pytest.mark.parametrize('file', files, ids=str)
def test_every_file_translates_with_every_key_accounted_for(file):
    plan = from_config(configs/file)
    assert set(plan.fates) == set(config_leaves(read_config(configs/file)))
    assert 'unknown here' not in plan.unused() and not plan.notes

def test_published_settings():
    "The recipe as the paper and the published files have it"
    for b in (0, 1, 2, 5):
        for data, K, size, form in (('cityscapes', 19, (512, 1024), 'cityscapes'), ('vspw', 124, (480, 480), 'vspw')):
            p = from_config(configs/f'tv3s/tv3s_b{b}_{data}.py')
            assert (p.model['encoder'], p.model['num_classes'], p.model['head_options'], p.loss['form']) == (f'mit_b{b}', K, {}, form)
            assert (p.augmentation['size'], p.augmentation['ratio'], p.augmentation['max_share'], p.augmentation['flip']) == (size, (.5, 2.), .75, .5)
            assert (p.optimizer['type'], p.optimizer['lr'], p.optimizer['betas'], p.optimizer['weight_decay']) == ('AdamW', 6e-5, (.9, .999), .01)
            assert (p.data['dilation'], p.run['steps'], p.weights['pretrained']) == ([-9, -6, -3], 160_000, f'pretrained/mit_b{b}.pth')
    p = from_config(configs/'segformer/segformer_cityscapes_video.py')
    assert (p.run['epochs'], p.data['bs'], p.model['encoder']) == (160, 1, 'mit_b0')

def test_the_published_vocabulary_is_at_the_top_of_the_file():
    found = read_config(configs/'segformer/segformer_cityscapes_video.py')
    assert (found['dilation'], found['samples_per_gpu'], found['max_epochs'], found['crop_size'], found['data_root']) == ([-9, -6, -3], 1, 160, (512, 1024), 'dataset')

@pytest.mark.parametrize('file', ['segformer/segformer_cityscapes_video.py', 'tv3s/tv3s_b0_cityscapes.py'])
def test_used_means_that_it_matters(file):
    "Change any one value: the plan changes (or refuses) if and only if the value is called used"
    def other(v):
        if isinstance(v, bool): return not v
        if isinstance(v, (int, float)): return v + 1
        if isinstance(v, str): return v + '_other'
        return [*v, 7] if isinstance(v, (list, tuple)) else {'other': 1} if isinstance(v, dict) else 'other'
    config, wrong = read_config(configs/file), []
    before = from_config(config)
    for path, fate in before.fates.items():
        changed = copy.deepcopy(config)
        place = changed
        for key in path[:-1]: place = place[key]
        place[path[-1]] = other(place[path[-1]])
        try: same = from_config(changed) == before
        except (ValueError, TypeError, KeyError): same = False
        if same == (fate == 'used'): wrong.append((path, fate))
    assert not wrong

def test_a_mixed_file_with_imports_is_read_and_not_run(tmp_path):
    "The video file that people have is a mixture of both styles, and imports things"
    (tmp_path/'video.py').write_text(f'''
_base_ = [{str(configs/'_base_'/'models'/'tv3s_mit.py')!r}]
import sys
try:
    from TV3S.utils.datasets.cityscapes import CityscapesDataset_clips
except ImportError as e:
    open({str(tmp_path/'owned')!r}, 'w')
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(pretrained=None,
    backbone=dict(_delete_=True, type='MixVisionTransformer', in_channels=3, embed_dims=32, num_stages=4, num_layers=[2, 2, 2, 2], num_heads=[1, 2, 5, 8], patch_sizes=[7, 3, 3, 3],
                  sr_ratios=[8, 4, 2, 1], out_indices=(0, 1, 2, 3), mlp_ratio=4, qkv_bias=True, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.1,
                  init_cfg=dict(type='Pretrained', checkpoint='mit_b0.pth')),
    decode_head=dict(_delete_=True, type='TV3SHead_shift_city', in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3], channels=256, dropout_ratio=0.1, num_classes=19,
                     norm_cfg=norm_cfg, align_corners=False, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))
crop_size = (1024, 1024)
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop_clips', crop_size=crop_size, cat_max_ratio=0.75), dict(type='RandomFlip_clips', prob=0.5), dict(type='PhotoMetricDistortion_clips'), dict(type='PackSegInputs')]
data = dict(samples_per_gpu=1, workers_per_gpu=2, train=dict(type='CityscapesDataset_clips', data_root='dataset', img_dir='leftImg8bit/train', ann_dir='gtFine/train',
            pipeline=pipeline, dilation=[-9, -6, -3], istraining=True, mamba_mode=False))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=160, val_interval=10)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.00006, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500)]
my_idea = 3
''')
    plan = from_config(tmp_path/'video.py')
    assert (plan.model['encoder'], plan.model['head_options'], plan.augmentation['size'], plan.augmentation['reference'], plan.run['epochs']) == ('mit_b0', {}, (1024, 1024), (1024, 2048), 160)
    assert plan.weights['pretrained'] == 'mit_b0.pth' and plan.unused()['unknown here'] == ['my_idea']
    assert len(plan.notes) == 2 and 'import sys' in plan.notes[0] and not (tmp_path/'owned').exists()

@pytest.mark.parametrize('text', ['__import__("os").system("true")', 'open("x")', '(lambda: 1)()', '[x for x in (1, 2)]', 'dict.__class__', '"a".format(1)', 'exec("1")', 'a := 3'])
def test_nothing_runs(text, tmp_path):
    (tmp_path/'c.py').write_text(f'a = ({text})')
    with pytest.raises((ValueError, NameError, TypeError)): read_config(tmp_path/'c.py')

@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
                    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3) | st.tuples(v, v), max_leaves=10))
def test_literals_are_read_as_python_reads_them(value):
    import ast
    assert evaluate(ast.parse(repr(value), mode='eval').body, {}) == value

# ---- learner
def test_optimizer_groups(city):
    "Every parameter has the rate and decay that the words of the file give it"
    plan = from_config(configs/'tv3s/tv3s_b0_cityscapes.py')
    model = video_segmenter('mit_b0', **tiny)
    opt = make_optimizer(model, plan.optimizer, plan.paramwise)
    of = {id(p): (g['lr'], g['weight_decay']) for g in opt.param_groups for p in g['params']}
    for name, p in model.named_parameters():
        head, norm = name.startswith('head.'), 'norm' in name
        assert of[id(p)] == pytest.approx((6e-4 if head else 6e-5, 0. if norm and not head else .01), rel=1e-12), name
    assert len(of) == len(list(model.parameters()))

def test_learner_steps_are_those_of_torch(city):
    "Three steps of fit_config against three steps written down plainly"
    learn = learner_from_config(configs/'tv3s/tv3s_b0_cityscapes.py', device='cpu', quiet=True, **small(city, max_iters=3, val_interval=3, drop_path_rate=0., drop_path=0., dropout=0., aug='none'))
    model = copy.deepcopy(learn.model).train()
    batches = []
    from fastai.callback.core import Callback
    class Keep(Callback):
        def before_batch(self):
            if self.training: batches.append((self.x.clone(), self.y.clone()))
    with learn.no_bar(): learn.fit_config(cbs=[Keep()])
    groups = {True: [], False: []}
    named = {False: [], True: []}
    for n, p in model.named_parameters(): named[n.startswith('head.')].append((n, p))
    opt = torch.optim.AdamW([dict(params=[p for n, p in named[False] if 'norm' in n], weight_decay=0.), dict(params=[p for n, p in named[False] if 'norm' not in n]),
                             dict(params=[p for n, p in named[True]], lr=6e-4)], lr=6e-5, betas=(.9, .999), weight_decay=.01)
    base = [g['lr'] for g in opt.param_groups]
    for i, (x, y) in enumerate(batches):
        for g, lr in zip(opt.param_groups, base): g['lr'] = lr*min(1, 1e-6 + (1 - 1e-6)*i/2)*(1 - i/3)
        opt.zero_grad(); learn.loss_func(model(x), y).backward(); opt.step()
    assert len(batches) == 3
    for (n, a), b in zip(model.named_parameters(), learn.model.parameters()): assert torch.allclose(a, b, atol=1e-7), n

def test_schedule_against_torch():
    "Warm-up times polynomial, at 20 points, against torch's own two schedulers"
    steps, warmup = 4000, 1500
    plan = from_config(configs/'tv3s/tv3s_b1_cityscapes.py', max_iters=steps)
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=6e-5)
    both = [torch.optim.lr_scheduler.LinearLR(opt, start_factor=1e-6, total_iters=warmup), torch.optim.lr_scheduler.PolynomialLR(opt, total_iters=steps, power=1.)]
    want = []
    for _ in range(steps):
        want.append(opt.param_groups[0]['lr']); opt.step()
        for s in both: s.step()
    at = np.linspace(0, steps - 1, 20).astype(int)
    assert np.allclose(plan.rates(6e-5)[at], np.array(want)[at], rtol=1e-8)
    assert np.allclose(mmengine_rates(6e-5, steps, plan.to_config()['param_scheduler'])[at], np.array(want)[at], rtol=1e-8)

def test_fit_config_length_validation_and_going_on(city):
    learn = learner_from_config(configs/'tv3s/tv3s_b0_cityscapes.py', device='cpu', quiet=True, **small(city, max_iters=5))
    with learn.no_bar(): schedule = learn.fit_config()
    assert len(schedule.used) == 5 and len(learn.recorder.values) == 3              # 2 + 2 + 1 steps
    with learn.no_bar(): schedule = learn.fit_config(start_epoch=2)
    assert len(schedule.used) == 1 and np.allclose(schedule.used[0], [r[4] for r in schedule.rates])

def test_epochs_and_their_validations(city):
    learn = learner_from_config(configs/'segformer/segformer_cityscapes_video.py', device='cpu', quiet=True, **{k: v for k, v in small(city, max_epochs=3, val_interval=2).items() if k not in ('max_iters', 'warmup')})
    seen = []
    from fastai.callback.core import Callback
    class Seen(Callback):
        def after_batch(self):
            if not self.training and self.epoch not in seen: seen.append(self.epoch)
    with learn.no_bar(): schedule = learn.fit_config(cbs=[Seen()])
    assert seen == [1, 2] and len(schedule.used) == 3*len(learn.dls.train)

def test_validation_frames_may_have_another_size(city):
    learn = learner_from_config(configs/'tv3s/tv3s_b0_cityscapes.py', device='cpu', quiet=True, **small(city), **{'data.val.pipeline.1.img_scale': (2048, 1024)})
    assert learn.dls.train.one_batch()[0].shape[-2:] == (32, 64) and learn.dls.valid.one_batch()[0].shape[-2:] == (64, 128) and tuple(learn.dls.size) == (64, 128)

def test_everything_else_of_a_learner_works(city, tmp_path):
    from segvid.learner import load_model
    learn = learner_from_config(configs/'tv3s/tv3s_b0_cityscapes.py', device='cpu', quiet=True, path=tmp_path, **small(city))
    with learn.no_bar(): learn.fine_tune(1, 1e-3); learn.fit(1)
    learn.freeze(); assert not any(p.requires_grad for n, p in learn.model.named_parameters() if n.startswith('encoder.') and 'norm' not in n)
    file = learn.save_model(tmp_path/'m')
    model = load_model(file, 'cpu')
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), learn.model.parameters()))

def test_weights_that_are_not_there_are_spoken_of(city, capsys):
    learner_from_config(configs/'tv3s/tv3s_b0_cityscapes.py', device='cpu', **{k: v for k, v in small(city).items() if k != 'pretrained'})
    said = capsys.readouterr().out
    assert 'pretrained/mit_b0.pth is not there' in said and 'values used' in said

def test_overrides_are_checked():
    with pytest.raises(ValueError, match='no word of a plan'): from_config(configs/'tv3s/tv3s_b0_vspw.py', learning_rate=1)
    plan = from_config(configs/'tv3s/tv3s_b0_vspw.py', crop_size=(96, 96), lr=1e-3, window=8)
    assert (plan.augmentation['reference'], plan.test_size, plan.optimizer['lr'], plan.model['head_options']) == ((96, 171), (96, 171), 1e-3, dict(window=8, shift=4))

# ---- parts, and what they save
def test_segmentor_agrees_with_the_segmenter_and_saves_published_names(tmp_path):
    head = dict(type='TV3SHead_shift_city', num_classes=5, channels=128, decoder_params=dict(embed_dim=16, window_w=4, window_h=4, shift_size=2, n_mambas=1))
    theirs = EncoderDecoder_clips(dict(type='mit_b0', style='pytorch'), head).eval()
    state = theirs.state_dict()
    assert all(k.startswith(('backbone.', 'decode_head.')) for k in state) and 'decode_head.vs.layers.0.mixer.A_log' in state
    torch.save(dict(meta={}, state_dict=state), tmp_path/'iter.pth')
    ours = video_segmenter('mit_b0', num_classes=5, **tiny).eval()
    report = load_published(ours, tmp_path/'iter.pth')
    assert (report.kind, report.missing, report.left_over) == ('TV3S', [], [])
    clip = torch.randn(1, 2, 3, 32, 64)
    with torch.no_grad(): assert torch.equal(ours(clip), theirs(clip))
    theirs.load_state_dict(state)                                                   # and back into itself
    published = dict(state, **{'decode_head.conv_seg.weight': torch.zeros(5, 128, 1, 1), 'decode_head.conv_seg.bias': torch.zeros(5)})
    theirs.load_state_dict(published)                                               # a file of the published code fits as well

def test_importing_needs_no_mmengine():
    program = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmcv', 'mmseg', 'cv2'): raise ModuleNotFoundError('blocked: ' + name, name=name)
sys.meta_path.insert(0, Block())
from segvid.mmseg import from_config, TV3SHead_shift_city, register_parts
from_config(sys.argv[1])
try: register_parts()
except ModuleNotFoundError as error: assert "segvid[mmengine]" in str(error)
else: raise SystemExit(3)
'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', program, str(configs/'tv3s/tv3s_b1_vspw.py')], check=True)
