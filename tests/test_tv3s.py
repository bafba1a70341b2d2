"The temporal head: the law of streaming on windows, shifts and sizes drawn at random."
import pytest, torch
from hypothesis import given, settings, strategies as st
from segvid.scan import sequence_runs
from segvid.tv3s import TV3SHead, window_order, window_parts
from segvid.segmenter import video_segmenter

@st.composite
def windows(draw):
    window = draw(st.integers(1, 7))
    return window, draw(st.integers(0, window - 1))

@settings(max_examples=60, deadline=None)
@given(ws=windows(), rows=st.integers(1, 4), cols=st.integers(1, 4))
def test_every_position_exactly_once(ws, rows, cols):
    window, shift = ws
    h, w = rows*window, cols*window
    parts = window_parts(h, w, window, shift)
    assert torch.cat(parts).sort().values.tolist() == list(range(h*w))
    order = window_order(h, w, window, shift)
    assert torch.equal(order.order[order.inverse], torch.arange(h*w))
    runs = sequence_runs(order.offsets)
    assert sorted(len(p) for p in parts) == sorted(length for _, _, count, length in runs for _ in range(count))
    assert len(runs) == len({len(p) for p in parts}) <= 9

@settings(max_examples=25, deadline=None)
@given(ws=windows(), h=st.integers(8, 19), w=st.integers(8, 23), clips=st.integers(1, 2), frames=st.integers(1, 5), depth=st.integers(1, 3), seed=st.integers(0, 9))
@torch.no_grad()
def test_law_of_streaming(ws, h, w, clips, frames, depth, seed):
    "The k-th step equals the last logits of the clip of frames 1..k, and the k-th of all frames"
    torch.manual_seed(seed)
    head = TV3SHead([4, 4, 4, 4], 3, embed_dim=16, depth=depth, window=ws[0], shift=ws[1], d_state=4).eval()
    maps = [torch.randn(clips, frames, 4, -(-h//2**i), -(-w//2**i)) for i in range(4)]
    whole, state = head([m.flatten(0, 1) for m in maps], frames, all_frames=True), None
    for t in range(frames):
        logits, state = head.step([m[:, t] for m in maps], state)
        assert (logits - whole[:, t]).abs().max() < 1e-4
        shorter = head([m[:, :t + 1].flatten(0, 1) for m in maps], t + 1)
        assert (logits - shorter).abs().max() < 1e-4

@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 32), (50, 101)])
@torch.no_grad()
def test_model_streams_at_any_size(size):
    model = video_segmenter('mit_b0', num_classes=4, embed_dim=16, depth=3, window=5, shift=2).eval()
    video, stream = torch.randn(2, 5, 3, *size), model.stream()
    whole = model(video, all_frames=True)
    for t in range(5): assert (stream.step(video[:, t]) - whole[:, t]).abs().max() < 1e-4
    assert (model(video[:, :3]) - whole[:, 2]).abs().max() < 1e-4            # clip length is free at inference

@torch.no_grad()
def test_time_matters_and_only_the_past_does():
    model = video_segmenter('mit_b0', num_classes=4, embed_dim=16, depth=2, window=4, shift=2).eval()
    a = torch.randn(1, 3, 3, 64, 64); b = a.clone(); b[:, 1] += 1
    x, y = model(a, all_frames=True), model(b, all_frames=True)
    assert torch.equal(x[:, 0], y[:, 0]) and (x[:, 2] - y[:, 2]).abs().max() > 1e-4

def test_every_parameter_of_the_head_learns():
    head = TV3SHead([4, 4, 4, 4], 3, embed_dim=16, depth=2, window=4, shift=2, dropout=0., drop_path=0.)
    logits = head.train_logits([torch.randn(4, 4, 16//2**i, 16//2**i) for i in range(4)], 2)
    logits.square().sum().backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []

def test_drop_path_and_dropout_have_an_effect():
    maps = [torch.randn(2, 4, 16//2**i, 16//2**i) for i in range(4)]
    for options in (dict(drop_path=.9, dropout=0.), dict(drop_path=0., dropout=.5)):
        head = TV3SHead([4, 4, 4, 4], 3, embed_dim=16, depth=3, window=4, shift=2, **options)
        head.linear_fuse.bn.eval()
        assert not torch.equal(head(maps, 2), head(maps, 2))
    head = TV3SHead([4, 4, 4, 4], 3, embed_dim=16, depth=3, window=4, shift=2, drop_path=0., dropout=0.)
    head.linear_fuse.bn.eval()
    assert torch.equal(head(maps, 2), head(maps, 2))

def test_state_survives_saving(tmp_path):
    head = TV3SHead([4, 4, 4, 4], 3, embed_dim=16, depth=2, window=4, shift=2).eval()
    maps = lambda: [torch.randn(1, 4, 16//2**i, 16//2**i) for i in range(4)]
    _, state = head.step(maps())
    torch.save([tuple(layer) for layer in state.layers], tmp_path/'state.pt')
    again = torch.load(tmp_path/'state.pt', weights_only=True)
    assert all(torch.equal(a, b) for x, y in zip(again, state.layers) for a, b in zip(x, y))
