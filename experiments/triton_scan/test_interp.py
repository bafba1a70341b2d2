"""CPU tests through Triton's interpreter, tiny sizes.  Run: TRITON_INTERPRET=1 python -m pytest -q test_interp.py"""
import os
os.environ['TRITON_INTERPRET'] = '1'
import pytest
import torch
from ref import selective_scan_loop, causal_conv1d_loop
import scan_triton as st
from conv_triton import causal_conv1d_triton

torch.set_num_threads(1)


def scan_inputs(lengths, D, N, dtype=torch.float32, z=True, skip=True, bias=True, h0=True, seed=0):
    """Random packed inputs; `wide` rows, so that strides differ from widths."""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(*s, generator=g)
    tokens = sum(lengths)
    xz, bc = rand(tokens, 2 * D).to(dtype), rand(tokens, 3 + 2 * N).to(dtype)
    cu = torch.tensor([0] + list(torch.tensor(lengths).cumsum(0)), dtype=torch.int32)
    return dict(u=xz[:, :D], delta=(rand(tokens, D) - 1).to(dtype), A=-torch.rand(D, N, generator=g) * 4 + .2,
                B=bc[:, 3:3 + N], C=bc[:, 3 + N:], D=rand(D) if skip else None, z=xz[:, D:] if z else None,
                delta_bias=rand(D) * .3 if bias else None,
                initial_state=rand(len(lengths), D, N) if h0 else None, cu_seqlens=cu)


def run(fn, inputs, dtype=None, softplus=True, seed=1, **kw):
    """Values and gradients of a random linear functional of out and last state."""
    leaf = {k: (v.detach().clone().to(dtype or v.dtype).requires_grad_() if v is not None and v.is_floating_point()
                else v) for k, v in inputs.items()}
    out, last = fn(**leaf, delta_softplus=softplus, return_last_state=True, **kw)
    g = torch.Generator().manual_seed(seed)
    w, v = torch.randn(out.shape, generator=g, dtype=torch.float64), torch.randn(last.shape, generator=g,
                                                                                 dtype=torch.float64)
    ((out.double() * w.to(inputs['u'].dtype).double()).sum() + (last.double() * v.float().double()).sum()).backward()
    grads = {k: t.grad for k, t in leaf.items() if t is not None and t.requires_grad}
    return out.detach(), last.detach(), grads


def relative(a, b):
    a, b = a.double(), b.double()
    return float((a - b).detach().norm() / b.norm().clamp_min(1e-12))


def check_scan(inputs, tol, softplus=True, **kw):
    out, last, grads = run(st.selective_scan_triton, inputs, softplus=softplus, **kw)
    want, want_last, want_grads = run(selective_scan_loop, inputs, torch.float64, softplus=softplus)
    assert out.dtype == inputs['u'].dtype and last.dtype == torch.float32
    errors = dict(out=relative(out, want), last=relative(last, want_last),
                  **{k: relative(grads[k], want_grads[k]) for k in want_grads})
    for k in want_grads:
        assert grads[k].dtype == inputs[k].dtype and grads[k].shape == inputs[k].shape, k
    bad = {k: e for k, e in errors.items() if not e < tol}
    assert not bad, (bad, errors)


@pytest.mark.parametrize('lengths', [[1], [5], [1, 9, 2, 1], [8, 16, 3]])
@pytest.mark.parametrize('N', [1, 4])
def test_ragged(lengths, N):
    check_scan(scan_inputs(lengths, 16, N), 2e-5)


@pytest.mark.parametrize('N', [3, 16, 20])
@pytest.mark.parametrize('D', [5, 32, 40])
def test_widths(N, D):
    check_scan(scan_inputs([6, 1, 11], D, N, seed=N + D), 2e-5)


@pytest.mark.parametrize('N', [33, 64])
def test_many_states(N):
    check_scan(scan_inputs([5, 1], 10, N, seed=N), 2e-5)


@pytest.mark.parametrize('off', ['z', 'skip', 'bias', 'h0', 'softplus'])
def test_optional(off):
    inputs = scan_inputs([7, 1, 10], 16, 4, **({} if off == 'softplus' else {off: False}))
    if off == 'softplus':
        inputs['delta'] = inputs['delta'].abs() * .3
        inputs['delta_bias'] = inputs['delta_bias'].abs()
    check_scan(inputs, 2e-5, softplus=off != 'softplus')


def test_bare():
    check_scan(scan_inputs([7, 1, 10], 16, 4, z=False, skip=False, bias=False, h0=False), 2e-5)


@pytest.mark.parametrize('dtype,tol', [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half(dtype, tol):
    check_scan(scan_inputs([9, 4], 32, 4, dtype), tol)


@pytest.mark.parametrize('change', [dict(unroll=4, keep=2), dict(keep=8), dict(separate=False), dict(transpose=False),
                                    dict(ahead_states=False), dict(float_bc=False), dict(save_states=True),
                                    dict(bwd_tile=4), dict(bwd_tile=16, keep=1), dict(tile=4), dict(registers=0),
                                    dict(warps=2), dict(bwd_block_d=16)])
def test_variants(change):
    check_scan(scan_inputs([19, 1, 8], 64, 16), 2e-5, config=st.scan_config(64, 16)._replace(**change))


def test_empty_sequences():
    """Not promised, but harmless: the state of an empty sequence passes through."""
    check_scan(scan_inputs([0, 5, 0, 3, 0], 16, 4), 2e-5)


def test_continues():
    """Two halves with the state carried over are the whole."""
    x = scan_inputs([12], 16, 4, h0=False)
    cu = lambda n: torch.tensor([0, n], dtype=torch.int32)
    part = lambda a, b: {k: v if k in ('A', 'D', 'delta_bias') or v is None else v[a:b] for k, v in x.items()
                         if k not in ('cu_seqlens', 'initial_state')}
    whole, last = st.selective_scan_triton(**part(0, 12), cu_seqlens=cu(12), return_last_state=True)
    one, state = st.selective_scan_triton(**part(0, 5), cu_seqlens=cu(5), return_last_state=True)
    two, end = st.selective_scan_triton(**part(5, 12), cu_seqlens=cu(7), initial_state=state, return_last_state=True)
    assert relative(torch.cat([one, two]), whole) < 1e-6 and relative(end, last) < 1e-6


@pytest.mark.parametrize('groups', [None, 2])
def test_plain_layout(groups):
    g = torch.Generator().manual_seed(3)
    rand = lambda *s: torch.randn(*s, generator=g)
    bc = (2, 4, 9) if groups is None else (2, groups, 4, 9)
    x = dict(u=rand(2, 16, 9), delta=rand(2, 16, 9), A=-torch.rand(16, 4, generator=g), B=rand(*bc), C=rand(*bc),
             D=rand(16), z=rand(2, 16, 9), delta_bias=rand(16), initial_state=rand(2, 16, 4))
    check_scan(x, 2e-5)


def test_messages():
    bad = scan_inputs([4], 16, 4)
    with pytest.raises(ValueError, match='multiple of keep'):
        run(st.selective_scan_triton, bad, config=st.scan_config(16, 4)._replace(unroll=2, save_states=True))

    x = bad
    with pytest.raises(ValueError, match='B has shape'):
        st.selective_scan_triton(**{**x, 'B': x['B'][:, :3]})
    with pytest.raises(ValueError, match='int32'):
        st.selective_scan_triton(**{**x, 'cu_seqlens': x['cu_seqlens'].long()})


# ---------------------------------------------------------------------------------------------- convolution
def conv_check(lengths, D, W, tol=2e-6, bias=True, state=True, activation='silu', dtype=torch.float32):
    g = torch.Generator().manual_seed(D + W)
    rand = lambda *s: torch.randn(*s, generator=g)
    tokens = sum(lengths)
    x = dict(x=rand(tokens, 2 * D).to(dtype)[:, D:], weight=rand(D, W), bias=rand(D) if bias else None,
             initial_state=rand(len(lengths), D, W - 1) if state else None,
             cu_seqlens=torch.tensor([0] + list(torch.tensor(lengths).cumsum(0)), dtype=torch.int32))
    w, v = rand(tokens, D), rand(len(lengths), D, W - 1)
    results = []
    for fn, kind in ((causal_conv1d_triton, None), (causal_conv1d_loop, torch.float64)):
        leaf = {k: (t.detach().clone().to(kind or t.dtype).requires_grad_() if t is not None and t.is_floating_point()
                    else t) for k, t in x.items()}
        out, last = fn(**leaf, return_last_state=True, activation=activation)
        ((out.double() * w.to(dtype).double()).sum() + (last.double() * v.double()).sum()).backward()
        results.append(dict(out=out, last=last, **{k: t.grad for k, t in leaf.items() if t is not None and
                                                   t.requires_grad}))
    errors = {k: relative(results[0][k], results[1][k]) for k in results[1]}
    assert all(e < tol for e in errors.values()), errors


@pytest.mark.parametrize('W', [2, 4, 8])
@pytest.mark.parametrize('lengths', [[1], [1, 2, 1, 9], [20, 0, 3]])
def test_conv(lengths, W):
    conv_check(lengths, 16, W)


def test_conv_options():
    conv_check([5, 1, 12], 20, 4, bias=False, state=False, activation=None)
    conv_check([5, 1, 12], 20, 3, bias=False)
    conv_check([150], 16, 4, state=False)
    conv_check([5, 1, 12], 16, 4, tol=1e-2, dtype=torch.bfloat16)


def test_conv_continues():
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(11, 8, generator=g), torch.randn(8, 4, generator=g)
    whole = causal_conv1d_triton(x, weight)
    one, state = causal_conv1d_triton(x[:2], weight, return_last_state=True)
    two = causal_conv1d_triton(x[2:], weight, initial_state=state)
    assert relative(torch.cat([one, two]), whole) < 1e-6
