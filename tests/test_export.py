"The exported step: the file says what the model says, frame after frame, and needs no PyTorch."
import json, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from segvid.export import FrameStep, OnnxStream, compare_onnx, export_onnx, export_program, has_token_scan, mix_tokens, scan_blocks, scan_tokens
from segvid.labels import cityscapes_labels
from segvid.learner import load_model, save_model
from segvid.scan import selective_scan_ref
from segvid.segmenter import video_segmenter

pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
scans = ['blocks', *(['tokens'] if has_token_scan() else [])]
example = Path(__file__).parent.parent/'examples'/'onnx_video.py'

def film(size, frames=20, seed=0):
    "Smooth noise that drifts, (1,3,H,W) each"
    g = torch.Generator().manual_seed(seed)
    big = torch.nn.functional.interpolate(torch.randn(1, 3, 12, 16, generator=g), (size[0] + 2*frames, size[1] + 2*frames), mode='bicubic')
    return [big[..., t:t + size[0], 2*t:2*t + size[1]].contiguous() for t in range(frames)]

def segmenter(encoder='mit_b0', head='tv3s', **options):
    torch.manual_seed(1)
    return video_segmenter(encoder, 7, head, embed_dim=16, **options).eval()

@pytest.mark.parametrize('scan', [scan_blocks, scan_tokens][:len(scans)])
@pytest.mark.parametrize('L', [1, 2, 5, 37])
def test_scans_are_the_recurrence(scan, L):
    torch.manual_seed(L)
    S, D, N = 3, 5, 4
    u, step, A, B, C, h = torch.randn(S, L, D), torch.rand(S, L, D)*3, -torch.rand(D, N)*16, torch.randn(S, L, N), torch.randn(S, L, N), torch.randn(S, D, N)
    t = lambda x: x.transpose(1, 2)
    y, last = selective_scan_ref(t(u), t(step), A, t(B), t(C), initial_state=h, return_last_state=True)
    ours = scan(u, step, A, B, C, h)
    assert torch.allclose(ours[0], t(y), atol=1e-5) and torch.allclose(ours[1], last, atol=1e-5)
    assert all(torch.isfinite(o).all() for o in ours)

def test_strong_decay_does_not_overflow():
    S, L, D, N = 1, 100, 2, 2
    args = torch.randn(S, L, D), torch.full((S, L, D), 40.), torch.full((D, N), -16.), torch.randn(S, L, N), torch.randn(S, L, N), torch.randn(S, D, N)
    assert all(torch.isfinite(o).all() for o in scan_blocks(*args))

@pytest.mark.parametrize('size', [(32, 32), (40, 72), (96, 160)])
@pytest.mark.parametrize('options', [dict(depth=3, window=4, shift=2), dict(depth=2, window=2, shift=1), dict(depth=2, window=20, shift=10), dict(depth=0, window=4, shift=2)])
def test_step_is_the_stream(size, options):
    model = segmenter(**options)
    step, stream, state = FrameStep(model, size), model.stream(), None
    with torch.no_grad():
        for frame in film(size, 3):
            logits, *state = step(frame, *(state if state is not None else step.initial_state().values()))
            want = stream.step(frame)
            assert logits.shape == want.shape and (logits - want).abs().max() < 1e-4

@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "A model of several windows a layer, and its files by both scans"
    folder, model = tmp_path_factory.mktemp('onnx'), segmenter(depth=2, window=4, shift=2)
    return model, {scan: export_onnx(model, folder/f'{scan}.onnx', (64, 96), cityscapes_labels, scan) for scan in scans}

@pytest.mark.parametrize('scan', scans)
def test_twenty_frames_in_onnxruntime(exported, scan):
    model, files = exported
    table = compare_onnx(model, files[scan], film((64, 96)))
    assert len(table) == 20 and table.difference.max() < 1e-3 and table.same.min() >= .999
    assert not list(files[scan].parent.glob('.*'))                                     # nothing temporary is left

def test_zero_memory_is_no_memory_and_reset_forgets(exported):
    model, files = exported
    stream, frames = OnnxStream(files[scans[-1]]), film((64, 96), 3)
    with torch.no_grad(): alone = model(frames[0][:, None]).numpy()
    assert abs(stream.step(frames[0]) - alone).max() < 1e-3
    for frame in frames: stream.step(frame)
    stream.reset()
    assert abs(stream.step(frames[0]) - alone).max() < 1e-3

def test_file_explains_itself(exported):
    import onnx
    model, files = exported
    proto = onnx.load(files[scans[-1]]); onnx.checker.check_model(proto)
    facts = json.loads({p.key: p.value for p in proto.metadata_props}['segvid'])
    assert facts['size'] == [64, 96] and facts['num_classes'] == 7 and len(facts['mean']) == len(facts['std']) == 3
    assert facts['labels']['classes'][0] == 'road' and facts['config']['encoder'] == 'mit_b0'
    assert [i.name for i in proto.graph.input] == ['frame', 'conv_0', 'scan_0', 'conv_1', 'scan_1']
    assert [o.name for o in proto.graph.output] == ['logits', 'new_conv_0', 'new_scan_0', 'new_conv_1', 'new_scan_1']

@pytest.mark.skipif(not has_token_scan(), reason='this PyTorch does not export its scan')
def test_scan_over_tokens_is_a_loop_and_not_unrolled(exported):
    import onnx
    kinds = [n.op_type for n in onnx.load(exported[1]['tokens']).graph.node]
    assert 2 <= kinds.count('Scan') <= 8

def test_frame_head_and_another_encoder(tmp_path):
    model = segmenter('convnext_atto', 'frame')
    file = export_onnx(model, tmp_path/'frame.onnx', (64, 64))
    assert compare_onnx(model, file, film((64, 64), 3)).difference.max() < 1e-3
    assert [i.name for i in OnnxStream(file).session.get_inputs()] == ['frame']

def test_size_and_labels_come_from_a_model_file(tmp_path):
    model = segmenter(depth=1, window=4, shift=2)
    save_model(model, tmp_path/'m', None, (32, 64))
    program = export_program(load_model(tmp_path/'m.safetensors', 'cpu'))
    frame = film((32, 64), 1)[0]
    logits, *_ = program.module()(frame, *FrameStep(model, (32, 64)).initial_state().values())
    assert (logits - model.stream().step(frame)).abs().max() < 1e-4

def test_what_cannot_be_exported_says_why(monkeypatch):
    model = segmenter(depth=1, window=4, shift=2)
    with pytest.raises(ValueError, match=r'pass size=\(height, width\)'): export_program(model)
    with pytest.raises(ValueError, match='32x32'): export_program(model, (16, 64))
    with pytest.raises(ValueError, match="'fast' is unknown"): export_program(model, (64, 64), 'fast')
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ImportError, match=r'pip install .segvid\[onnx\]'): export_onnx(model, 'x.onnx', (64, 64))

def test_example_runs_without_torch(exported, tmp_path):
    import av
    with av.open(str(tmp_path/'film.mp4'), 'w') as out:
        stream = out.add_stream('libx264', rate=10, width=100, height=70, pix_fmt='yuv420p')
        for t in range(8): out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((70, 100, 3), 20*t, np.uint8), 'rgb24')))
        out.mux(stream.encode())
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, '-c', code, example, exported[1][scans[-1]], tmp_path/'film.mp4', tmp_path/'out.mp4'], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    with av.open(str(tmp_path/'out.mp4')) as result: shapes = [f.to_ndarray(format='rgb24').shape for f in result.decode(video=0)]
    assert shapes == [(64, 96, 3)]*8
    assert 'torch' not in example.read_text().replace('PyTorch', '') and len([l for l in example.read_text().splitlines() if l.strip()]) <= 26
