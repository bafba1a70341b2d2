"A JupyterLab server and a Chromium page for tests that click. Without Chromium or Playwright they are skipped."
import json, os, re, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

TOP = Path(__file__).resolve().parents[2]
TOKEN = 'segvid'
# Flags for a machine without graphics card and without network.
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()

def find_chromium():
    "Path of a Chromium or Chrome, or None"
    names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
    return os.environ.get('SEGVID_CHROMIUM') or next(filter(None, map(shutil.which, names)), None)

@pytest.fixture(scope='session')
def browser():
    "A headless Chromium"
    playwright = pytest.importorskip('playwright.sync_api', reason='pip install playwright, to click through the viewers')
    path = find_chromium()
    if path is None: pytest.skip('no Chromium found: apt-get install chromium, or set SEGVID_CHROMIUM')
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.trouble = getattr(item, 'trouble', False) or report.failed
    return report

@pytest.fixture
def make_page(browser, request, shots):
    "Function that opens a page; it fails the test if the page's script failed, and takes a picture if the test fails"
    opened, troubles = [], []
    def make(url, width=1280, height=1000, **options):
        context = browser.new_context(viewport=dict(width=width, height=height), **options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on('pageerror', lambda error: troubles.append(error.stack or str(error)))
        opened.append(context)
        page.goto(url)
        return page
    yield make
    for n, context in enumerate(opened):
        if request.node.trouble: context.pages[0].screenshot(path=shots/f'failed_{request.node.name}_{n}.png')
        context.close()
    ours = [t for t in troubles if re.search(r'blob:|file:', t.partition('\n')[2].partition('\n')[0])]     # where it was thrown: widgets are blobs
    assert not ours, ours

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    "A JupyterLab server: its address and its folder"
    pytest.importorskip('jupyterlab', reason='pip install jupyterlab')
    home, root = tmp_path_factory.mktemp('jupyter'), tmp_path_factory.mktemp('notebooks')
    quiet = home/'settings'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True)))
    env = os.environ | dict(PYTHONPATH=str(TOP), JUPYTER_CONFIG_DIR=str(home/'config'), JUPYTER_RUNTIME_DIR=str(home/'runtime'), JUPYTER_PLATFORM_DIRS='1',
                            JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), JUPYTERLAB_WORKSPACES_DIR=str(home/'workspaces'), IPYTHONDIR=str(home/'ipython'))
    env.pop('SEGVID_WIDGETS', None)
    port = free_port()
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', f'--ServerApp.root_dir={root}',
               f'--IdentityProvider.token={TOKEN}', '--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly', '--ContentsManager.allow_hidden=True']
    log = open(home/'server.log', 'w')
    server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=root)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(240):
            if server.poll() is not None: pytest.fail(f'JupyterLab stopped: {(home/"server.log").read_text()[-2000:]}')
            try: urllib.request.urlopen(f'{url}/api/status?token={TOKEN}', timeout=2); break
            except OSError: time.sleep(0.5)
        else: pytest.fail(f'JupyterLab did not start: {(home/"server.log").read_text()[-2000:]}')
        yield url, Path(root)
    finally:
        server.terminate()
        try: server.wait(10)
        except subprocess.TimeoutExpired: server.kill()
        log.close()

@pytest.fixture(scope='session')
def shots():
    "Folder for screenshots: SEGVID_SCREENSHOTS, or build/browser"
    folder = Path(os.environ.get('SEGVID_SCREENSHOTS', TOP/'build'/'browser'))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
