"""The Triton kernels in Triton's interpreter, on the CPU, against a plain loop in float64.

The interpreter must be chosen before Triton is imported, and other tests of the same process may have imported it already. So pytest
sees one test here, which runs this file once more in a process of its own; `TRITON_INTERPRET=1 python -m pytest tests/test_kernels.py`
runs the tests one by one. The CUDA kernels run there too, lane by lane on the processor, where there is a C++ compiler (SEGVID_LANES=emulate)."""
import os, shutil, subprocess, sys
from importlib.util import find_spec
import pytest, torch
import torch.nn.functional as F

interpreted = os.environ.get('TRITON_INTERPRET') == '1'
if find_spec('triton') is None: pytest.skip('Triton is not on this machine: its kernels are not tested', allow_module_level=True)
if interpreted:
    from segvid.kernels import ScanConfig, conv_packed, mixer_packed, scan_config, scan_packed
    from segvid.maps import add_norm, resized_losses, sum_resized
inside = pytest.mark.skipif(not interpreted, reason='runs in a process of its own, see test_in_a_process_of_its_own')
lanes = pytest.mark.skipif(os.environ.get('SEGVID_LANES') != 'emulate', reason='runs with SEGVID_LANES=emulate, which needs a C++ compiler')

@pytest.mark.skipif(interpreted, reason='this is the process')
def test_in_a_process_of_its_own():
    env = dict(os.environ, TRITON_INTERPRET='1', OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', SEGVID_LANES='emulate' if shutil.which('g++') else 'off')
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', __file__], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert run.stdout.split()[0].count('.') > 40, run.stdout                # that many tests did run

# ------------------------------------------------------------------------------------------------ references
def offsets(lengths): return torch.tensor([0] + list(torch.tensor(lengths).cumsum(0)), dtype=torch.int32)

def scan_loop(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, initial_state=None, cu_seqlens=None):
    "One token after the other, for each sequence; differentiable, in the dtype of its arguments"
    if delta_bias is not None: delta = delta + delta_bias
    if delta_softplus: delta = F.softplus(delta, threshold=40)
    if B.dim() == 3: B, C = (m.repeat_interleave(u.shape[1]//m.shape[1], 1) for m in (B, C))                 # (L,D,N)
    else: B, C = (m[:, None].expand(-1, u.shape[1], -1) for m in (B, C))
    ys, last = [], []
    for s, (first, end) in enumerate(zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:])):
        h = u.new_zeros(A.shape) if initial_state is None else initial_state[s]
        for t in range(first, end):
            h = torch.exp(delta[t, :, None]*A)*h + (delta[t]*u[t])[:, None]*B[t]
            ys.append((h*C[t]).sum(-1))
        last.append(h)
    y = torch.stack(ys)
    if D is not None: y = y + D*u
    return (y if z is None else y*F.silu(z)), torch.stack(last)

def conv_loop(x, weight, bias=None, initial_state=None, cu_seqlens=None, silu=True):
    "Each sequence behind its own past"
    width, outs, last = weight.shape[1], [], []
    for s, (first, end) in enumerate(zip(cu_seqlens.tolist(), cu_seqlens.tolist()[1:])):
        past = x.new_zeros(width - 1, x.shape[1]) if initial_state is None else initial_state[s]
        seq = torch.cat([past, x[first:end]])
        y = sum(weight[:, w]*seq[w:w + end - first] for w in range(width))
        outs.append(y if bias is None else y + bias)
        last.append(seq[len(seq) - (width - 1):])
    y = torch.cat(outs)
    return (F.silu(y) if silu else y), torch.stack(last)

# ------------------------------------------------------------------------------------------------ comparison
def scan_inputs(lengths, D, N, dtype=torch.float32, groups=None, off=(), seed=0):
    "Random packed inputs; u and z, B and C are slices of wider rows, so that strides differ from widths"
    g = torch.Generator().manual_seed(seed)
    rand = lambda *s: torch.randn(*s, generator=g)
    L, G = sum(lengths), groups or 1
    uz, bc = rand(L, 2*D).to(dtype), rand(L, 3 + 2*G*N).to(dtype)
    B, C = bc[:, 3:3 + G*N], bc[:, 3 + G*N:]
    if groups: B, C = B.unflatten(1, (G, N)), C.unflatten(1, (G, N))
    x = dict(u=uz[:, :D], delta=(rand(L, D) - 1).to(dtype), A=-torch.rand(D, N, generator=g)*4 + .2, B=B, C=C, D=rand(D), z=uz[:, D:],
             delta_bias=rand(D)*.3, initial_state=rand(len(lengths), D, N), cu_seqlens=offsets(lengths))
    return {k: v for k, v in x.items() if k not in off}

def results(fn, inputs, dtype=None, seed=1, use=('out', 'last'), **kw):
    "Outputs, and gradients of a random linear function of those named in `use`"
    leaf = {k: v.detach().clone().to(dtype or v.dtype).requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()}
    out, last = fn(**leaf, **kw)
    g = torch.Generator().manual_seed(seed)
    random = lambda x: torch.randn(x.shape, generator=g, dtype=torch.float64)
    w, v = random(out).to(next(iter(inputs.values())).dtype).double(), random(last).float().double()
    loss = sum(dict(out=(out.double()*w).sum(), last=(last.double()*v).sum())[k] for k in use)
    names = [k for k, x in leaf.items() if x.is_floating_point()]
    grads = torch.autograd.grad(loss, [leaf[k] for k in names], allow_unused=True)
    return dict(out=out.detach(), last=last.detach()) | {'d' + k: torch.zeros_like(leaf[k]) if x is None else x for k, x in zip(names, grads)}

def same(fn, loop, inputs, tolerance, use=('out', 'last'), config=None, **kw):
    more = {} if config is None else dict(config=config)
    got, want = results(fn, inputs, use=use, **kw, **more), results(loop, inputs, torch.float64, use=use, **kw)
    first = next(iter(inputs.values()))
    assert got['out'].dtype == first.dtype and got['last'].dtype == torch.float32
    for k, v in inputs.items():
        if 'd' + k in got: assert got['d' + k].dtype == v.dtype and got['d' + k].shape == v.shape, k
    errors = {k: float((got[k].double() - want[k]).norm()/want[k].norm().clamp_min(1e-12)) for k in want}
    assert all(e < tolerance for e in errors.values()), errors

def same_scan(inputs, tolerance=2e-5, softplus=True, **kw): same(scan_packed, scan_loop, inputs, tolerance, delta_softplus=softplus, **kw) if interpreted else None

# ------------------------------------------------------------------------------------------------ the scan
@inside
@pytest.mark.parametrize('lengths', [[1], [5], [1, 19, 2, 1], [16, 3]])
@pytest.mark.parametrize('N', [1, 4])
def test_ragged(lengths, N): same_scan(scan_inputs(lengths, 8, N))

@inside
@pytest.mark.parametrize('N,D', [(3, 1), (3, 40), (16, 5), (16, 32), (20, 5), (20, 17)])
def test_widths(N, D): same_scan(scan_inputs([6, 1], D, N, seed=N + D))

@inside
@pytest.mark.parametrize('N', [33, 64])
def test_many_states(N): same_scan(scan_inputs([5, 1], 10, N, seed=N))

@inside
@pytest.mark.parametrize('off', [('z',), ('D',), ('delta_bias',), ('initial_state',), ('z', 'D', 'delta_bias', 'initial_state')])
def test_optional(off): same_scan(scan_inputs([6, 1], 16, 4, off=off))

@inside
def test_step_as_it_is():
    x = scan_inputs([6, 1], 16, 4)
    same_scan(x | dict(delta=x['delta'].abs()*.3, delta_bias=x['delta_bias'].abs()), softplus=False)

@inside
@pytest.mark.parametrize('dtype,tolerance', [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half(dtype, tolerance): same_scan(scan_inputs([7, 2], 16, 4, dtype), tolerance)

@inside
@pytest.mark.parametrize('groups', [1, 2])
def test_groups(groups): same_scan(scan_inputs([5, 2], 16, 4, groups=groups))

@inside
@pytest.mark.parametrize('change', [dict(unroll=4, keep=2, tile=4), dict(keep=8), dict(keep=1, bwd_tile=4), dict(save_states=True),
                                    dict(block_d=8, bwd_block_d=32), dict(block_d=32, unroll=32, save_states=True)])
def test_every_cut_gives_the_same(change): same_scan(scan_inputs([18, 1], 10, 16), config=ScanConfig()._replace(**change))

@inside
@pytest.mark.parametrize('use', ['out', 'last'])
def test_one_gradient_missing(use):
    for save in (False, True): same_scan(scan_inputs([5, 2], 8, 4), use=(use,), config=scan_config(4)._replace(save_states=save))

@inside
def test_empty_sequences_hand_their_state_on(): same_scan(scan_inputs([0, 5, 0, 3, 0], 16, 4))

@inside
def test_parts_equal_whole():
    x = scan_inputs([12], 16, 4, off=('initial_state', 'cu_seqlens'))
    part = lambda a, b: {k: v if k in ('A', 'D', 'delta_bias') else v[a:b] for k, v in x.items()}
    whole, last = scan_packed(**x, delta_softplus=True)
    one, state = scan_packed(**part(0, 5), delta_softplus=True)
    two, end = scan_packed(**part(5, 12), delta_softplus=True, initial_state=state)
    assert torch.allclose(torch.cat([one, two]), whole, atol=1e-5) and torch.allclose(end, last, atol=1e-5)

@inside
def test_agrees_with_the_scan_room():
    from segvid.scan import selective_scan
    x = scan_inputs([11, 11], 16, 4)
    turn = lambda v: v.unflatten(0, (2, 11)).transpose(1, 2)
    plain = {k: turn(v) if k in ('u', 'delta', 'z', 'B', 'C') else v for k, v in x.items() if k != 'cu_seqlens'}
    want, end = selective_scan(**plain, delta_softplus=True, return_last_state=True)
    out, last = scan_packed(**x, delta_softplus=True)
    assert torch.allclose(turn(out), want, atol=1e-4) and torch.allclose(last, end, atol=1e-4)

@inside
@pytest.mark.parametrize('change,message', [(lambda x: x | dict(B=x['B'][:, :3]), 'B has shape'), (lambda x: x | dict(z=x['z'][:2]), 'z has shape'),
    (lambda x: x | dict(cu_seqlens=x['cu_seqlens'].long()), 'expected torch.int32'), (lambda x: x | dict(initial_state=x['initial_state'][0]), 'initial_state has shape'),
    (lambda x: x | dict(A=x['A'].repeat(1, 17)), 'takes 1 to 64'), (lambda x: x | dict(B=x['B'][:, None].expand(-1, 3, -1)), 'B has 3 groups'),
    (lambda x: x | dict(config=ScanConfig()._replace(unroll=6)), 'multiple of keep=4')])
def test_messages(change, message):
    with pytest.raises(ValueError, match=message): scan_packed(**change(scan_inputs([4], 16, 4)))

@inside
def test_no_tokens():
    with pytest.raises(ValueError, match='at least one token'): conv_packed(torch.zeros(0, 4), torch.zeros(4, 2))

# ------------------------------------------------------------------------------------------------ the same scan, lane by lane
@pytest.fixture
def watched(monkeypatch):
    "A test that took the Triton kernels by mistake fails"
    from segvid import lanes as module
    calls, plain = [], module._compiled
    monkeypatch.setattr(module, '_compiled', lambda *args: calls.append(args) or plain(*args))
    yield
    assert calls, 'no CUDA kernel ran'

@inside
@lanes
@pytest.mark.parametrize('lengths,D', [([1], 16), ([33], 32), ([16, 3, 0, 32, 1], 16), ([70, 5], 48)])
def test_lanes_ragged(lengths, D, watched): same_scan(scan_inputs(lengths, D, 16))

@inside
@lanes
@pytest.mark.parametrize('dtype,tolerance', [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_lanes_half(dtype, tolerance, watched): same_scan(scan_inputs([35, 2], 32, 16, dtype), tolerance)

@inside
@lanes
@pytest.mark.parametrize('off', [('z',), ('initial_state',), ('z', 'D', 'delta_bias', 'initial_state')])
def test_lanes_optional(off, watched): same_scan(scan_inputs([18, 1], 16, 16, off=off))

@inside
@lanes
@pytest.mark.parametrize('coarse', [0, 16, 32])
@pytest.mark.parametrize('use', ['out', 'last'])
def test_lanes_kept_states(coarse, use, watched): same_scan(scan_inputs([34, 2], 16, 16), use=(use,), config=ScanConfig(coarse=coarse))

@inside
@lanes
def test_lanes_step_as_it_is(watched):
    x = scan_inputs([6, 1], 16, 16)
    same_scan(x | dict(delta=x['delta'].abs()*.3, delta_bias=x['delta_bias'].abs()), softplus=False)

@inside
@lanes
def test_lanes_groups(watched): same_scan(scan_inputs([5, 2], 32, 16, groups=2))

@inside
@lanes
@pytest.mark.parametrize('length,dtype,tolerance', [(40, torch.float32, 2e-5), (40, torch.bfloat16, 1e-2), (7, torch.float32, 2e-5)])
def test_lanes_channels_first(length, dtype, tolerance, watched):
    "A batch (B,D,L) gives what packed rows give, and comes back in its own order"
    from segvid.scan import selective_scan
    x = scan_inputs([length]*2, 16, 16, dtype)
    turn = lambda v: v.unflatten(0, (2, length)).movedim(1, -1).contiguous()
    batch = {k: turn(v) if k in ('u', 'delta', 'z', 'B', 'C') else v for k, v in x.items() if k != 'cu_seqlens'}
    def run(**leaf): return selective_scan(**leaf, delta_softplus=True, return_last_state=True, backend='triton')
    got, want = results(run, batch), results(scan_loop, x, torch.float64, delta_softplus=True)
    if length % 8 == 0: assert got['out'].is_contiguous() and got['out'].shape == (2, 16, length)
    g = torch.Generator().manual_seed(1)
    for k in ('out', 'last'):
        flat = got[k].movedim(-1, 1).flatten(0, 1) if k == 'out' else got[k]
        assert float((flat.double() - want[k]).norm()/want[k].norm()) < tolerance, k

@inside
@lanes
def test_lanes_gradients_channels_first(watched):
    from segvid.scan import selective_scan
    x = scan_inputs([24]*2, 16, 16)
    turn = lambda v: v.unflatten(0, (2, 24)).movedim(1, -1)
    def first(contiguous, **leaf):
        batch = {k: turn(v).contiguous() if contiguous and k in ('u', 'delta', 'z', 'B', 'C') else turn(v) if k in ('u', 'delta', 'z', 'B', 'C') else v for k, v in leaf.items() if k != 'cu_seqlens'}
        y, last = selective_scan(**batch, delta_softplus=True, return_last_state=True, backend='triton')
        return y.movedim(-1, 1).flatten(0, 1), last
    for contiguous in (True, False): same(lambda delta_softplus, **leaf: first(contiguous, **leaf), scan_loop, x, 2e-5, delta_softplus=True)

@inside
@lanes
def test_lanes_can_be_repeated(watched):
    runs = [results(scan_packed, scan_inputs([35, 2], 32, 16), delta_softplus=True) for _ in range(2)]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])

@inside
@lanes
def test_lanes_compile_without_a_break(watched):
    torch._dynamo.reset()
    x = {k: v.detach().clone().requires_grad_() if v.is_floating_point() else v for k, v in scan_inputs([18, 2], 16, 16).items()}
    def run(f):
        out = f(**x, delta_softplus=True)
        return [*out, *torch.autograd.grad(sum(o.square().sum() for o in out), [v for v in x.values() if v.requires_grad])]
    for a, b in zip(run(torch.compile(scan_packed, fullgraph=True, backend='aot_eager')), run(scan_packed), strict=True): assert torch.allclose(a, b, atol=1e-5)
    from torch._dynamo.utils import counters
    counters.clear()

@inside
@lanes
def test_lanes_keep_the_promises_of_operators(watched):
    from segvid.kernels import _scan_forward
    x, checks = scan_inputs([2, 17], 16, 16, off=('initial_state',)), ('test_schema', 'test_autograd_registration', 'test_faketensor')
    tensors = x['u'], x['delta'], x['A'].t().contiguous(), x['B'], x['C'], x['D'], x['delta_bias'], x['z'], torch.randn(2, 16, 16)
    for save in (False, True):
        torch.library.opcheck(_scan_forward, ([t.detach().clone().requires_grad_() for t in tensors] + [x['cu_seqlens'], True, save, [int(v) for v in ScanConfig()]]), test_utils=checks)

# ------------------------------------------------------------------------------------------------ the convolution
def same_conv(lengths, D, W, tolerance=2e-6, off=(), dtype=torch.float32, **kw):
    g = torch.Generator().manual_seed(D + W)
    rand = lambda *s: torch.randn(*s, generator=g)
    x = dict(x=rand(sum(lengths), 2*D).to(dtype)[:, D:], weight=rand(D, W), bias=rand(D), initial_state=rand(len(lengths), W - 1, D), cu_seqlens=offsets(lengths))
    same(conv_packed, conv_loop, {k: v for k, v in x.items() if k not in off}, tolerance, **kw)

@inside
@pytest.mark.parametrize('W', [2, 4, 8])
@pytest.mark.parametrize('lengths', [[1], [1, 2, 1, 9], [20, 0, 3]])
def test_conv(lengths, W): same_conv(lengths, 16, W)

@inside
def test_conv_options():
    same_conv([5, 1, 12], 20, 4, off=('bias', 'initial_state'), silu=False)
    same_conv([5, 1, 12], 20, 3, off=('bias',), use=('out',))
    same_conv([5, 1, 12], 20, 3, use=('last',))
    same_conv([40], 4, 4, off=('initial_state',))
    same_conv([5, 1, 12], 16, 4, tolerance=1e-2, dtype=torch.bfloat16)

@inside
def test_conv_parts_equal_whole():
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(11, 8, generator=g), torch.randn(8, 4, generator=g)
    whole, last = conv_packed(x, weight)
    one, state = conv_packed(x[:2], weight)
    two, end = conv_packed(x[2:], weight, initial_state=state)
    assert torch.allclose(torch.cat([one, two]), whole, atol=1e-6) and torch.equal(end, last)

# ------------------------------------------------------------------------------------------------ as operators
def layer(u, delta, A, B, C, D, z, delta_bias, initial_state, weight, conv_state, cu_seqlens):
    u, conv_state = conv_packed(u, weight, None, conv_state, cu_seqlens)
    return *scan_packed(u, delta, A, B, C, D, z, delta_bias, True, initial_state, cu_seqlens), conv_state

def layer_runs(f, lengths):
    g = torch.Generator().manual_seed(3)
    x = scan_inputs(lengths, 4, 4) | dict(weight=torch.randn(4, 4, generator=g), conv_state=torch.randn(len(lengths), 3, 4, generator=g))
    x = {k: v.detach().clone().requires_grad_() if v.is_floating_point() else v for k, v in x.items()}
    out = f(**x)
    return [*out, *torch.autograd.grad(sum(o.square().sum() for o in out), [v for v in x.values() if v.requires_grad])]

@inside
@pytest.mark.parametrize('dynamic', [False, True])
def test_compiles_without_a_break(dynamic):
    "One graph through both operators and back gives the same numbers; with dynamic shapes, other lengths too without compiling again"
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    for lengths in ([(2, 3), (3, 1)] if dynamic else [(2, 3)]):
        want, got = layer_runs(layer, lengths), layer_runs(compiled, lengths)
        assert len(want) == len(got) == 14
        for a, b in zip(got, want): assert torch.allclose(a, b, atol=1e-5)
    from torch._dynamo.utils import counters
    assert counters['stats']['unique_graphs'] == 1
    counters.clear()

@inside
def test_operators_keep_their_promises():
    "PyTorch's own checks: schema and aliasing, fake outputs, autograd registration"
    from segvid.kernels import _conv_forward, _scan_forward
    x, checks = scan_inputs([2, 3], 4, 4, off=('initial_state',)), ('test_schema', 'test_autograd_registration', 'test_faketensor')
    tensors = x['u'], x['delta'], x['A'].t().contiguous(), x['B'], x['C'], x['D'], x['delta_bias'], x['z'], torch.randn(2, 4, 4)
    args = [t.detach().clone().requires_grad_() for t in tensors]
    for save in (False, True):
        torch.library.opcheck(_scan_forward, (*args, x['cu_seqlens'], True, save, [int(v) for v in scan_config(4)]), test_utils=checks)
    weight, bias = torch.randn(4, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    torch.library.opcheck(_conv_forward, (args[0], weight, bias, None, x['cu_seqlens'], True), test_utils=checks)

@inside
def test_gradients_can_be_repeated():
    runs = [results(scan_packed, scan_inputs([5, 2], 33, 4), delta_softplus=True) for _ in range(2)]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])

# ------------------------------------------------------------------------------------------------ a whole mixer, and what lies between the layers
def mixer_loop(x, in_w, conv_w, conv_b, x_w, dt_w, dt_b, A, D, out_w, conv_state=None, scan_state=None, cu_seqlens=None):
    "A Mamba layer by the loops above"
    u, z = (x @ in_w.t()).chunk(2, 1)
    u, last = conv_loop(u, conv_w, conv_b, conv_state, cu_seqlens)
    dt, B, C = (u @ x_w.t()).split([dt_w.shape[1], A.shape[1], A.shape[1]], 1)
    y, end = scan_loop(u, dt @ dt_w.t(), A, B, C, D, z, dt_b, True, scan_state, cu_seqlens)
    return y @ out_w.t(), last, end

def gradients(fn, tensors, seed, **kw):
    "Outputs, and the gradients of a random linear function of them"
    leaves = {k: None if v is None else v.detach().clone().requires_grad_() for k, v in tensors.items()}
    outs, g = fn(**leaves, **kw), torch.Generator().manual_seed(seed)
    loss = sum((o.double()*torch.randn(o.shape, generator=g, dtype=torch.float64)).sum() for o in outs)
    return [*outs, *torch.autograd.grad(loss, [v for v in leaves.values() if v is not None])]

def alike(got, want, tolerance):
    for a, b in zip(got, want, strict=True): assert a.shape == b.shape and float((a.double() - b.double()).norm()) < tolerance*max(1e-3, float(b.double().norm()))

@inside
@pytest.mark.parametrize('lengths,states', [([5, 1], True), ([2, 7], False)])
@pytest.mark.parametrize('dtype,tolerance', [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_mixer(lengths, states, dtype, tolerance): same_mixer(lengths, states, dtype, tolerance, 10, 4)

@inside
@lanes
@pytest.mark.parametrize('coarse', [0, 32])
@pytest.mark.parametrize('dtype,tolerance', [(torch.float32, 3e-5), (torch.bfloat16, 3e-2)])
def test_lanes_mixer(coarse, dtype, tolerance, watched):
    same_mixer([34, 3], True, dtype, tolerance, 16, 16, ScanConfig(coarse=coarse))
    same_mixer([5], False, dtype, tolerance, 32, 16, ScanConfig(coarse=coarse))

def same_mixer(lengths, states, dtype, tolerance, D, N, config=None):
    g = torch.Generator().manual_seed(len(lengths) + states)
    rand = lambda *s: torch.randn(*s, generator=g)
    L, S, C, rank = sum(lengths), len(lengths), 6, 3
    x = dict(x=rand(L, C), in_w=rand(2*D, C)*.4, conv_w=rand(D, 4)*.5, conv_b=rand(D), x_w=rand(rank + 2*N, D)*.3, dt_w=rand(D, rank)*.5, dt_b=rand(D) - 1, A=-rand(D, N).exp(), D=rand(D),
             out_w=rand(C, D)*.4, conv_state=rand(S, 3, D) if states else None, scan_state=rand(S, D, N) if states else None)
    double = {k: None if v is None else v.double() for k, v in x.items()}
    alike(gradients(mixer_packed, x | dict(x=x['x'].to(dtype)), 1, cu_seqlens=offsets(lengths), config=config), gradients(mixer_loop, double, 1, cu_seqlens=offsets(lengths)), tolerance)

@inside
@pytest.mark.parametrize('rows,C', [(1, 1), (7, 5), (70, 32), (3, 320)])
@pytest.mark.parametrize('kind', [torch.nn.LayerNorm, torch.nn.RMSNorm])
def test_add_norm(rows, C, kind):
    g = torch.Generator().manual_seed(rows)
    x, branch, norm = torch.randn(rows, C, generator=g), torch.randn(rows, C, generator=g), kind(C, eps=1e-5)
    order, group, scale = torch.randperm(rows, generator=g), torch.randint(0, 3, (rows,), generator=g), torch.rand(3, generator=g)
    def plain(x, branch):
        total = x[order] + branch[order]*scale[group][:, None]
        return total, norm(total)
    alike(gradients(lambda x, branch: add_norm(x, branch, norm, scale, group, order, order.argsort()), dict(x=x, branch=branch), 2), gradients(plain, dict(x=x, branch=branch), 2), 1e-5)
    total, y = add_norm(x.bfloat16(), branch.bfloat16(), norm, stream=torch.float32, dtype=torch.bfloat16)
    assert (total.dtype, y.dtype) == (torch.float32, torch.bfloat16) and (y.float() - norm(total)).abs().max() < .05

def resized(m, size): return F.interpolate(m, size, mode='bilinear', align_corners=False)

@inside
@pytest.mark.parametrize('small,size', [((1, 1), (3, 2)), ((3, 5), (12, 20)), ((4, 3), (3, 4)), ((5, 2), (7, 31)), ((9, 8), (4, 3)), ((2, 3), (2, 3))])
def test_gradients_of_resizing_and_loss(small, size):
    g = torch.Generator().manual_seed(small[0])
    maps, y = torch.randn(2, 5, *small, generator=g), torch.randint(0, 5, (2, *size), generator=g)
    y[torch.rand(y.shape, generator=g) < .3] = 255
    last = lambda m: m.permute(0, 2, 3, 1)
    alike(gradients(lambda m: [sum_resized([last(m)], *size)], dict(m=maps), 3), gradients(lambda m: [last(resized(m, size))], dict(m=maps), 3), 1e-5)
    plain = lambda m: [F.cross_entropy(resized(m, size), y, ignore_index=255, reduction='none').sum((1, 2))]
    alike(gradients(lambda m: resized_losses(m, y)[:1], dict(m=maps), 4), gradients(plain, dict(m=maps), 4), 1e-5)
    assert resized_losses(maps, y)[1].tolist() == (y != 255).sum((1, 2)).tolist()

@inside
@pytest.mark.parametrize('checkpoints', [('mixer', 'mlp'), (True, True)])
def test_a_model_with_all_kernels_learns_as_without(checkpoints, monkeypatch):
    from segvid.metrics import ClipLoss
    from segvid.segmenter import video_segmenter
    def run(maps, scan):
        monkeypatch.setenv('SEGVID_MAPS', maps); monkeypatch.setenv('SEGVID_SCAN', scan)
        torch.manual_seed(0)
        model = video_segmenter('mit_b0', 3, embed_dim=16, depth=2, window=2, shift=1, d_state=2, drop_path=0., dropout=0., encoder_options=dict(drop_path_rate=0.))
        model.head.mamba.grad_checkpointing = checkpoints[0]; model.encoder.set_grad_checkpointing(checkpoints[1])
        loss = ClipLoss()(model(torch.randn(1, 2, 3, 32, 32)), torch.randint(0, 3, (1, 2, 32, 32)))
        names, parameters = zip(*model.named_parameters())
        return loss, dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True)))
    (loss, want), (other, got) = run('plain', 'chunked'), run('kernels', 'triton')
    assert abs(loss - other) < 1e-5
    scale = max(w.norm() for w in want.values() if w is not None)
    for name, w in want.items(): assert w is None or (got[name] - w).norm() < 1e-4*max(w.norm(), 1e-2*scale), name
