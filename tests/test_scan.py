"The selective scan: every backend against the loop, on shapes drawn at random."
import pytest, torch
from hypothesis import given, settings, strategies as st
from segvid.scan import selective_scan, selective_scan_ref, scan_backend, _ChunkedScan, _scan_chunked

def arguments(b, d, l, n, groups, options, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)
    bc = (b, n, l) if groups is None else (b, groups, n, l)
    x = dict(u=r(b, d, l), delta=r(b, d, l), A=-torch.exp(r(d, n)), B=r(*bc), C=r(*bc))
    more = dict(D=r(d), z=r(b, d, l), delta_bias=r(d), initial_state=r(b, d, n))
    return x | {k: v for k, v in more.items() if k in options} | dict(delta_softplus=True)

def value_and_grads(f, x):
    x = {k: v.clone().requires_grad_() if torch.is_tensor(v) else v for k, v in x.items()}
    y, last = f(**x, return_last_state=True)
    g = torch.Generator().manual_seed(1)
    loss = (y*torch.randn(y.shape, generator=g, dtype=y.dtype)).sum() + (last*torch.randn(last.shape, generator=g, dtype=last.dtype)).sum()
    return [y, last, *torch.autograd.grad(loss, [v for v in x.values() if torch.is_tensor(v)])]

shapes = dict(b=st.integers(1, 4), heads=st.integers(1, 5), l=st.integers(1, 90), n=st.integers(1, 20), groups=st.sampled_from([None, 1, 2, 3]),
              options=st.sets(st.sampled_from(['D', 'z', 'delta_bias', 'initial_state'])), seed=st.integers(0, 99))

@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_chunked_equals_loop(b, heads, l, n, groups, options, seed):
    x = arguments(b, heads*(groups or 1), l, n, groups, options, torch.float64, seed)
    for got, want in zip(value_and_grads(lambda **k: selective_scan(**k, backend='chunked'), x), value_and_grads(selective_scan_ref, x)):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)

@settings(max_examples=20, deadline=None)
@given(l=st.integers(2, 60), cut=st.floats(0, 1), backend=st.sampled_from(['loop', 'chunked']))
def test_parts_equal_whole(l, cut, backend):
    x = arguments(2, 6, l, 4, None, {'D', 'z', 'delta_bias', 'initial_state'})
    k = 1 + int(cut*(l - 2))
    part = lambda lo, hi: {n: v[..., lo:hi] if n in ('u', 'delta', 'z', 'B', 'C') else v for n, v in x.items()}
    whole, last = selective_scan(**x, return_last_state=True, backend=backend)
    first, state = selective_scan(**part(0, k), return_last_state=True, backend=backend)
    second, end = selective_scan(**{**part(k, l), 'initial_state': state}, return_last_state=True, backend=backend)
    assert torch.allclose(torch.cat([first, second], -1), whole, atol=1e-4) and torch.allclose(end, last, atol=1e-4)

def test_gradcheck():
    x = arguments(2, 4, 7, 3, 2, {'D', 'z', 'delta_bias', 'initial_state'}, torch.float64)
    names = [k for k, v in x.items() if torch.is_tensor(v)]
    f = lambda *a: selective_scan(**dict(zip(names, a)), delta_softplus=True, return_last_state=True, backend='chunked')
    assert torch.autograd.gradcheck(f, [x[k].requires_grad_() for k in names])

def test_memory_does_not_hold_every_state():
    "What the chunked scan keeps for its backward pass: inputs and one state a chunk, never (B,D,L,N)"
    kept = []
    x = arguments(1, 64, 512, 16, None, set())
    x['u'].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        selective_scan(**x, backend='chunked')
    assert max(kept) <= 64*512 and sum(kept) < 64*512*16

@pytest.mark.parametrize('big', [1., 30., 200.])
def test_large_steps_do_not_overflow(big):
    "A step so large that exp(-delta*A) would overflow: the chunked scan must not divide by decays"
    x = arguments(1, 4, 40, 16, None, set()); x['delta'] = torch.full_like(x['delta'], big)
    got, want = selective_scan(**x, backend='chunked'), selective_scan_ref(**x)
    assert torch.isfinite(got).all() and torch.allclose(got, want, rtol=1e-4, atol=1e-3)

def test_low_precision_keeps_a_float32_state():
    x = arguments(1, 8, 50, 4, None, {'z'})
    half = {k: v.bfloat16() if k in ('u', 'delta', 'z', 'B', 'C') else v for k, v in x.items()}
    y, last = selective_scan(**half, return_last_state=True)
    assert y.dtype == torch.bfloat16 and last.dtype == torch.float32

def test_unknown_backend(monkeypatch):
    monkeypatch.setenv('SEGVID_SCAN', 'warp')
    with pytest.raises(ValueError, match="'warp' is unknown"): scan_backend()
