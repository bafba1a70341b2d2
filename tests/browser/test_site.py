"The documentation site in a browser, from disk: links, pictures, formulas, search, phone, dark."
import re, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag
import pytest
from conftest import TOP

class Links(HTMLParser):
    "Where a page leads, and which places on it can be led to"
    def __init__(self, text):
        super().__init__()
        self.to, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ('id', 'name') if found.get(key)}
        self.to += [found[key] for key in ('href', 'src') if found.get(key)]

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The site, freshly built"
    for needed in ('mkdocs', 'material', 'latex2mathml'): pytest.importorskip(needed, reason="pip install 'segvid[docs]'")
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run([sys.executable, TOP/'docs'/'build.py', '--out', folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder

def pages_of(site): return sorted(f for f in site.rglob('*.html') if not re.fullmatch(r'\d\d\.html|404\.html', f.name))

def test_no_link_is_broken(site):
    parsed = {f: Links(f.read_text()) for f in pages_of(site)}
    assert len(parsed) >= 20
    broken = []
    for page, links in parsed.items():
        for link in links.to:
            if re.match(r'[a-z]+:', link): continue
            place, part = urldefrag(link)
            target = page if not place else (page.parent/unquote(place)).resolve()
            if not target.exists(): broken.append((page.name, link))
            elif part and part not in parsed.get(target, links).ids: broken.append((page.name, link))
    assert broken == []

def test_every_page_on_a_phone(site, make_page):
    "Pictures load, formulas are drawn, nothing is wider than the screen, nothing comes from the network"
    page, asked, words = make_page((site/'index.html').as_uri(), width=390, height=844), [], []
    page.on('request', lambda r: asked.append(r.url))
    page.on('console', lambda m: words.append(m.text) if m.type == 'error' else None)
    for file in pages_of(site):
        page.goto(file.as_uri())
        page.wait_for_function("[...document.images].every((i) => i.complete)")
        broken = page.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
        assert broken == [], (file.name, broken)
        assert page.evaluate('document.documentElement.scrollWidth') <= 390, file.name
        flat = page.evaluate("[...document.querySelectorAll('math')].filter((m) => m.getBoundingClientRect().height < 5).length")
        assert flat == 0 and 'MATHML' not in page.inner_text('body'), file.name
    assert [a for a in asked if not a.startswith(('file:', 'data:', 'blob:'))] == []
    assert words == []

def test_search(site, make_page, shots):
    page = make_page((site/'07_tv3s.html').as_uri())
    page.click('.md-search__input')
    page.keyboard.type('flicker', delay=30)
    page.wait_for_selector('.md-search-result__item a')
    found = page.locator('.md-search-result__item a').evaluate_all('(all) => all.map((a) => a.getAttribute("href"))')
    assert any('12_viewer' in f for f in found), found
    page.screenshot(path=shots/'site_search.png')
    page.click('.md-search-result__item a >> nth=0')
    page.wait_for_load_state()
    assert 'flicker' in page.inner_text('article').lower()

def test_looks(site, make_page, shots):
    page = make_page((site/'index.html').as_uri())
    page.screenshot(path=shots/'site_home.png')
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click('label[for="__palette_1"]:visible')
    page.wait_for_function("document.body.dataset.mdColorScheme === 'slate'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.goto((site/'06_scan.html').as_uri())
    assert page.evaluate("document.body.dataset.mdColorScheme") == 'slate'            # remembered from page to page
    page.locator('math').first.scroll_into_view_if_needed()
    page.screenshot(path=shots/'site_dark_formulas.png')
    phone = make_page((site/'tutorials'/'quickstart.html').as_uri(), width=390, height=844)
    phone.screenshot(path=shots/'site_phone.png')

def test_the_viewer_plays_on_its_page(site, make_page, shots):
    "The animated viewer of room 12 runs on the site, without any kernel"
    page = make_page((site/'12_viewer.html').as_uri())
    page.locator('.output-frame').first.scroll_into_view_if_needed()
    frame = page.frame_locator('.output-frame').first
    frame.locator('.sv-clip[data-frame="0"]').wait_for()
    frame.locator('.sv-clip').focus()
    page.keyboard.press('End')
    frame.locator('.sv-clip[data-frame="19"]').wait_for()
    inside, outside = frame.locator('body').evaluate('(e) => e.scrollHeight'), page.locator('.output-frame').first.bounding_box()['height']
    assert inside <= outside <= inside + 40                                  # nothing is cut off
    page.screenshot(path=shots/'site_viewer.png')
