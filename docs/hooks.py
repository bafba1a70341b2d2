"The last touches on finished pages: formulas made by `build.py`, and the site's own script for searching from disk."
import base64, re

def _formula(match):
    return base64.b32decode(match[1] + '='*(-len(match[1]) % 8)).decode()

def on_page_content(html, **kwargs):
    html = re.sub(r'<p>\s*(MATHML[A-Z2-7]+0)\s*</p>', r'<div class="formula">\1</div>', html)
    return re.sub(r'MATHML([A-Z2-7]+)0', _formula, html)

def on_post_page(output, page, **kwargs):
    return output.replace('https://unpkg.com/iframe-worker/shim', '../'*page.url.count('/') + 'search_from_file.js')

def on_post_template(output_content, **kwargs):
    return output_content.replace('https://unpkg.com/iframe-worker/shim', '/search_from_file.js')
