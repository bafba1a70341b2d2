"Everything about the package is said once, in settings.ini; this file hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

def lines(key): return [o.strip() for o in cfg.get(key, '').splitlines() if o.strip()]

extras = {name: lines(f'{name}_requirements') for name in ('dev', 'docs', 'onnx', 'fast', 'cuda', 'mmengine', 'mmseg')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license=cfg['license'],
    classifiers=['Programming Language :: Python :: 3', 'Framework :: Jupyter'],
    packages=['segvid'],
    package_data={'segvid': ['static/*']},
    python_requires=f">={cfg['min_python']}",
    install_requires=lines('requirements'),
    extras_require=extras,
    entry_points={'console_scripts': lines('console_scripts') + lines('dev_scripts'),
                  'nbdev': ['segvid = segvid._modidx:d']},
)
