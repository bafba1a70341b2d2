"Encoders, checkpoints, refusals."
import pytest, timm, torch
from segvid.segmenter import TimmEncoder, load_published, read_state, video_segmenter
from segvid.mit import mit_to_huggingface, mit_to_mmseg

tiny = dict(embed_dim=16, depth=1, window=4, shift=2)

@pytest.mark.parametrize('name', ['mit_b0', 'tf_efficientnet_lite0', 'convnext_atto', 'swin_tiny', 'vit_tiny_patch16_224', 'resnet18'])
@torch.no_grad()
def test_encoders_give_four_maps_at_any_size(name):
    model = video_segmenter(name, num_classes=3, **tiny).eval()
    for h, w in ((64, 96), (37, 61)):
        maps = model.encoder(torch.randn(1, 3, h, w))
        assert [tuple(m.shape[-2:]) for m in maps] == [(-(-h//s), -(-w//s)) for s in (4, 8, 16, 32)]
        assert model(torch.randn(1, 2, 3, h, w)).shape == (1, 3, h, w)

@pytest.mark.parametrize('name', ['tf_efficientnet_lite0', 'tf_efficientnet_lite2'])
def test_shared_imagenet_weights(name, shared):
    "ImageNet weights from a file, through timm's own loader"
    file = shared/'weights'/f'{name}.safetensors'
    encoder = TimmEncoder(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))
    want = read_state(file)['conv_stem.weight']
    assert torch.equal(encoder.model.state_dict()['conv_stem.weight'], want)

def test_huggingface_segmentor_file(tmp_path):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.SegformerConfig(num_labels=7, decoder_hidden_size=32)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    for m in theirs.modules():                                            # random everything, and eps as published
        if isinstance(m, torch.nn.LayerNorm): torch.nn.init.normal_(m.weight, 1, .1); torch.nn.init.normal_(m.bias, 0, .1); m.eps = 1e-5
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(); m.running_var.uniform_(.5, 2)
    theirs.save_pretrained(tmp_path, safe_serialization=True)
    ours = video_segmenter('mit_b0', num_classes=7, head='frame', embed_dim=32)
    report = load_published(ours, tmp_path/'model.safetensors')
    assert report.kind == 'Hugging Face' and not report.missing and not report.left_over
    for m in ours.encoder.modules():
        if isinstance(m, torch.nn.LayerNorm): m.eps = 1e-5                # their port has one eps for all norms
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad(): got, want = ours.eval().head(ours.encoder(x)), theirs(x).logits
    assert (got - want).abs().max() < 1e-4

@pytest.mark.parametrize('spelling', [mit_to_huggingface, mit_to_mmseg])
def test_encoder_files_of_others(spelling):
    source = video_segmenter('mit_b0', **tiny)
    state = spelling({k.removeprefix('encoder.'): v for k, v in source.state_dict().items() if k.startswith('encoder.')})
    model = video_segmenter('mit_b0', **tiny)
    report = load_published(model, state)
    assert all(k.startswith('head.') for k in report.missing)
    for a, b in zip(source.encoder.parameters(), model.encoder.parameters()): assert torch.equal(a, b)

def test_own_state_dict(tmp_path):
    a, b = video_segmenter('convnext_atto', num_classes=3, **tiny), video_segmenter('convnext_atto', num_classes=3, **tiny)
    torch.save(a.state_dict(), tmp_path/'a.pth')
    report = load_published(b, tmp_path/'a.pth')
    assert report.kind == 'segvid' and not report.missing and not report.left_over
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))

def test_files_that_fit_nothing_are_refused(tmp_path):
    model = video_segmenter('mit_b0', **tiny)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(timm.create_model('resnet18').state_dict(), tmp_path/'resnet.pth')
    with pytest.raises(ValueError, match='no checkpoint we know'): load_published(model, tmp_path/'resnet.pth')
    (tmp_path/'text.pth').write_text('not weights')
    with pytest.raises(ValueError, match='cannot be read as plain weights'): load_published(model, tmp_path/'text.pth')
    with pytest.raises(ValueError, match='head options of the file'): load_published(model, video_segmenter('mit_b1', **tiny).state_dict())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())   # nothing was half-loaded

def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'owned'), 'w'))
    torch.save({'state_dict': {'a': Evil()}}, tmp_path/'evil.pth')
    with pytest.raises(ValueError): read_state(tmp_path/'evil.pth')
    assert not (tmp_path/'owned').exists()
