"The command line from the outside: files it leaves, exit status, JSON on standard output, options from a file."
import json, os, subprocess, sys
from importlib.metadata import entry_points
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from several import script
from segvid.augment import ClipDataLoaders
from segvid.cli import find_loaders, merge_options, open_model, read_options, segvid_eval, segvid_train, to_toml
from segvid.learner import load_model
from segvid.toycity import make_toycity

tiny = dict(encoder='mit_b0', embed_dim=16, depth=2, window=4, size=[32, 64], bs=4, num_workers=0, seed=0, aug='none', device='cpu', quiet=True)

@pytest.fixture(scope='module')
def city(tmp_path_factory): return make_toycity(tmp_path_factory.mktemp('data')/'city', sequences=3, frames=8, size=(32, 64), val=1)

@pytest.fixture(scope='module')
def run(city, tmp_path_factory):
    "A training of one epoch"
    out = tmp_path_factory.mktemp('run')/'new'/'folder'
    assert segvid_train(data=str(city), out=str(out), epochs=1, lr=1e-3, dilation=[-2, -1], dtype='float16', **tiny) == 0
    return out

def shell(name, *args, cwd=None):
    code = f'import sys; from segvid.cli import {name}; sys.exit({name}())'
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=dict(os.environ, COLUMNS='100', OMP_NUM_THREADS='1'))

def test_training_leaves_everything(run, city):
    assert sorted(p.name for p in run.iterdir()) == ['checkpoints', 'config.toml', 'history.csv', 'model.safetensors', 'scores.json']
    options = read_options(run/'config.toml')
    assert options['data'] == str(city) and options['size'] == [32, 64] and 'json' not in options
    scores, history = json.loads((run/'scores.json').read_text()), pd.read_csv(run/'history.csv')
    assert scores['streamed']['frames'] == scores['clipwise']['frames'] == 8 and len(history) == 1
    assert history.mIoU[0] == pytest.approx(scores['clipwise']['mIoU'], abs=5e-3)              # the file's numbers have 16 bits
    model = load_model(run/'model.safetensors', 'cpu')
    assert (model.size, model.dilation, model.labels.name) == ((32, 64), [-2, -1], 'cityscapes')

def test_train_and_eval_in_a_shell(city, tmp_path):
    (tmp_path/'options.yaml').write_text('encoder: mit_b0\nembed_dim: 16\ndepth: 1\nwindow: 4\nsize: [32, 64]\nepochs: 5\nnum_workers: 0\n')
    done = shell('segvid_train', '--config', 'options.yaml', '--data', city, '--epochs', 1, '--dilation', -1, '--out', 'r', '--device', 'cpu', '--seed', 3, '--json', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)                                                           # nothing else is on standard output
    assert answer['options']['epochs'] == 1 and answer['options']['dilation'] == [-1] and 0 <= answer['streamed']['mIoU'] <= 1
    assert 'Warning' not in done.stderr
    done = shell('segvid_eval', '--learner', tmp_path/'r'/'model.safetensors', '--data', city, '--streamed', '--device', 'cpu', '--json', '--quiet')
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report['streamed']['mIoU'] == pytest.approx(answer['streamed']['mIoU'], abs=1e-6) and 'clipwise' not in report
    assert report['split'] == 'val' and report['streamed']['classes']['road']['IoU'] is not None

def test_eval_prints_a_table(run, city, capsys):
    assert segvid_eval(model=str(run/'model.safetensors'), data=str(city), split='all', per_class=True, device='cpu', quiet=True, out=str(run.parent/'s.json')) == 0
    text = capsys.readouterr().out
    for word in ('mIoU', 'boundary IoU', 'VC8', 'flicker', 'road', '24 labelled frames scored of 24 seen, streamed', 'clip by clip'): assert word in text
    assert json.loads((run.parent/'s.json').read_text())['split'] == 'all'

@pytest.mark.parametrize('how', ['steady', 'smooth'])
def test_calmer_streams_are_scored(run, city, tmp_path, how):
    "The option reaches the stream, and the stream alone"
    from segvid.clips import FrameIndex
    from segvid.evaluate import evaluate_model
    score = lambda name, **more: segvid_eval(model=str(run/'model.safetensors'), data=str(city), device='cpu', quiet=True, out=str(tmp_path/name), **more)
    assert score('plain.json') == score('calm.json', **{how: .6}) == 0
    plain, calm = (json.loads((tmp_path/f'{name}.json').read_text()) for name in ('plain', 'calm'))
    assert calm['streamed']['flicker'] < plain['streamed']['flicker'] and calm['clipwise']['flicker'] == plain['clipwise']['flicker']
    model = load_model(run/'model.safetensors', 'cpu')
    setattr(model, how, .6)
    assert evaluate_model(model, FrameIndex(city, 'val'), progress=False).mIoU == pytest.approx(calm['streamed']['mIoU'], abs=1e-6)

def test_unusable_files_give_status_one(run, city, tmp_path):
    import shutil
    shutil.copytree(city, tmp_path/'city'); next((tmp_path/'city'/'leftImg8bit').rglob('*.png')).with_name('holiday.png').write_bytes(b'no picture')
    assert segvid_eval(model=str(run/'model.safetensors'), data=str(tmp_path/'city'), streamed=True, device='cpu', quiet=True) == 1

@pytest.mark.parametrize('args,words', [
    (['--data', 'nowhere'], 'nowhere'), ([], '--data is needed'), (['--config', 'none.toml'], 'there is no file of options'),
    (['--data', '.', '--layout', 'film'], "layout 'film' is unknown"), (['--epochs', 'many'], 'invalid int value'), (['--epoch_s', '3'], 'unrecognized arguments')])
def test_bad_options_are_status_two_and_one_line(args, words, tmp_path):
    done = script('segvid.cli', 'segvid_train', *args, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and 'Traceback' not in done.stderr and done.stdout == ''

def test_bad_model_files(run, city, tmp_path):
    (tmp_path/'m.safetensors').write_bytes(b'not a model')
    for file, words in ((tmp_path/'m.safetensors', 'is not a model file'), (tmp_path/'gone.safetensors', 'there is no model file')):
        done = script('segvid.cli', 'segvid_eval', '--model', file, '--data', city)
        assert done.returncode == 2 and words in done.stderr and 'Traceback' not in done.stderr

def test_a_pickle_is_not_read_unasked(tmp_path, city):
    class Trap:
        def __reduce__(self): return (Path.touch, (tmp_path/'ran',))
    torch.save(Trap(), tmp_path/'l.pkl')
    done = script('segvid.cli', 'segvid_eval', '--learner', tmp_path/'l.pkl', '--data', city)
    assert done.returncode == 2 and '--trust' in done.stderr and not (tmp_path/'ran').exists()

def test_options_merge():
    func = segvid_train
    assert merge_options(func, dict(epochs=3, bf16=False), dict(epochs=5, bf16=True, lr=1))['epochs'] == 3
    assert merge_options(func, {}, dict(lr=1))['lr'] == 1.
    for bad, words in ((dict(epoch=1), 'did you mean epochs'), (dict(size=3), 'expected a list'), (dict(size=[1, 2, 3]), 'two numbers'),
                       (dict(epochs=True), 'whole number'), (dict(seed='x'), 'whole number'), (dict(encoder=3), 'expected text'), (dict(bf16='yes'), 'true or false')):
        with pytest.raises(ValueError, match=words): merge_options(func, {}, bad)

@pytest.mark.parametrize('suffix', ['.toml', '.json', '.yaml'])
def test_option_files(tmp_path, suffix):
    options = dict(data='C:\\data "x" ü', epochs=3, lr=2e-5, bf16=True, size=[32, 64])
    text = to_toml(options) if suffix == '.toml' else json.dumps(options)
    (tmp_path/f'o{suffix}').write_text(text, encoding='utf-8')
    assert read_options(tmp_path/f'o{suffix}') == options

def test_yaml_runs_no_code(tmp_path):
    (tmp_path/'o.yaml').write_text('data: !!python/object/apply:os.system ["touch ran"]')
    with pytest.raises(ValueError, match='o.yaml'): read_options(tmp_path/'o.yaml')

def test_a_mmsegmentation_config_is_passed_on(monkeypatch, tmp_path):
    import types
    seen, fake = {}, types.ModuleType('segvid.mmseg')
    def learner_from_config(config, **options): seen.update(options, config=config); raise ValueError('far enough')
    fake.learner_from_config = learner_from_config
    monkeypatch.setitem(sys.modules, 'segvid.mmseg', fake)
    with pytest.raises(ValueError, match='far enough'): segvid_train(config='local_configs/tv3s.py', data='d', size=[32, 64], out=str(tmp_path))
    assert seen == dict(config='local_configs/tv3s.py', data='d', size=[32, 64])

@pytest.mark.skipif(not hasattr(ClipDataLoaders, 'from_camvid'), reason='no CamVid loaders')
def test_camvid_is_found_trained_and_scored(tmp_path):
    rng = np.random.default_rng(0)
    for split, frames in (('train', range(30, 300, 30)), ('val', range(500, 516, 2)), ('test', range(900, 1020, 30))):
        for kind in (split, f'{split}annot'): (tmp_path/'camvid'/kind).mkdir(parents=True)
        for n in frames:
            name = f"{dict(train='0001TP', val='0016E5', test='Seq05VD')[split]}_{n:06d}.png" if split != 'test' else f'Seq05VD_f{n:05d}.png'
            Image.fromarray(rng.integers(0, 255, (36, 48, 3), dtype=np.uint8)).save(tmp_path/'camvid'/split/name)
            Image.fromarray(rng.integers(0, 12, (36, 48), dtype=np.uint8)).save(tmp_path/'camvid'/f'{split}annot'/name)
    options = tiny | dict(size=[32, 48])
    assert segvid_train(data=str(tmp_path/'camvid'), out=str(tmp_path/'r'), epochs=1, **options) == 0
    model = open_model(tmp_path/'r'/'model.safetensors', 'cpu')
    assert model.num_classes == 11 and model.labels.name == 'camvid'
    import shutil
    for split in ('train', 'val'):                                                              # data not seen before: the test split alone
        for kind in (split, f'{split}annot'): shutil.rmtree(tmp_path/'camvid'/kind)
    assert segvid_eval(learner=str(tmp_path/'r'/'model.safetensors'), data=str(tmp_path/'camvid'), device='cpu', quiet=True, out=str(tmp_path/'s.json')) == 0
    report = json.loads((tmp_path/'s.json').read_text())
    assert report['split'] == 'test' and report['streamed']['frames'] == report['clipwise']['frames'] == 4

def test_masks_for_the_server_are_accepted(run, city, tmp_path):
    "Cityscapes' own evaluator reads our files beside labels in raw ids, and counts what we count"
    scripts = pytest.importorskip('cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling')
    from segvid.labels import cityscapes_labels
    from segvid.clips import FrameIndex
    assert segvid_eval(model=str(run/'model.safetensors'), data=str(city), streamed=True, masks=str(tmp_path/'masks'), out=str(tmp_path/'s.json'), device='cpu', quiet=True) == 0
    pairs = []
    for record in FrameIndex(city, 'val').labelled:
        truth = tmp_path/f'{record.name}_gtFine_labelIds.png'
        Image.fromarray(cityscapes_labels.decode(np.array(Image.open(record.label)))).save(truth)
        pairs.append((str(tmp_path/'masks'/f'{Path(record.path).stem}.png'), str(truth)))
    scripts.args.quiet, scripts.args.evalInstLevelScore, scripts.args.JSONOutput = True, False, False
    results = scripts.evaluateImgLists([p for p, _ in pairs], [t for _, t in pairs], scripts.args)
    ours = json.loads((tmp_path/'s.json').read_text())['streamed']
    for name, row in ours['classes'].items():
        if row['IoU'] is not None: assert results['classScores'][name] == pytest.approx(row['IoU'], abs=1e-6)

def test_every_script_has_help_with_examples():
    for entry in entry_points(group='console_scripts'):
        if entry.dist is None or entry.dist.name != 'segvid' or not entry.name.startswith('segvid_'): continue
        done = script(*entry.value.split(':'), '--help')
        assert done.returncode == 0 and done.stderr == '', (entry.name, done.stderr)
        assert f'usage: {entry.name}' in done.stdout and 'Example' in done.stdout and f'  {entry.name}' in done.stdout, entry.name

@pytest.mark.parametrize('module,name', [('cli', 'segvid_train'), ('cli', 'segvid_eval'), ('stream', 'segvid_predict'), ('demo', 'segvid_demo')])
def test_a_size_is_two_numbers_or_one_word(module, name, monkeypatch):
    "--size 32 64, --size 32x64 and --size=32x64 are the same everywhere; three numbers are none"
    import importlib
    from segvid.organize import run_command
    command, seen = getattr(importlib.import_module(f'segvid.{module}'), name), []
    spy = command.__wrapped__
    def note(size=None): seen.append(size)
    note.__annotations__['size'], note.__name__ = spy.__annotations__['size'], name
    for words in (['32', '64'], ['32x64']): assert run_command(note, ['--size', *words]) == 0
    assert run_command(note, ['--size=32x64']) == 0 and seen == [[32, 64]]*3
    for words in (['32'], ['32x64x3'], ['x64']):
        with pytest.raises(SystemExit) as stop: run_command(note, ['--size', *words])
        assert stop.value.code == 2
