"Checkpoints that travel: round trips to the last bit, features to 1e-12, errors that say what to pass."
import json, sys, types
from unittest.mock import patch
import numpy as np, pytest, torch
from segvid.mit import set_mit_eps
from segvid.segmenter import load_published, published_state, read_state, save_published, video_segmenter

tiny = dict(embed_dim=16, depth=2, window=4, shift=2)

def shaken(model, seed=0):
    "No weight zero, no norm one, no statistic as it was"
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for k, v in model.state_dict().items():
            if v.is_floating_point(): v.add_(.1*torch.rand(v.shape, generator=g) if 'running_var' in k else .1*torch.randn(v.shape, generator=g))
    return model

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

# ---- the published names
@pytest.mark.parametrize('case', ['city_small', 'vspw_small'])
def test_published_tv3s_file_there_and_back(case, shared, tmp_path):
    "All names and shapes of the published code: read, written, equal to the last bit"
    sys.path.insert(0, str(shared/'golden'))
    try: from fill import fill
    finally: sys.path.remove(str(shared/'golden'))
    meta = json.loads((shared/'golden'/f'{case}.json').read_text())
    theirs = fill({k: torch.empty(s) for k, s in meta['keys'].items()}, meta['weight_seed'])
    torch.save(dict(meta={}, state_dict=theirs), tmp_path/'theirs.pth')
    o = meta['options']
    model = video_segmenter(meta['backbone'], meta['num_classes'], embed_dim=o['embed_dim'], depth=o['n_mambas'], window=o['window'], shift=o['shift'])
    report = load_published(model, tmp_path/'theirs.pth')
    assert report.kind == 'TV3S' and report.missing == [] and all('conv_seg' in k for k in report.left_over)
    report = save_published(model, tmp_path/'ours.pth')
    ours = torch.load(tmp_path/'ours.pth', weights_only=True)['state_dict']
    assert ours.keys() == theirs.keys() and report.left_out == []
    for k, v in theirs.items():
        assert ours[k].shape == v.shape, k
        if 'conv_seg' not in k and 'num_batches_tracked' not in k: assert torch.equal(ours[k], v), k

@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('head', ['tv3s', 'frame'])
def test_own_model_there_and_back(suffix, head, tmp_path):
    options = tiny if head == 'tv3s' else dict(embed_dim=16)
    a, b = (shaken(video_segmenter('mit_b0', 5, head=head, **options), seed) for seed in (0, 1))
    report = save_published(a, tmp_path/f'a{suffix}')
    assert report.left_out == [] and load_published(b, tmp_path/f'a{suffix}').missing == []
    assert same(a.state_dict(), b.state_dict())

# ---- Hugging Face
@pytest.fixture(scope='module')
def huggingface(tmp_path_factory):
    transformers = pytest.importorskip('transformers')
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = shaken(transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=7, decoder_hidden_size=32)).eval())
    folder = tmp_path_factory.mktemp('huggingface')
    model.save_pretrained(folder)
    return model, folder

def test_huggingface_file_there_and_back(huggingface, tmp_path):
    import transformers
    theirs, folder = huggingface
    model = video_segmenter('mit_b0', 7, head='frame', embed_dim=32)
    report = load_published(model, folder)                                          # the folder finds its file
    assert (report.kind, report.missing, report.left_over) == ('Hugging Face', [], []) and "eps='huggingface'" in report.note
    save_published(model, tmp_path/'back', style='huggingface')
    before, after = read_state(folder), read_state(tmp_path/'back')
    assert set(before) - set(after) <= {'decode_head.batch_norm.num_batches_tracked'} and all(torch.equal(before[k], after[k]) for k in after)
    again, info = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path/'back', output_loading_info=True)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert same(again.state_dict(), theirs.state_dict())
    assert again.config.num_labels == 7 and list(again.config.hidden_sizes) == list(theirs.config.hidden_sizes) and again.config.decoder_hidden_size == 32

def test_huggingface_names_in_memory(huggingface):
    theirs, folder = huggingface
    a, b = (video_segmenter('mit_b0', 7, head='frame', embed_dim=32) for _ in range(2))
    load_published(a, folder); load_published(b, theirs.state_dict())
    assert same(a.state_dict(), b.state_dict())

def test_features_and_logits_of_transformers(huggingface):
    "float64: with their eps in our norms, nothing of theirs changed"
    import copy
    theirs, folder = huggingface
    theirs = copy.deepcopy(theirs).double()
    ours = video_segmenter('mit_b0', 7, head='frame', embed_dim=32).double().eval()
    load_published(ours, folder, eps='huggingface')
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    def gaps():
        out = theirs(x, output_hidden_states=True)
        maps = ours.encoder(x)
        return max((a - b).abs().max().item() for a, b in zip(maps, out.hidden_states)), (ours.head(maps) - out.logits).abs().max().item()
    with torch.no_grad():
        assert max(gaps()) < 1e-12
        set_mit_eps(ours, 'published'); assert 1e-7 < gaps()[0] < 1e-2

def test_a_temporal_model_for_transformers_is_its_per_frame_part(tmp_path):
    model = shaken(video_segmenter('mit_b0', 5, **tiny))
    report = save_published(model, tmp_path/'model.safetensors', style='huggingface')
    assert report.left_out and all('mamba' in k or 'linear_pred2' in k for k in report.left_out)
    frame = video_segmenter('mit_b0', 5, head='frame', embed_dim=16)
    assert load_published(frame, tmp_path/'model.safetensors').missing == []
    clip = torch.randn(1, 3, 3, 32, 32)
    model.eval(); frame.eval()
    with torch.no_grad(): assert torch.allclose(frame.head(frame.encoder(clip[:, -1])), model.head.linear_pred(model.head.fuse(model.encoder(clip[:, -1]))), atol=1e-6)

# ---- files that want to do something
def test_runner_files_run_no_code(tmp_path):
    "A file that looks like the Runner's and hides a call beside the log"
    log = {name: types.ModuleType(name) for name in ('mmengine', 'mmengine.logging', 'mmengine.logging.history_buffer')}
    class HistoryBuffer:
        def __getstate__(self): return dict(log=np.ones(3), number=np.float64(2), method=self.mean)
        def mean(self): return 0
    HistoryBuffer.__module__ = 'mmengine.logging.history_buffer'; HistoryBuffer.__qualname__ = 'HistoryBuffer'
    log['mmengine.logging.history_buffer'].HistoryBuffer = HistoryBuffer
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'owned'), 'w'))
    state = {'a': torch.ones(2)}
    with patch.dict(sys.modules, log):
        torch.save(dict(state_dict=state, message_hub=HistoryBuffer()), tmp_path/'good.pth')
        torch.save(dict(state_dict=state, message_hub=HistoryBuffer(), extra=Evil()), tmp_path/'evil.pth')
    allowed = set(torch.serialization.get_safe_globals())
    assert torch.equal(read_state(tmp_path/'good.pth')['a'], state['a'])
    with pytest.raises(ValueError, match='cannot be read as plain weights'): read_state(tmp_path/'evil.pth')
    assert not (tmp_path/'owned').exists()
    assert not [m for m in sys.modules if m.startswith('mmengine') and getattr(sys.modules[m], '__file__', None) is None]
    assert set(torch.serialization.get_safe_globals()) == allowed                        # nothing more stays allowed

@pytest.mark.parametrize('place', ['whole', 'beside'])
def test_no_reader_runs_a_stranger_s_program(tmp_path, place):
    "learn.load, load_learner, load_published, load_model: what is hidden in a file stays asleep, and the error says what to do"
    from segvid.augment import ClipDataLoaders
    from segvid.learner import clip_learner, load_learner, load_model
    from segvid.toycity import make_toycity
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'owned'), 'w'))
    dls = ClipDataLoaders.from_cityscapes(make_toycity(tmp_path/'city', sequences=2, frames=2, size=(32, 64), val=1), dilation=[-1], size=(32, 64), num_workers=0)
    learn = clip_learner(dls, 'mit_b0', path=tmp_path, **tiny)
    learn.save('mine'); learn.load('mine')
    torch.save(Evil() if place == 'whole' else dict(model=learn.model.state_dict(), opt=Evil()), tmp_path/'models'/'evil.pth')
    evil = tmp_path/'models'/'evil.pth'
    for read, say in ((lambda: learn.load('evil'), 'Weights only load failed'), (lambda: load_learner(evil), 'trust=True'), (lambda: load_published(learn.model, evil), 'cannot be read as plain weights'),
                      (lambda: load_model(evil), 'not a model file')):
        with pytest.raises(Exception, match=say): read()
    assert not (tmp_path/'owned').exists()

# ---- what to pass
@pytest.mark.parametrize('other, say', [(dict(encoder='mit_b1'), "encoder='mit_b1'"), (dict(embed_dim=32), 'embed_dim=32'), (dict(num_classes=7), 'num_classes=7, or load with new_classes=True'),
                                        (dict(depth=3), 'depth=3'), (dict(d_state=8), 'd_state=8'), (dict(expand=1), 'expand=1')])
def test_another_shape_says_what_to_pass(other, say):
    make = lambda **o: video_segmenter(**(dict(encoder='mit_b0', num_classes=5, **tiny) | o))
    source, model = make(**other), make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError) as error: load_published(model, published_state(source))
    assert say in str(error.value) and ('has shape' in str(error.value) or 'Mamba layers' in str(error.value))
    assert same(before, model.state_dict())                                         # nothing was half-loaded
    assert load_published(make(**other), published_state(source)).missing == []     # and doing as told helps

def test_eps_of_an_encoder_by_name():
    for family, first in (('published', 1e-5), ('mmseg', 1e-6)):
        model = video_segmenter('mit_b0', encoder_options=dict(eps=family), **tiny)
        assert model.encoder.patch_embed1.norm.eps == first and model.config['encoder_options'] == dict(eps=family)
    with pytest.raises(ValueError, match='choose one of published'): load_published(model, published_state(model), eps='keras')
    with pytest.raises(ValueError, match='no MiT encoder'): load_published(video_segmenter('convnext_atto', **tiny), video_segmenter('convnext_atto', **tiny).state_dict(), eps='mmseg')
