"The encoder: golden features, transformers' SegFormer, timm's factory, files of weights, odd sizes, faults."
import copy, json, math, os, pickle, sys, warnings
from pathlib import Path
import pytest, timm, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
import segvid
from segvid.mit import *
from segvid.mit import MixVisionTransformer, mit_options

shared = Path(os.environ.get('SEGVID_SHARED', 'nowhere'))
golden = shared/'golden'
needs_golden = pytest.mark.skipif(not golden.is_dir(), reason='set SEGVID_SHARED to the folder that holds golden/')
cases = ['mit_b0_small', 'city_small', 'vspw_small', 'city_b1_paper']
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))
fixture = Path(__file__).parent/'fixtures'/'mit_tiny.safetensors'

def largest(a, b): return max((x.double() - y.double()).abs().max().item() for x, y in zip(a, b, strict=True))
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def tiny(**kw): return MixVisionTransformer(**TINY | kw).eval()

def by_rule(state):
    "Weights that depend on key order and shape alone: no random generator, the same everywhere."
    out = {}
    for i, (key, t) in enumerate(state.items()):
        wave = torch.sin(1.7*torch.arange(1, t.numel() + 1, dtype=torch.float64)*(1 + .01*i)).reshape(t.shape)
        scale = 1.4/math.sqrt(t[0].numel()) if t.ndim > 1 else .1
        out[key] = (scale*wave + (1. if t.ndim == 1 and key.endswith('weight') else 0.)).float()
    return out

def picture(*shape): return torch.sin(.37*torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape).float()*2

def published_eps(model):
    "Give transformers' SegFormer the eps of the original."
    for name, m in model.named_modules():
        if isinstance(m, nn.LayerNorm): m.eps = 1e-5 if any(w in name for w in ('patch_embed', 'sequence_reduction', 'attention.self')) else 1e-6
    return model

def segformer(cls, seed=0, **kw):
    "transformers' SegFormer of B0's (or another) size with random weights, no bias zero and no norm one."
    import transformers
    torch.manual_seed(seed)
    model = getattr(transformers, cls)(transformers.SegformerConfig(num_labels=1000, **kw)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
    return model

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A folder that save_pretrained wrote, for each of two transformers classes, and the models."
    from transformers.utils import logging
    logging.disable_progress_bar()
    out = {}
    for cls in ('SegformerModel', 'SegformerForImageClassification'):
        model, folder = segformer(cls), tmp_path_factory.mktemp(cls)
        model.save_pretrained(folder)
        out[cls] = published_eps(model), folder
    return out

# ---- golden
def golden_case(name):
    sys.path.insert(0, str(golden))
    try: from fill import fill, image
    finally: sys.path.remove(str(golden))
    meta, want = json.loads((golden/f'{name}.json').read_text()), load_file(golden/f'{name}.safetensors')
    weights = fill({k: torch.empty(s) for k, s in meta['keys'].items()}, meta['weight_seed'])
    return meta, want, weights, image(meta['image_shape'], meta['image_seed'])

@needs_golden
@pytest.mark.parametrize('name', cases)
def test_golden(name):
    meta, want, weights, clip = golden_case(name)
    encoder = timm.create_model(meta['backbone'], features_only=True).eval()
    mine = {k.removeprefix('backbone.'): v for k, v in weights.items() if k.startswith('backbone.')}
    assert {k: list(v.shape) for k, v in mine.items()} == {k: list(v.shape) for k, v in encoder.state_dict().items()}
    encoder.load_state_dict(mit_published(weights))
    with torch.no_grad(): maps = encoder(clip.flatten(0, 1))
    found = [want[f'features.{i}'] for i in range(4) if f'features.{i}' in want]
    assert name != 'mit_b0_small' or len(found) == 4
    if found: assert largest(maps, found) < 1e-5
    # the published per-frame head, written down plainly, turns exact features into exact logits in every case
    w, size = {k.removeprefix('decode_head.'): v for k, v in weights.items()}, maps[0].shape[2:]
    parts = []
    for i in (4, 3, 2, 1):
        y = torch.einsum('bchw,dc->bdhw', maps[i-1], w[f'linear_c{i}.proj.weight']) + w[f'linear_c{i}.proj.bias'][:, None, None]
        parts.append(F.interpolate(y, size, mode='bilinear', align_corners=False))
    y = F.conv2d(torch.cat(parts, 1), w['linear_fuse.conv.weight'])
    y = F.batch_norm(y, *(w[f'linear_fuse.bn.{n}'] for n in ('running_mean', 'running_var', 'weight', 'bias'))).relu()
    y = F.conv2d(y, w['linear_pred.weight'], w['linear_pred.bias'])
    per_frame = want['train_logits'][:, :-1].flatten(0, 1)
    assert (y - per_frame).abs().max() < 1e-4

def test_own_fixture():
    "Features that transformers' SegFormer gave (float64, published eps) for weights and a picture made by rule."
    model = tiny(); model.load_state_dict(by_rule(model.state_dict()))
    want = load_file(fixture)
    with torch.no_grad(): maps = model(picture(2, 3, 33, 42))
    assert [tuple(m.shape) for m in maps] == [tuple(want[f'features.{i}'].shape) for i in range(4)]
    assert largest(maps, [want[f'features.{i}'] for i in range(4)]) < 1e-5

# ---- transformers
def test_features_of_transformers_files(folders):
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for cls, (theirs, folder) in folders.items():
        source = dict(file=str(folder/'model.safetensors'))
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            ours = timm.create_model('mit_b0', features_only=True, pretrained=True, pretrained_cfg_overlay=source).to(dtype).eval()
            with torch.no_grad(): want = copy.deepcopy(theirs).to(dtype)(x.to(dtype), output_hidden_states=True).hidden_states
            with torch.no_grad(): assert largest(ours(x.to(dtype)), want) < tolerance

def test_logits_of_transformers_files(folders):
    theirs, folder = folders['SegformerForImageClassification']
    ours = timm.create_model('mit_b0', pretrained=True, pretrained_cfg_overlay=dict(file=str(folder/'model.safetensors'))).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad(): assert largest([ours(x)], [copy.deepcopy(theirs).double()(x).logits]) < 1e-12

@pytest.mark.parametrize('kind', ['model.safetensors', 'pytorch_model.bin'])
def test_hub_folder(kind, folders, tmp_path, monkeypatch):
    "The hub's own code finds the file in its cache, whichever of the two formats is there."
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    _, folder = folders['SegformerForImageClassification']
    state = load_file(folder/'model.safetensors')
    home = tmp_path/'models--nvidia--mit-b0'
    (home/'refs').mkdir(parents=True); (home/'refs'/'main').write_text('0'*40)
    snapshot = home/'snapshots'/('0'*40); snapshot.mkdir(parents=True)
    if kind.endswith('bin'): torch.save(state, snapshot/kind)
    else: save_file(state, snapshot/kind)
    ours = timm.create_model('mit_b0', features_only=True, pretrained=True, cache_dir=str(tmp_path))
    assert same(ours.state_dict(), {k: v for k, v in mit_from_huggingface(state).items() if not k.startswith('head.')})

def test_bin_file_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/'ran'),))
    torch.save(dict(state_dict=Evil()), tmp_path/'pytorch_model.bin')
    with pytest.raises((pickle.UnpicklingError, RuntimeError), match='weights_only|Weights only'): timm.create_model('mit_b0', pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path/'pytorch_model.bin')))
    assert not (tmp_path/'ran').exists()

def test_names_in_memory_and_on_disk(folders):
    for theirs, folder in folders.values():
        disk, memory = load_file(folder/'model.safetensors'), theirs.state_dict()
        published = mit_from_huggingface(disk)
        assert mit_spelling(disk) == 'huggingface'
        assert same(published, mit_from_huggingface(memory))
        strip = lambda state: {k.removeprefix('segformer.'): v for k, v in state.items()}
        assert same(mit_to_huggingface(published), strip(disk))
        assert same(mit_to_huggingface(published, in_memory=mit_spelling(memory) == 'memory'), strip(memory))

def test_written_file_loads_in_transformers(tmp_path):
    from transformers import SegformerConfig, SegformerModel
    ours = MixVisionTransformer().double().eval()
    save_file(mit_to_huggingface(ours.state_dict()), tmp_path/'model.safetensors', metadata=dict(format='pt'))
    SegformerConfig().save_pretrained(tmp_path)
    theirs, info = SegformerModel.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    x = torch.randn(1, 3, 40, 64, dtype=torch.float64)
    with torch.no_grad(): assert largest(ours(x), published_eps(theirs.eval())(x, output_hidden_states=True).hidden_states) < 1e-12

@pytest.mark.parametrize('name', mit_options)
def test_parameter_counts(name):
    from transformers import SegformerConfig, SegformerModel
    o = mit_options[name]
    with torch.device('meta'):
        ours = timm.create_model(name, features_only=True)
        theirs = SegformerModel(SegformerConfig(hidden_sizes=list(o['embed_dims']), depths=list(o['depths'])))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    in_memory = mit_spelling(theirs.state_dict()) == 'memory'            # transformers renamed its modules in 5.9
    assert set(mit_to_huggingface(ours.state_dict(), in_memory=in_memory)) == set(theirs.state_dict())

def test_published_eps():
    for name, m in tiny().named_modules():
        if isinstance(m, nn.LayerNorm): assert m.eps == (1e-5 if name.endswith('attn.norm') or name.startswith('patch_embed') else 1e-6), name

# ---- spellings
@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.', 'module.'])
@pytest.mark.parametrize('to', [mit_to_huggingface, mit_to_mmseg, dict])
def test_round_trips(prefix, to):
    state = MixVisionClassifier(num_classes=5, **TINY).state_dict()
    theirs = {prefix + k: v for k, v in to(state).items()} | {'decode_head.conv_seg.weight': torch.zeros(1)}
    back = mit_published(theirs)
    if to is mit_to_mmseg: state = {k: v for k, v in state.items() if not k.startswith('head.')}
    assert same(back, state)

def test_mmseg_counts_and_layout():
    state = MixVisionTransformer().state_dict()
    theirs = mit_to_mmseg(state)
    assert len(state) == 176 and len(theirs) == 160 and len(mit_to_huggingface(state)) == 192
    assert torch.equal(theirs['layers.1.1.0.attn.attn.in_proj_bias'], torch.cat([state['block2.0.attn.q.bias'], state['block2.0.attn.kv.bias']]))
    assert theirs['layers.0.1.0.ffn.layers.4.weight'].shape == (32, 128, 1, 1)

def test_converted_weights_go_into_a_file(tmp_path):
    state = tiny().state_dict()
    for convert in (mit_to_huggingface, mit_to_mmseg):
        save_file(convert(state), tmp_path/'x.safetensors')              # refuses tensors that share memory
        assert same(mit_published(load_file(tmp_path/'x.safetensors')), state)

def test_strange_keys_are_named():
    state = mit_to_huggingface(tiny().state_dict())
    with pytest.raises(ValueError, match='encoder.block.0.0.lora'): mit_from_huggingface(state | {'encoder.block.0.0.lora.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match='no MiT encoder among 1 keys'): mit_published({'conv1.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match='no MiT encoder among 0 keys'): mit_published({})

# ---- timm
def test_registered():
    assert timm.list_models('mit_b*') == [f'mit_b{i}' for i in range(6)]
    assert timm.is_model_pretrained('mit_b0') and timm.get_pretrained_cfg('mit_b4').hf_hub_id == 'nvidia/mit-b4'

@pytest.mark.parametrize('indices,want', [((0, 1, 2, 3), (0, 1, 2, 3)), ((1, 3), (1, 3)), ((-1,), (3,)), (2, (2, 3)), ((0,), (0,)), ((3, 0), (3, 0))])
def test_out_indices(indices, want):
    model = timm.create_model('mit_b0', features_only=True, out_indices=indices).eval()
    widths = (32, 64, 160, 256)
    assert model.feature_info.channels() == [widths[i] for i in want]
    assert model.feature_info.reduction() == [4*2**i for i in want]
    assert [tuple(m.shape) for m in model(torch.randn(1, 3, 64, 96))] == [(1, widths[i], 16 >> i, 24 >> i) for i in want]
    model.train()
    sum(m.sum() for m in model(torch.randn(2, 3, 32, 32))).backward()
    assert all(p.grad is not None for p in model.parameters())       # nothing that several processes would wait for

@pytest.mark.parametrize('indices', [(0, 4), (-5,), 0, 5, ()])
def test_out_indices_refused(indices):
    with pytest.raises(ValueError, match='there are four maps'): timm.create_model('mit_b0', features_only=True, out_indices=indices)

def test_output_stride_refused():
    for stride in (8, 16):
        with pytest.raises(ValueError, match=f'output_stride={stride}.*out_indices'): timm.create_model('mit_b0', features_only=True, output_stride=stride)
    timm.create_model('mit_b0', features_only=True, output_stride=32)

@pytest.mark.parametrize('in_chans', [1, 4, 6])
def test_in_chans(in_chans, folders):
    _, folder = folders['SegformerModel']
    source = dict(file=str(folder/'model.safetensors'))
    model = timm.create_model('mit_b0', features_only=True, in_chans=in_chans, pretrained=True, pretrained_cfg_overlay=source).eval()
    three = timm.create_model('mit_b0', features_only=True, pretrained=True, pretrained_cfg_overlay=source).eval()
    gray = torch.randn(1, 1, 64, 64)
    with torch.no_grad(): a, b = model(gray.expand(-1, in_chans, -1, -1)), three(gray.expand(-1, 3, -1, -1))
    if in_chans in (1, 6): assert largest(a, b) < 1e-4               # the same colorless frame, spread over other channels
    assert model(torch.randn(1, in_chans, 32, 32))[0].shape == (1, 32, 8, 8)

def test_classifier_options():
    x = torch.randn(2, 3, 32, 32)
    model = timm.create_model('mit_b0', num_classes=0).eval()
    assert model(x).shape == (2, 256) and model.num_features == 256
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.get_classifier().out_features == 3
    assert 'head.weight' in timm.create_model('mit_b0').state_dict()

def test_head_of_another_size_is_fresh_and_encoder_loaded(folders):
    _, folder = folders['SegformerForImageClassification']
    source = dict(file=str(folder/'model.safetensors'))
    a = timm.create_model('mit_b0', num_classes=7, pretrained=True, pretrained_cfg_overlay=source).state_dict()
    b = timm.create_model('mit_b0', features_only=True, pretrained=True, pretrained_cfg_overlay=source).state_dict()
    assert a.pop('head.weight').shape == (7, 256) and a.pop('head.bias').shape == (7,)
    assert same(a, b)

def test_unfit_files_are_refused(folders, tmp_path):
    _, folder = folders['SegformerModel']
    state, path = load_file(folder/'model.safetensors'), tmp_path/'torn.safetensors'
    source = dict(file=str(folder/'model.safetensors'))
    with pytest.raises(ValueError, match='the file holds mit_b0, the model is mit_b1'): timm.create_model('mit_b1', pretrained=True, pretrained_cfg_overlay=source)
    with pytest.raises(ValueError, match="lacks 2 of 178 entries.*head.*features_only"): timm.create_model('mit_b0', pretrained=True, pretrained_cfg_overlay=source)
    save_file({k: v for k, v in state.items() if 'block.2.1.mlp.dense2' not in k}, path)
    with pytest.raises(ValueError, match='lacks 2 of 176 entries.*block3.1.mlp.fc2'): timm.create_model('mit_b0', features_only=True, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    save_file({'conv1.weight': torch.zeros(1)}, path)
    with pytest.raises(ValueError, match='no MiT encoder'): timm.create_model('mit_b0', features_only=True, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))

def test_drop_path_option_has_an_effect():
    rates = lambda model: [getattr(b.drop_path, 'drop_prob', 0.) for i in range(1, 5) for b in getattr(model, f'block{i}')]
    assert rates(timm.create_model('mit_b0', features_only=True)) == pytest.approx([.1*i/7 for i in range(8)])
    assert rates(timm.create_model('mit_b0', features_only=True, drop_path_rate=.7)) == pytest.approx([.1*i for i in range(8)])
    assert rates(timm.create_model('mit_b0', features_only=True, drop_path_rate=0.)) == [0.]*8

def test_pickle_and_copy():
    model, x = timm.create_model('mit_b0', features_only=True).eval(), torch.randn(1, 3, 32, 32)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        with torch.no_grad(): assert largest(model(x), other(x)) == 0
        assert other.feature_info.channels() == model.feature_info.channels()

# ---- properties
@settings(max_examples=25, deadline=None)
@given(st.integers(29, 90), st.integers(29, 90), st.integers(1, 2))
def test_any_size(H, W, B):
    with torch.no_grad(): maps = tiny()(torch.randn(B, 3, H, W))
    assert [tuple(m.shape) for m in maps] == [(B, C, -(-H//s), -(-W//s)) for C, s in zip(TINY['embed_dims'], (4, 8, 16, 32))]
    assert all(m.isfinite().all() for m in maps)

@settings(max_examples=10, deadline=None)
@given(st.integers(29, 70), st.integers(29, 70))
def test_sizes_agree_with_transformers(H, W):
    o = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], num_attention_heads=[1, 2, 3, 4])
    theirs = published_eps(segformer('SegformerModel', **o)).double()
    ours = tiny(); ours.load_state_dict(mit_from_huggingface(segformer('SegformerModel', **o).state_dict()))
    x = torch.randn(1, 3, H, W, dtype=torch.float64)
    with torch.no_grad(): assert largest(ours.double()(x), theirs(x, output_hidden_states=True).hidden_states) < 1e-12

@pytest.mark.parametrize('size', [(28, 64), (64, 28), (1, 1)])
def test_too_small_is_refused(size):
    with pytest.raises(ValueError, match='at least 29'): tiny()(torch.randn(1, 3, *size))

def test_clips_are_refused():
    with pytest.raises(ValueError, match='flatten'): tiny()(torch.randn(1, 2, 3, 64, 64))

def test_frames_do_not_touch_each_other():
    model, x = tiny().double(), torch.randn(3, 3, 40, 56, dtype=torch.float64)
    with torch.no_grad():
        together, alone = model(x), [model(f[None]) for f in x]
    assert largest(together, [torch.cat(ms) for ms in zip(*alone)]) < 1e-12

def test_channels_last():
    model, x = tiny().double(), torch.randn(2, 3, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        want = model(x)
        got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert largest(want, got) < 1e-12
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in got)

@pytest.mark.parametrize('train', [False, True])
def test_compiles_in_one_graph(train):
    model, x = tiny(drop_path_rate=0.).train(train), torch.randn(1, 3, 48, 64)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    assert largest(model(x), compiled(x)) < 1e-6
    plain, = torch.autograd.grad(sum(m.square().sum() for m in model(x)), [model.norm1.weight])
    other, = torch.autograd.grad(sum(m.square().sum() for m in compiled(x)), [model.norm1.weight])
    assert largest([plain], [other]) < 1e-3

def test_autocast_and_checkpointing():
    model, x = tiny(drop_path_rate=0.).train(), torch.randn(1, 3, 48, 64)
    with torch.autocast('cpu', torch.bfloat16): low = model(x)
    assert largest(model(x), low) < .2
    grads = []
    for on in (False, True):
        model.set_grad_checkpointing(on); model.zero_grad()
        sum(m.square().mean() for m in model(x)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert largest(*grads) < 1e-6

def test_training_lowers_a_loss():
    torch.manual_seed(0)
    model, x = tiny(drop_path_rate=0.).train(), torch.randn(2, 3, 32, 32)
    goal, optimizer, losses = torch.randn(2, 8, 8, 8), torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(30):
        loss = F.mse_loss(model(x)[0], goal); losses.append(loss.item())
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    assert losses[-1] < .5*losses[0]

def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        timm.create_model('mit_b0', features_only=True)(torch.randn(1, 3, 32, 32))
