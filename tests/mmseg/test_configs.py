"Our files in MMEngine's eyes: read alike, optimizer and schedule alike."
import json, os, subprocess, sys, venv
from pathlib import Path
import numpy as np, pytest, torch
from segvid.mmseg import from_config, make_optimizer, read_config
from segvid.segmenter import video_segmenter

here = Path(__file__).parent
files = sorted((here.parent.parent/'local_configs').glob('[a-z]*/*.py'))

def plain(v):
    if isinstance(v, dict): return {k: plain(w) for k, w in v.items()}
    return type(v)(plain(w) for w in v) if isinstance(v, (list, tuple)) else v

@pytest.mark.parametrize('file', files, ids=lambda f: f.stem)
def test_config_fromfile_reads_what_we_read(file):
    from mmengine import Config
    theirs = Config.fromfile(file)
    assert plain(theirs.to_dict()) == read_config(file)
    assert from_config(theirs) == from_config(file)

@pytest.mark.parametrize('wanted', ['mmengine-lite==0.10.7', 'mmengine-lite==0.11.0rc3'])
def test_the_original_reads_them_too(wanted, tmp_path):
    "In an environment of its own, since the original and the fork overwrite each other; segvid is not in it, so its import is left out. Needs a package index"
    if not os.environ.get('SEGVID_ORIGINALS'): pytest.skip('set SEGVID_ORIGINALS=1 (make test-mmseg does): installs the original MMEngine in two small environments')
    venv.create(tmp_path, with_pip=True)
    python = tmp_path/'bin'/'python'
    made = subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check', wanted, 'packaging', 'setuptools<81'], capture_output=True, text=True)
    if made.returncode: pytest.skip(f'{wanted} cannot be installed here: {made.stderr[-200:]}')
    program = "import sys, json; from mmengine import Config; print(json.dumps([Config.fromfile(f, import_custom_modules=False).to_dict() for f in sys.argv[1:]]))"
    theirs = json.loads(subprocess.run([python, '-W', 'ignore', '-c', program, *map(str, files)], check=True, capture_output=True, text=True).stdout)
    assert theirs == json.loads(json.dumps([read_config(f) for f in files]))

@pytest.mark.parametrize('file', files, ids=lambda f: f.stem)
def test_optimizer_is_what_mmengine_builds(file):
    "Rate and decay of every parameter, for a model with the published names"
    from mmengine.optim import build_optim_wrapper
    from segvid.mmseg import EncoderDecoder_clips
    plan = from_config(file, embed_dim=16, depth=1, window=4, shift=2, encoder='mit_b0')
    config = plan.to_config()
    theirs_model = EncoderDecoder_clips(**{k: v for k, v in config['model'].items() if k != 'type'})
    theirs = build_optim_wrapper(theirs_model, config['optim_wrapper'])
    want = {id(p): (g['lr'], g['weight_decay']) for g in theirs.optimizer.param_groups for p in g['params']}
    ours = make_optimizer(theirs_model.segmenter(), plan.optimizer, plan.paramwise)
    got = {id(p): (g['lr'], g['weight_decay']) for g in ours.param_groups for p in g['params']}
    assert got == want and type(ours) is type(theirs.optimizer) and ours.defaults['betas'] == theirs.optimizer.defaults['betas']

@pytest.mark.parametrize('file', [f for f in files if f.stem in ('tv3s_b1_cityscapes', 'segformer_cityscapes_video')], ids=lambda f: f.stem)
def test_schedule_is_what_mmengine_does(file):
    "Twenty points of 4000 steps"
    from mmengine.optim import OptimWrapper
    from mmengine.registry import PARAM_SCHEDULERS
    steps = 4000
    plan = from_config(file, max_iters=steps, **({'param_scheduler.1.end': steps} if 'video' in file.stem else {}))
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=6e-5)
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=opt)) for s in plan.to_config()['param_scheduler']]
    want = []
    for _ in range(steps):
        want.append(opt.param_groups[0]['lr'])
        for s in schedulers: s.step()
    at = np.linspace(0, steps - 1, 20).astype(int)
    assert np.allclose(plan.rates(6e-5)[at], np.array(want)[at], rtol=1e-9)
