"README.md and nbs/index.ipynb say the same; what they name exists."
import json, re
from pathlib import Path

top = Path(__file__).parent.parent
readme = (top/'README.md').read_text()

def index_text():
    "The index notebook as Markdown: code cells become fences, directives fall away"
    parts = []
    for cell in json.loads((top/'nbs'/'index.ipynb').read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        else: parts.append('```python\n' + '\n'.join(l for l in source.splitlines() if not l.startswith('#|')).strip() + '\n```')
    return '\n\n'.join(parts)

def test_index_is_the_readme():
    squeeze = lambda text: [l.strip() for l in text.splitlines() if l.strip()]
    assert squeeze(index_text()) == squeeze(readme.replace('nbs/', ''))

def test_every_link_leads_somewhere():
    links = re.findall(r'\]\((?!http)([^)]+)\)', readme)
    assert links and [l for l in links if not (top/l).exists()] == []

def test_every_room_is_in_the_table():
    for nb in (top/'nbs').glob('[0-9]*.ipynb'): assert f'](nbs/{nb.name})' in readme, nb.name

def test_names_in_the_ten_lines_exist():
    import ast
    import segvid.all as everything
    code = re.search(r'```python\n(.*?)```', readme, re.S)[1]
    names = {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - {'print', 'sorted', 'dls', 'learn'}
    assert [n for n in names if not hasattr(everything, n)] == []
    for called in re.findall(r'learn\.(\w+)', code): assert hasattr(everything.ClipLearner, called), called

def test_make_targets_exist():
    makefile = (top/'Makefile').read_text()
    for target in set(re.findall(r'make (demo|test|lab|help|export)', readme)): assert re.search(rf'^{target}:', makefile, re.M), target

def test_nothing_points_at_one_machine():
    for file in [*top.glob('*.md'), top/'settings.ini', top/'Makefile', *(top/'nbs').rglob('*.ipynb'), *(top/'segvid').rglob('*.py')]:
        if '.ipynb_checkpoints' in file.parts: continue
        text = file.read_text()
        assert not re.search(r'/work/|/root/|/home/\w', text), file.name
