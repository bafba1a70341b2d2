"MMEngine's Runner with our parts, alone and inside MMSegmentation; checkpoints; metrics."
import copy, importlib.util, os, subprocess, sys
from contextlib import nullcontext
from pathlib import Path
import numpy as np, pytest, torch
from segvid.mmseg import EncoderDecoder_clips, from_config, learner_from_config, parts, register_parts, runner_from_config
from segvid.segmenter import load_published, read_state, video_segmenter

needs_mmseg = pytest.mark.skipif(importlib.util.find_spec('mmseg') is None, reason='mmseg not installed: make test-mmseg')
head_words = dict(embed_dim=16, depth=1, window=4, shift=2)

def readable_again():
    "MMEngine 0.10.7 cannot read its own checkpoints on a newer PyTorch unless their names are allowed; later ones can"
    import mmengine
    if mmengine.__version__ != '0.10.7': return nullcontext()
    from mmengine.logging import HistoryBuffer
    core = np._core.multiarray
    return torch.serialization.safe_globals([HistoryBuffer, getattr, core._reconstruct, core.scalar, np.ndarray, np.dtype, *{type(np.dtype(k)) for k in 'fdlq'}])

def check_training(make, work_dir, words):
    "Train three iterations, validate, save, resume to five; returns the last runner"
    runner = make(work_dir, **words)
    runner.train()
    assert runner.iter == 3 and (work_dir/'iter_3.pth').exists()
    scores = runner.message_hub.get_scalar('val/mIoU').current()
    assert 0 <= scores <= 100
    on = make(work_dir, resume=True, **dict(words, max_iters=5, val_interval=5))
    with readable_again(): on.train()
    assert on.iter == 5 and (work_dir/'iter_5.pth').exists()
    first, last = read_state(work_dir/'iter_3.pth'), read_state(work_dir)           # the folder: its last checkpoint
    assert first.keys() == last.keys() and any(not torch.equal(first[k], last[k]) for k in first)
    return on

@pytest.mark.parametrize('file', ['tv3s/tv3s_b0_cityscapes.py', 'segformer/segformer_cityscapes_video.py'])
def test_toy_city(file, configs, small, tmp_path):
    words = dict(small) if 'tv3s_b' in file else {k: v for k, v in small.items() if k != 'warmup'}
    check_training(lambda work_dir, resume=False, **w: runner_from_config(configs/file, work_dir, resume, **w), tmp_path, words)

def test_the_file_itself_runs(configs, city, tmp_path):
    "segformer_cityscapes_video.py as it is, without any translation: MMEngine's Config and Runner alone"
    from mmengine import Config
    from mmengine.runner import Runner
    config = Config.fromfile(configs/'segformer'/'segformer_cityscapes_video.py')
    config.merge_from_dict({'train_dataloader.dataset.data_root': str(city), 'val_dataloader.dataset.data_root': str(city), 'work_dir': str(tmp_path), 'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1,
                            'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0, 'train_dataloader.dataset.dilation': [-2, -1], 'val_dataloader.dataset.dilation': [-2, -1],
                            'train_dataloader.batch_size': 4, 'default_hooks.checkpoint.interval': 1, 'model.decode_head.num_clips': 3,
                            'model.decode_head.decoder_params': dict(embed_dim=16, window_w=4, window_h=4, shift_size=2, n_mambas=1)})
    for loader in (config.train_dataloader, config.val_dataloader):
        for step in loader.dataset.pipeline:
            for key, value in dict(scale=(128, 64), crop_size=(32, 64)).items():
                if key in step: step[key] = value
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.epoch == 1 and (tmp_path/'epoch_1.pth').exists()
    assert load_published(video_segmenter('mit_b0', **head_words), tmp_path/'epoch_1.pth').missing == []

def test_real_frames(configs, small, tmp_path):
    shared = os.environ.get('SEGVID_SHARED')
    if not shared: pytest.skip('SEGVID_SHARED does not name the folder with real frames')
    from segvid.organize import organize_frames
    raw, data = Path(shared)/'data'/'cityscapes_raw', tmp_path/'data'
    few = tmp_path/'few'
    for file in [f for f in sorted(raw.rglob('*.*')) if any(f'_00000{s}_00000{n}' in f.name or f'_00000{s}_0000{n:02d}' in f.name for s in (0, 1) for n in range(5))]:
        (few/file.parent.name).mkdir(parents=True, exist_ok=True); (few/file.parent.name/file.name).symlink_to(file)
    organize_frames(few, data, val=.5)
    on = check_training(lambda work_dir, resume=False, **w: runner_from_config(configs/'tv3s'/'tv3s_b0_cityscapes.py', work_dir, resume, **w), tmp_path/'work', dict(small, data_root=data, crop_size=(64, 128)))
    assert len(on.val_dataloader.dataset) >= 5

def test_checkpoint_is_read_without_mmengine(configs, small, tmp_path):
    runner = runner_from_config(configs/'tv3s'/'tv3s_b0_cityscapes.py', tmp_path, **small)
    runner.train()
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path/'iter_3.pth')
    assert 'mmengine.logging.history_buffer.HistoryBuffer' in unsafe                # a real one
    program = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmcv', 'mmseg', 'cv2'): raise ModuleNotFoundError('blocked: ' + name, name=name)
sys.meta_path.insert(0, Block())
import torch
from segvid.segmenter import load_published, video_segmenter
model = video_segmenter('mit_b0', embed_dim=16, depth=1, window=4, shift=2)
report = load_published(model, sys.argv[1])
assert (report.kind, report.missing, report.left_over) == ('TV3S', [], []), report
torch.save(model.state_dict(), sys.argv[2])
assert not [m for m in sys.modules if m.startswith('mmengine')]
'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', program, str(tmp_path/'iter_3.pth'), str(tmp_path/'ours.pth')], check=True)
    ours, theirs = torch.load(tmp_path/'ours.pth', weights_only=True), runner.model.segmenter().state_dict()
    for name, value in video_segmenter('mit_b0', **head_words).state_dict().items():
        published = name.replace('head.mamba.', 'head.vs.')
        assert torch.equal(ours[name], theirs[published].cpu()), name

def test_both_engines_learn_the_same(configs, small, tmp_path):
    "Same weights, same clips, nothing random: the Runner's steps and the Learner's lead to the same weights"
    words = dict(small, aug='none', drop_path_rate=0., drop_path=0., dropout=0., bs=1)
    plan = from_config(configs/'tv3s'/'tv3s_b0_cityscapes.py', **words)
    runner = runner_from_config(configs/'tv3s'/'tv3s_b0_cityscapes.py', tmp_path, **words)
    learn = learner_from_config(configs/'tv3s'/'tv3s_b0_cityscapes.py', device='cpu', quiet=True, **words)
    load_published(learn.model, runner.model.state_dict())
    seen = []
    from fastai.callback.core import Callback
    class Keep(Callback):
        def before_batch(self):
            if self.training: seen.append((self.x.clone(), self.y.clone()))
    with learn.no_bar(): learn.fit_config(cbs=[Keep()])
    theirs = runner.model.train()
    wrapper = runner.build_optim_wrapper(plan.to_config()['optim_wrapper'])
    from mmengine.registry import PARAM_SCHEDULERS
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=wrapper)) for s in plan.to_config()['param_scheduler']]
    class AsTheyAre(torch.nn.Module):
        def forward(self, data, training=False): return data
    theirs.data_preprocessor = AsTheyAre()                                          # these clips are normalised already
    for x, y in seen:
        theirs.train_step(dict(inputs=x, masks=y), wrapper)
        for s in schedulers: s.step()
    want = learn.model.state_dict()
    for name, value in theirs.segmenter().state_dict().items():
        if value.is_floating_point(): assert torch.allclose(value, want[name.replace('head.vs.', 'head.mamba.')], atol=2e-5), name

def test_nothing_of_theirs_is_changed():
    "Names live in our scope; MMEngine's own registries and functions are as they were without us"
    program = '''
import json, sys
import mmengine.registry as r, mmengine.runner, mmengine.model, mmengine.optim
if 'mmseg' in sys.argv: import mmseg.models, mmseg.evaluation, mmseg.datasets
mods = [m for n, m in sys.modules.items() if n.split('.')[0] in ('mmengine', 'mmseg', 'mmcv')]
def picture():
    out = {}
    for m in mods:
        for k, v in vars(m).items():
            if not k.startswith('__'): out[m.__name__, k] = id(v)
            if isinstance(v, type) and v.__module__.split('.')[0] in ('mmengine', 'mmseg', 'mmcv'):
                for kk, vv in vars(v).items(): out[m.__name__, k, kk] = id(vv) if callable(vv) else None
    names = {k: sorted(v.module_dict) for k, v in vars(r).items() if isinstance(v, r.Registry)}
    return out, names
before = picture()
import segvid.mmseg
after = picture()
changed = [k for k in before[0] if before[0][k] != after[0].get(k) and '_abc_impl' not in k]
assert not changed, changed[:5]
assert before[1] == after[1]
assert 'segvid' in r.MODELS.children
'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', program, *(['mmseg'] if importlib.util.find_spec('mmseg') else [])], check=True)

def test_names_in_the_registries():
    from mmengine.registry import DATASETS, METRICS, MODELS, TRANSFORMS
    names = register_parts()
    assert {'segvid.TV3SHead_shift_city', 'segvid.EncoderDecoder_clips', 'segvid.mit_b1', 'segvid.MixVisionTransformer', 'segvid.CityscapesDataset_clips'} <= set(names)
    assert register_parts() == names
    for root, kind in ((MODELS, 'MODELS'), (DATASETS, 'DATASETS'), (METRICS, 'METRICS'), (TRANSFORMS, 'TRANSFORMS')):
        for name in parts[kind]: assert root.get(f'segvid.{name}') is not None, name
    model = MODELS.build(dict(type='segvid.EncoderDecoder_clips', backbone=dict(type='mit_b0'), decode_head=dict(type='TV3SHead_shift_city', decoder_params=dict(embed_dim=16, n_mambas=1, window_w=4, window_h=4, shift_size=2))))
    assert isinstance(model, EncoderDecoder_clips)
    assert MODELS.build(dict(type='segvid.mit_b1')).channels == [64, 128, 320, 512]

# ---- inside MMSegmentation
@needs_mmseg
def test_built_from_inside_mmseg(configs, small, tmp_path):
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules
    import segvid.mmseg
    register_all_modules(init_default_scope=True)                                    # the default scope is mmseg now
    head = dict(type='segvid.TV3SHead_shift_city', num_classes=19, in_channels=[32, 64, 160, 256], decoder_params=dict(embed_dim=16, n_mambas=1, window_w=4, window_h=4, shift_size=2))
    model = MODELS.build(dict(type='segvid.EncoderDecoder_clips', backbone=dict(type='segvid.mit_b0'), decode_head=head))
    assert isinstance(model, EncoderDecoder_clips)
    theirs = dict(type='mmseg.MixVisionTransformer', in_channels=3, embed_dims=32, num_stages=4, num_layers=[2, 2, 2, 2], num_heads=[1, 2, 5, 8], patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1])
    mixed = MODELS.build(dict(type='segvid.EncoderDecoder_clips', backbone=theirs, decode_head=head)).eval()   # their encoder under our head
    with torch.no_grad(): assert mixed(torch.randn(1, 3, 3, 64, 64)).shape == (1, 19, 64, 64)

@needs_mmseg
def test_trains_with_mmseg_default_scope_and_their_metric(configs, small, tmp_path):
    from mmengine import Config
    from mmengine.runner import Runner
    from mmseg.utils import register_all_modules
    register_all_modules(init_default_scope=False)
    config = from_config(configs/'tv3s'/'tv3s_b0_cityscapes.py', **small).to_config()
    config |= dict(default_scope='mmseg', val_evaluator=[dict(type='IoUMetric', iou_metrics=['mIoU'], prefix='theirs'), dict(type='segvid.IoUMetric_clips', prefix='ours')], work_dir=str(tmp_path))
    runner = Runner.from_cfg(Config(config))
    runner.train()
    hub = runner.message_hub
    ours, theirs = ({k: hub.get_scalar(f'val/{whose}/{k}').current() for k in ('aAcc', 'mIoU', 'mAcc')} for whose in ('ours', 'theirs'))
    assert theirs == pytest.approx(ours, abs=.006)                                  # theirs are rounded to two digits

@needs_mmseg
@pytest.mark.parametrize('seed', range(3))
def test_iou_agrees_on_the_same_predictions(seed):
    from mmseg.evaluation import IoUMetric
    from segvid.metrics import MeanIoU
    g = torch.Generator().manual_seed(seed)
    classes = tuple(map(str, range(5)))
    metric = IoUMetric(iou_metrics=['mIoU']); metric.dataset_meta = dict(classes=classes)
    ours = MeanIoU(5)
    for _ in range(3):
        truth = torch.randint(0, 4, (1, 20, 30), generator=g); truth[torch.rand(1, 20, 30, generator=g) < .1] = 255   # class 4 is only ever predicted
        pred = torch.where(torch.rand(1, 20, 30, generator=g) < .5, truth % 5, torch.randint(0, 5, (1, 20, 30), generator=g))
        metric.process(None, [dict(pred_sem_seg=dict(data=pred), gt_sem_seg=dict(data=truth))]); ours.update(pred, truth)
    theirs, s = metric.evaluate(3), ours.summary()
    assert theirs['mIoU'] == pytest.approx(100*s['mIoU'], abs=.006) and theirs['aAcc'] == pytest.approx(100*s['pixel_accuracy'], abs=.006)
    assert theirs['mAcc'] == pytest.approx(100*s['mean_accuracy'], abs=.006)

@needs_mmseg
@pytest.mark.parametrize('name, layers', [('mit_b0', [2, 2, 2, 2]), ('mit_b2', [3, 4, 6, 3])])
def test_features_of_their_encoder(name, layers, tmp_path):
    "float64, 1e-12: their weights in our encoder with their eps, and ours written for them"
    import timm
    from mmseg.models import MixVisionTransformer
    from segvid.mit import mit_options, set_mit_eps
    from segvid.segmenter import save_published
    torch.manual_seed(0)
    theirs = MixVisionTransformer(in_channels=3, embed_dims=mit_options[name]['embed_dims'][0], num_stages=4, num_layers=layers, num_heads=[1, 2, 5, 8], patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1]).double().eval()
    with torch.no_grad():
        for p in theirs.parameters(): p.add_(.1*torch.randn_like(p))
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in theirs.state_dict().items()}), tmp_path/'theirs.pth')
    ours = video_segmenter(name, **head_words).double().eval()
    report = load_published(ours, tmp_path/'theirs.pth', eps='mmseg')
    assert report.kind == 'MMSegmentation 1.x' and not report.left_over
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    gap = lambda: max((a - b).abs().max().item() for a, b in zip(ours.encoder(x), theirs(x)))
    with torch.no_grad():
        assert gap() < 1e-12
        set_mit_eps(ours, 'published'); assert 1e-7 < gap() < 1e-2                   # as published: near, not equal
    save_published(ours, tmp_path/'ours.pth', style='mmseg')
    back = torch.load(tmp_path/'ours.pth', weights_only=True)['state_dict']
    assert all(torch.equal(v, back[f'backbone.{k}']) for k, v in theirs.state_dict().items()) and len(back) == len(theirs.state_dict())
