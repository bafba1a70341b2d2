"""The documentation site, from the notebooks: `make docs` writes it to `_docs`.

Each notebook becomes a page of Markdown with its saved outputs as pictures, tables and text; MkDocs turns the pages into a site.
Nothing is executed, nothing is fetched: formulas become MathML here, animated viewers become pages of their own, and the site
needs no server of anybody else's when it is read."""
import argparse, ast, base64, json, os, re, shutil, subprocess, sys
from pathlib import Path

top = Path(__file__).resolve().parent.parent
pages, site = top/'build'/'pages', top/'_docs'

tutorials = ['quickstart', 'your_own_video', 'cityscapes', 'camvid', 'any_encoder', 'several_gpus', 'paper_to_code', 'troubleshooting']
kinds = {'image/png': 'png', 'image/jpeg': 'jpg', 'image/gif': 'gif', 'image/webp': 'webp', 'image/svg+xml': 'svg'}

def text_of(part): return ''.join(part) if isinstance(part, list) else part

def split_directives(source):
    "Directives (`#| export` and others) of a cell, and the rest of it"
    lines = source.split('\n')
    told = [l for l in lines if l.startswith('#|')]
    return {l[2:].strip().split(':')[0].split(' ')[0]: l[2:].strip() for l in told}, '\n'.join(l for l in lines if l not in told).strip('\n')

# ---- Markdown cells ----

def protect(source, patterns):
    "Text with everything that matches `patterns` replaced by tokens, and the dictionary that leads back"
    kept = {}
    def keep(match):
        kept[token := f'\x00{len(kept)}\x00'] = match[0]
        return token
    for pattern in patterns: source = re.sub(pattern, keep, source, flags=re.S | re.M)
    return source, kept

def with_math(source):
    "Formulas between $ and $$ as MathML, in tokens that Markdown leaves alone (`hooks.py` puts the formulas in)"
    from latex2mathml.converter import convert
    source, code = protect(source, [r'^```.*?^```', r'`[^`\n]+`'])
    def formula(tex, display):
        xml = convert(tex.strip(), display='block' if display else 'inline')
        return f'MATHML{base64.b32encode(xml.encode()).decode().rstrip("=")}0'
    source = re.sub(r'\$\$(.+?)\$\$', lambda m: f'\n\n{formula(m[1], True)}\n\n', source, flags=re.S)
    source = re.sub(r'(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?!\w)', lambda m: formula(m[1], False), source)
    for token, text in reversed(code.items()): source = source.replace(token, text)
    return source

def with_pages(source):
    "Links to notebooks lead to their pages"
    return re.sub(r'\]\((?!http)([^)#\s]+)\.ipynb(#[^)]*)?\)', lambda m: f']({m[1]}.md{m[2] or ""})', source)

# ---- outputs ----

class Outputs:
    "Writes the outputs of one notebook beside its page and returns the Markdown that shows them"
    def __init__(self, page): self.page, self.folder, self.count, self.heading = page, page.with_suffix(''), 0, page.stem

    def file(self, content, ending):
        "Write bytes under a new name; return the name as seen from the page"
        self.count += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f'{self.count:02d}.{ending}'
        (self.folder/name).write_bytes(content)
        return f'{self.folder.name}/{name}'

    def show(self, output):
        "Markdown for one output"
        if output['output_type'] == 'stream': return self.text(text_of(output['text']))
        data = {kind: text_of(part) if isinstance(part, (str, list)) else part for kind, part in output.get('data', {}).items()}
        for kind, ending in kinds.items():
            if kind in data:
                content = data[kind].encode() if ending == 'svg' else base64.b64decode(data[kind])
                return f'![{self.heading}: output of the cell above]({self.file(content, ending)}){{ .output }}'
        if 'application/vnd.jupyter.widget-view+json' in data: return ''          # a progress bar; our own widgets leave pictures
        if 'text/markdown' in data and 'fastprogress' not in data.get('text/html', ''): return with_pages(with_math(data['text/markdown']))
        if 'text/html' in data: return self.html(data['text/html'])
        return self.text(data.get('text/plain', ''))

    def html(self, source):
        "Small HTML (tables) goes into the page, anything with a script becomes a page of its own in a frame"
        if '<script' not in source:
            source = re.sub(r'<style.*?</style>', '', source, flags=re.S).strip()
            return source and '<div class="output-html">' + re.sub(r'\s*\n\s*', '', source) + '</div>'
        whole = ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Viewer</title>'
                 '<style>:root { color-scheme: light dark } body { margin: 0 }</style></head><body>' + source +
                 "<script>new ResizeObserver(() => parent.postMessage({ height: document.body.scrollHeight }, '*')).observe(document.body)</script></body></html>")
        return f'<iframe class="output-frame" src="{self.file(whole.encode(), "html")}" title="{self.heading}: an interactive viewer" loading="lazy"></iframe>'

    def text(self, source):
        "Printed text; progress bars' carriage returns leave only what was last on the line"
        source = '\n'.join(re.sub(r'.*\r(?=.)', '', l).rstrip() for l in re.sub(r'\x1b\[[0-9;]*[mK]', '', source).split('\n')).strip('\n')
        return f'````{{.text .output-text}}\n{source}\n````' if source.strip() else ''

# ---- pages ----

def code_block(source, directives, module):
    "A code cell; exported ones say which module they go to"
    title = f' title="segvid/{module}.py"' if 'export' in directives and module else ''
    return f'````{{.python{title}}}\n{source}\n````'

def convert_notebook(file, page):
    "One notebook as one page of Markdown"
    nb, parts, out = json.loads(file.read_text(encoding='utf-8')), [], Outputs(page)
    cells = [(cell, *split_directives(text_of(cell['source']))) for cell in nb['cells']]
    module = next((told['default_exp'].split()[-1] for _, told, _ in cells if 'default_exp' in told), None)
    for cell, told, source in cells:
        if 'hide' in told or 'default_exp' in told: continue
        if cell['cell_type'] == 'markdown':
            for line in re.findall(r'^#+ (.*)', source, re.M): out.heading = re.sub(r'[\[\]"`*]', '', line)
            parts.append(with_pages(with_math(source)))
        elif cell['cell_type'] == 'code':
            if source and told.get('echo') != 'echo: false': parts.append(code_block(source, told, module))
            parts += [out.show(o) for o in cell.get('outputs', [])]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text('\n\n'.join(filter(None, parts)) + '\n', encoding='utf-8')

def title_of(file):
    "First heading of a notebook"
    for cell in json.loads(file.read_text(encoding='utf-8'))['cells']:
        if found := re.search(r'^# (.*)', text_of(cell['source']), re.M): return found[1].strip()
    return file.stem

def public_names(module):
    "Name and first line of the docstring of what a module of segvid offers, without importing it"
    tree = ast.parse(module.read_text(encoding='utf-8'))
    listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__'), [])
    defined = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return [(name, (ast.get_docstring(defined[name]) or '').split('\n')[0] if name in defined else '') for name in listed]

def names_page(rooms):
    "All public names, with the page that explains each"
    parts = ['# Names', '> Everything that `from segvid.all import *` brings, and the room where it is built.']
    for room in rooms:
        module = top/'segvid'/f'{room.stem.split("_", 1)[1]}.py'
        if not module.exists() or not (found := public_names(module)): continue
        rows = [f'| `{name}` | {line.replace("|", chr(92) + "|")} |' for name, line in found]
        parts.append(f'## [{title_of(room)}]({room.stem}.md)\n\n| name | what it is |\n|---|---|\n' + '\n'.join(rows))
    (pages/'names.md').write_text('\n\n'.join(parts) + '\n', encoding='utf-8')

def write_pages():
    "All pages, and the table of contents for MkDocs"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    nbs = top/'nbs'
    shutil.copytree(nbs/'images', pages/'images')
    for name in ('extra.css', 'frames.js', 'search_from_file.js'): shutil.copy(top/'docs'/name, pages/name)
    rooms = sorted(nbs.glob('[0-9]*.ipynb'))
    walks = [f for name in tutorials if (f := nbs/'tutorials'/f'{name}.ipynb').exists()]
    walks += sorted(set((nbs/'tutorials').glob('*.ipynb')) - set(walks))
    for file in (nbs/'index.ipynb', *rooms, *walks): convert_notebook(file, pages/file.relative_to(nbs).with_suffix('.md'))
    names_page(rooms)
    shutil.copy(top/'CHANGELOG.md', pages/'changelog.md')
    page = lambda f: f.relative_to(nbs).with_suffix('.md').as_posix()
    return [{'Home': 'index.md'}, {'Tutorials': [{title_of(f): page(f)} for f in walks]},
            {'Rooms': [{f'{f.stem.split("_")[0]} {title_of(f)}': page(f)} for f in rooms]},
            {'Names': 'names.md'}, {'Changelog': 'changelog.md'}]

def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=site, help='folder to write (it is replaced)')
    out = parser.parse_args().out.resolve()
    import yaml
    nav = write_pages()
    config = yaml.safe_load((top/'docs'/'mkdocs.yml').read_text()) | dict(nav=nav, docs_dir=str(pages), site_dir=str(out), hooks=[str(top/'docs'/'hooks.py')])
    (file := top/'build'/'mkdocs.yml').write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    rc = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'mkdocs', 'build', '--quiet', '--strict', '--config-file', str(file)], env=os.environ | dict(NO_MKDOCS_2_WARNING='1')).returncode
    if rc == 0: print(f'wrote {len(list(out.rglob("*.html")))} pages; open {out.relative_to(top) if out.is_relative_to(top) else out}/index.html')
    return rc

if __name__ == '__main__': sys.exit(main())
