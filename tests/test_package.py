"The house: one place for facts, exports in sync, imports that need nothing special."
import json, shutil, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import entry_points, metadata, requires, version
from pathlib import Path
import pytest
from packaging.requirements import Requirement
try: import tomllib
except ImportError: tomllib = pytest.importorskip('tomli')

top = Path(__file__).parent.parent
config = ConfigParser(delimiters=['='], interpolation=None); config.read(top/'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
pyproject = tomllib.loads((top/'pyproject.toml').read_text())
lines = lambda key: [l.strip() for l in settings.get(key, '').splitlines() if l.strip()]
same = lambda a, b: {str(Requirement(x)) for x in a} == {str(Requirement(x)) for x in b}

def test_metadata_agrees_with_settings():
    assert version('segvid') == settings['version']
    assert metadata('segvid')['Summary'] == settings['description']
    assert metadata('segvid')['Requires-Python'] == '>=' + settings['min_python'] == pyproject['project']['requires-python']
    assert metadata('segvid')['Name'] == settings['lib_name'] == pyproject['project']['name']
    assert set(pyproject['project']['dynamic']) >= {'version', 'description', 'dependencies', 'optional-dependencies', 'scripts'}

def test_requirements_agree_with_settings():
    found = [Requirement(r) for r in requires('segvid')]
    plain = [r for r in found if not r.marker]
    assert same([str(r) for r in plain], lines('requirements'))
    for extra in ('dev', 'cuda', 'mmengine', 'mmseg'):
        of_extra = []
        for r in found:
            if r.marker and r.marker.evaluate({'extra': extra}): r.marker = None; of_extra.append(str(r)); r.marker = Requirement(f'x; extra == "{extra}"').marker
        assert same(of_extra, lines(f'{extra}_requirements')), extra

def test_every_requirement_has_a_lower_bound():
    for key in ('requirements', 'dev_requirements', 'cuda_requirements', 'mmengine_requirements', 'mmseg_requirements'):
        for line in lines(key): assert any(s.operator in ('>=', '==') for s in Requirement(line).specifier), line

def test_console_scripts_exist_and_load():
    scripts = {e.name: e for e in entry_points(group='console_scripts') if e.dist and e.dist.name == 'segvid'}
    wanted = dict(l.split('=') for l in lines('console_scripts') + lines('dev_scripts'))
    assert {n: e.value for n, e in scripts.items()} == wanted
    for e in scripts.values(): assert callable(e.load())

def test_both_spellings_of_nbdev_test():
    folder = Path(sys.executable).parent
    assert (folder/'nbdev_test').exists() and (folder/'nbdev-test').exists()

def test_version_is_said_once():
    import segvid
    assert segvid.__version__ == settings['version']
    assert settings['version'] not in (top/'pyproject.toml').read_text() and settings['version'] not in (top/'setup.py').read_text()

def test_import_needs_nothing_special(tmp_path):
    "No CUDA, Triton, mamba-ssm, causal-conv1d, viewer packages or network"
    block = ('triton', 'mamba_ssm', 'causal_conv1d', 'anywidget', 'av', 'mmengine', 'mmseg', 'mmcv', 'transformers', 'cityscapesscripts', 'nbdev')
    program = f'''
import sys, socket
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {block}: raise ModuleNotFoundError('blocked: ' + name, name=name)
sys.meta_path.insert(0, Block())
def refuse(*a, **k): raise OSError('no network')
socket.socket.connect = refuse
import segvid, segvid.learner, timm
assert timm.is_model('mit_b1')
assert not [m for m in sys.modules if m.split('.')[0] in ('mamba_ssm', 'anywidget', 'transformers')]
'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', program], check=True, env={'CUDA_VISIBLE_DEVICES': '', 'HOME': str(tmp_path), 'PATH': ''})

def test_modules_are_what_the_notebooks_export(tmp_path):
    for name in ('nbs', 'segvid', 'pyproject.toml'):
        (shutil.copytree if (top/name).is_dir() else shutil.copy)(top/name, tmp_path/name)
    subprocess.run([Path(sys.executable).parent/'nbdev-export'], cwd=tmp_path, check=True, capture_output=True)
    for nb in sorted((top/'nbs').glob('[0-9]*.ipynb')):
        file = f"{nb.stem.split('_', 1)[1]}.py"
        assert (tmp_path/'segvid'/file).read_text() == (top/'segvid'/file).read_text(), f'{nb.name}: run make export'

def test_notebooks_are_clean_and_light():
    for nb in (top/'nbs').rglob('*.ipynb'):
        if '.ipynb_checkpoints' in nb.parts: continue
        assert nb.stat().st_size < 1_500_000, nb.name
        cells = json.loads(nb.read_text())['cells']
        assert all(c.get('execution_count') is None and not c['metadata'] for c in cells if c['cell_type'] == 'code'), f'{nb.name}: run make export'
        text = json.dumps([c.get('outputs', []) for c in cells])
        assert '/home/' not in text and '/root/' not in text and '"name": "stderr"' not in text, nb.name

def test_all_has_every_promised_name():
    import segvid.all as everything
    promised = """LabelSet cityscapes_labels camvid_labels vspw_labels organize_frames check_dataset FrameIndex ClipDataset make_toycity ClipDataLoaders
        ClipBlock ClipMaskBlock MixVisionTransformer mit_b0 mit_b5 selective_scan scan_backend MambaBlock TV3SHead HeadState VideoSegmenter video_segmenter
        load_published ClipLoss MeanIoU VideoConsistency clip_learner ClipViewer segvid_bench load_learner Learner""".split()
    assert [n for n in promised if not hasattr(everything, n)] == []

def test_no_two_modules_claim_a_name_in_all():
    from importlib import import_module
    owners = {}
    for line in (top/'segvid'/'all.py').read_text().splitlines():
        if line.startswith('from segvid.') and line.endswith('import *'):
            name = line.split()[1]
            for n in import_module(name).__all__: owners.setdefault(n, []).append(name)
    assert {n: o for n, o in owners.items() if len(o) > 1} == {}
