"Parity with the published model: its outputs on weights and images made by rule."
import importlib.util, json
import pytest, torch
from safetensors.torch import load_file
from segvid.metrics import ClipLoss
from segvid.segmenter import load_published, video_segmenter

CASES = 'mit_b0_small', 'city_small', 'vspw_small', 'city_b1_paper'

@pytest.fixture(scope='module', params=CASES)
def case(request, shared):
    "Model with the case's weights, in evaluation mode; the case's facts; the wanted results; the rule's functions"
    golden = shared/'golden'
    spec = importlib.util.spec_from_file_location('golden_fill', golden/'fill.py')
    rule = importlib.util.module_from_spec(spec); spec.loader.exec_module(rule)
    meta, want = json.loads((golden/f'{request.param}.json').read_text()), load_file(golden/f'{request.param}.safetensors')
    weights = rule.fill({k: torch.empty(s) for k, s in meta['keys'].items()}, meta['weight_seed'])
    o = meta['options']
    model = video_segmenter(meta['backbone'], meta['num_classes'], embed_dim=o['embed_dim'], depth=o['n_mambas'], window=o['window'], shift=o['shift'])
    report = load_published(model, weights)
    assert report.kind == 'TV3S' and not report.missing
    assert all('conv_seg' in k for k in report.left_over)
    return model.eval(), meta, want, rule

def close(got, want, tol):
    assert got.shape == want.shape
    gap = (got - want).abs().max().item()
    assert gap < tol, f'largest difference {gap:.2e}, allowed {tol:.0e}'

@torch.no_grad()
def test_features(case):
    model, meta, want, rule = case
    if 'features.0' not in want: pytest.skip('this case has no features')
    clip = rule.image(meta['image_shape'], meta['image_seed'])
    for i, f in enumerate(model.encoder(clip.flatten(0, 1))): close(f, want[f'features.{i}'], 1e-5)

@torch.no_grad()
@pytest.mark.parametrize('backend', ['loop', 'chunked'])
def test_logits(case, backend, monkeypatch):
    monkeypatch.setenv('SEGVID_SCAN', backend)
    model, meta, want, rule = case
    clip = rule.image(meta['image_shape'], meta['image_seed'])
    features, T = model.encoder(clip.flatten(0, 1)), clip.shape[1]
    close(model.head(features, T), want['logits'], 1e-4)
    if backend == 'loop' and max(meta['image_shape']) > 256: return                     # minutes; all frames at once are compared below, and in the small cases
    close(model.head(features, T, all_frames=True)[:, -1], want['logits'], 1e-4)

@torch.no_grad()
def test_train_logits_and_loss(case):
    model, meta, want, rule = case
    if 'train_logits' not in want: pytest.skip('this case has no training logits')
    shape = meta['image_shape']
    clip = rule.image(shape, meta['image_seed'])
    logits = model.head.train_logits(model.encoder(clip.flatten(0, 1)), shape[1])
    close(logits, want['train_logits'], 1e-4)
    y = rule.labels((*shape[:2], 1, *shape[-2:]), meta['num_classes'], meta['image_seed'])[:, :, 0]
    loss = ClipLoss(form='cityscapes' if meta['head'].endswith('city') else 'vspw', ignore='published')(want['train_logits'], y)
    assert abs(loss.item() - want['loss'].item()) < 1e-5*abs(want['loss'].item())

@torch.no_grad()
def test_stream(case):
    model, meta, want, rule = case
    if 'stream_logits' not in want: pytest.skip('this case has no stream')
    frames = rule.image((1, meta['stream_frames'], *meta['image_shape'][2:]), meta['stream_image_seed'])
    state, got = None, []
    for t in range(meta['stream_frames']):
        logits, state = model.head.step(model.encoder(frames[:, t]), state)
        got.append(logits[0])
    close(torch.stack(got), want['stream_logits'].reshape(torch.stack(got).shape), 1e-4)
