"The head against a second, plain statement of the published structure (tests/plain_tv3s.py), on every machine."
import importlib.util, sys
from importlib.util import find_spec
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from segvid.metrics import ClipLoss
from segvid.segmenter import load_published
from segvid.tv3s import TV3SHead

spec = importlib.util.spec_from_file_location('plain_tv3s', Path(__file__).parent/'plain_tv3s.py')
plain = importlib.util.module_from_spec(spec); spec.loader.exec_module(plain)
s = plain.SHAPE

class Holder(torch.nn.Module):
    "A head as `load_published` expects it in a model"
    def __init__(self, head): super().__init__(); self.head = head

@pytest.fixture(scope='module')
def case():
    head = TV3SHead(list(s['channels']), s['classes'], embed_dim=s['dim'], depth=s['depth'], window=s['window'], shift=s['shift']).eval()
    weights = {f'decode_head.{k}': v.float() for k, v in plain.by_rule(plain.shapes(s)).items()}
    report = load_published(Holder(head), weights)
    assert report.kind == 'TV3S' and not report.missing and not report.left_over
    return head, [m.float() for m in plain.maps(s)], load_file(plain.FIXTURE)

def close(a, b, tol=1e-4): assert a.shape == b.shape and (a - b).abs().max() < tol, (a - b).abs().max()

@torch.no_grad()
@pytest.mark.parametrize('backend', ['loop', 'chunked', *(['numba'] if find_spec('numba') else [])])
def test_logits(case, backend, monkeypatch):
    monkeypatch.setenv('SEGVID_SCAN', backend)
    head, maps, want = case
    close(head(maps, s['frames'], all_frames=True), want['temporal'])
    close(head(maps, s['frames']), want['temporal'][:, -1])
    logits = head.train_logits(maps, s['frames'])
    close(logits[:, :-1], want['each']); close(logits[:, -1], want['temporal'][:, -1])

@torch.no_grad()
def test_stream(case):
    head, maps, want = case
    state = None
    for t in range(s['frames']):
        logits, state = head.step([m.unflatten(0, (s['clips'], s['frames']))[:, t] for m in maps], state)
        close(logits, want['temporal'][:, t])

def test_losses(case):
    "Both published forms, written out: half the per-frame term plus the temporal term, mean over all pixels"
    _, _, want = case
    y = (torch.arange(s['clips']*s['frames']*40*64).reshape(s['clips'], s['frames'], 40, 64)//97) % 6
    y[y == 5] = 255
    def ce(logits, target):
        logits = torch.nn.functional.interpolate(logits, target.shape[-2:], mode='bilinear', align_corners=False).log_softmax(1)
        picked = logits.gather(1, target.clamp(max=4)[:, None])[:, 0]
        return -(picked*(target != 255)).sum()/target.numel()
    both = torch.cat([want['each'], want['temporal'][:, -1:]], 1)
    last = ce(want['temporal'][:, -1], y[:, -1])
    forms = dict(vspw=.5*ce(want['each'].flatten(0, 1), y.flatten(0, 1)) + last, cityscapes=.5*ce(want['each'][:, -1], y[:, -1]) + last)
    for form, value in forms.items(): assert ClipLoss(form=form, ignore='published')(both, y).item() == pytest.approx(value.item(), rel=1e-5)

def test_the_fixture_is_what_the_plain_statement_says(case):
    each, temporal = plain.head(plain.by_rule(plain.shapes(s)), [m[:s['frames']] for m in plain.maps(s)], s['frames'], s['window'], s['shift'], s['depth'])
    close(each.float(), case[2]['each'][:1], 1e-6); close(temporal.float(), case[2]['temporal'][:1], 1e-6)
