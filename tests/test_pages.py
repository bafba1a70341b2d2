"The site's pages, the tutorials' promises, and nbdev's own preparation for Quarto."
import importlib.util, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest

top = Path(__file__).parent.parent
walks = sorted((top/'nbs'/'tutorials').glob('*.ipynb'))
text_of = lambda cell: ''.join(cell['source'])

@pytest.fixture(scope='module')
def build():
    "docs/build.py as a module"
    spec = importlib.util.spec_from_file_location('build_site', top/'docs'/'build.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_formulas_and_code(build):
    pytest.importorskip('latex2mathml', reason="pip install 'segvid[docs]'")
    found = build.with_math('cost $x$ and `$y$` and 3 $ or 4 $, then $$a = b$$ and\n```\n$z$\n```')
    assert found.count('MATHML') == 2 and '`$y$`' in found and '\n$z$\n' in found and '3 $ or 4 $' in found

def test_links_between_notebooks(build):
    assert build.with_pages('[a](05_mit.ipynb) [b](../x.ipynb#part) [c](https://example.org/y.ipynb)') == '[a](05_mit.md) [b](../x.md#part) [c](https://example.org/y.ipynb)'

def test_outputs(build, tmp_path):
    out = build.Outputs(tmp_path/'page.md')
    assert 'done' in (text := out.show(dict(output_type='stream', text=['10 %\r50 %\rdone\n']))) and '50' not in text
    assert out.show(dict(output_type='display_data', data={'text/html': '<p>\n a</p>'})) == '<div class="output-html"><p>a</p></div>'
    assert 'iframe' in out.show(dict(output_type='display_data', data={'text/html': '<div></div><script>1</script>'}))
    assert (tmp_path/'page'/'01.html').exists()
    assert out.show(dict(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {}, 'text/plain': '0%'})) == ''

@pytest.mark.parametrize('file', walks, ids=lambda f: f.stem)
def test_a_tutorial_keeps_its_promises(file, build):
    nb = json.loads(file.read_text())
    first = text_of(nb['cells'][0])
    url = re.search(r'Repository = "https://github.com/(.*)"', (top/'pyproject.toml').read_text())[1]
    whole = '\n'.join(text_of(c) for c in nb['cells'])
    assert first.startswith('# ') and '\n> ' in first
    assert f'https://colab.research.google.com/github/{url}/blob/main/nbs/tutorials/{file.name}' in whole
    assert re.search(r'\*\*Run time:\*\* .*\d', whole), 'no run time'
    assert "SEGVID_FULL" in whole or 'same in every form' in whole
    assert file.stat().st_size < 1_500_000
    assert file.stem in build.tutorials
    assert f'tutorials/{file.name}' in (top/'nbs'/'sidebar.yml').read_text()
    assert '#| export' not in whole and 'default_exp' not in whole

def test_all_tutorials_are_there(build):
    assert sorted(build.tutorials) == [f.stem for f in walks]

def test_nbdev_prepares_the_quarto_site(tmp_path):
    "nbdev-proc-nbs on a copy; it only asks whether Quarto is installed, so an empty program answers"
    pytest.importorskip('nbdev')
    ignore = shutil.ignore_patterns('segvid_*', '.ipynb_checkpoints', 'nbdev.yml')
    shutil.copytree(top/'nbs', tmp_path/'nbs', ignore=ignore)
    shutil.copytree(top/'segvid', tmp_path/'segvid', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'settings.ini', 'setup.py', 'README.md'): shutil.copy(top/name, tmp_path/name)
    (stub := tmp_path/'bin'/'quarto').parent.mkdir()
    stub.write_text('#!/bin/sh\nexit 0\n'); stub.chmod(0o755)
    env = os.environ | dict(PATH=f'{stub.parent}:{Path(sys.executable).parent}:{os.environ["PATH"]}')
    done = subprocess.run(['nbdev-proc-nbs', '--n-workers', '1'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {f.relative_to(tmp_path/'_proc').as_posix() for f in (tmp_path/'_proc').rglob('*.ipynb')}
    assert made == {f.relative_to(tmp_path/'nbs').as_posix() for f in (tmp_path/'nbs').rglob('*.ipynb')}
    import yaml
    config = yaml.safe_load((tmp_path/'_proc'/'_quarto.yml').read_text())
    for name in config['metadata-files']: assert (tmp_path/'_proc'/name).exists(), name
    listed = yaml.safe_load((tmp_path/'_proc'/'sidebar.yml').read_text())['website']['sidebar']['contents']
    assert [f for part in listed if isinstance(part, dict) and isinstance(part['contents'], list) for f in part['contents'] if f not in made] == []
    lesson = json.loads((tmp_path/'_proc'/'06_scan.ipynb').read_text())
    assert any('def selective_scan_ref' in text_of(c) for c in lesson['cells'])              # the code is the lesson: it stays on the page
