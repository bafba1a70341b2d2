"The compiled loop of the processor: every rung below it, ragged sequences, bits that stay the same, and what happens without numba."
import os, subprocess, sys
import pytest, torch
from hypothesis import given, settings, strategies as st
from segvid.scan import has_numbers, scan_backend, selective_scan, selective_scan_ref

pytest.importorskip('numba')
from segvid import cpu_scan
from segvid.cpu_scan import block_width, scan_compiled, share

TOKENWISE = ('u', 'delta', 'B', 'C', 'z')

def arguments(b, d, l, n, groups=None, options=('D', 'z', 'delta_bias', 'initial_state'), seed=0, softplus=True):
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g)
    bc = (b, n, l) if groups is None else (b, groups, n, l)
    x = dict(u=r(b, d, l), delta=r(b, d, l) if softplus else r(b, d, l).abs()/2, A=-torch.exp(r(d, n)), B=r(*bc), C=r(*bc))
    more = dict(D=r(d), z=r(b, d, l), delta_bias=r(d) if softplus else r(d).abs()/2, initial_state=r(b, d, n))
    return x | {k: v for k, v in more.items() if k in options} | dict(delta_softplus=softplus)

def results(f, x, dtype=torch.float32):
    "Output, last state and all gradients, by name"
    x = {k: v.to(dtype).requires_grad_() if torch.is_tensor(v) else v for k, v in x.items()}
    y, last = f(**x, return_last_state=True)
    g = torch.Generator().manual_seed(1)
    ups = [torch.randn(t.shape, generator=g).to(t.dtype) for t in (y, last)]
    leaves = {k: v for k, v in x.items() if torch.is_tensor(v)}
    return dict(y=y, last=last) | dict(zip(leaves, torch.autograd.grad((y, last), list(leaves.values()), ups)))

def numba(**x): return selective_scan(**x, backend='numba')

def check(x, tol=3e-5):
    "Against the loop in float64: the error relative to the largest number of each result"
    got, want = results(numba, x), results(selective_scan_ref, x, torch.float64)
    for name in want:
        scale = want[name].abs().max().clamp(min=1)
        assert got[name].shape == want[name].shape
        assert (got[name] - want[name]).abs().max() <= tol*scale, (name, (got[name] - want[name]).abs().max()/scale)

@settings(max_examples=60, deadline=None)
@given(b=st.integers(1, 5), heads=st.integers(1, 40), l=st.integers(1, 100), n=st.integers(1, 20), groups=st.sampled_from([None, 1, 2, 3]),
       options=st.sets(st.sampled_from(['D', 'z', 'delta_bias', 'initial_state'])), softplus=st.booleans(), seed=st.integers(0, 99))
def test_is_the_recurrence(b, heads, l, n, groups, options, softplus, seed):
    check(arguments(b, heads*(groups or 1), l, n, groups, options, seed, softplus))

@pytest.mark.parametrize('b, d, l, n', [(1, 1, 1, 1), (1, 1, 70, 64), (2, 1300, 33, 2), (7, 513, 9, 16), (1, 129, 32, 64), (1, 512, 31, 1)])
def test_shapes_at_the_edges_of_blocks_and_chunks(b, d, l, n): check(arguments(b, d, l, n))

@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=7), d=st.integers(1, 30), n=st.integers(1, 17), seed=st.integers(0, 99))
def test_packed_sequences_are_sequences(lengths, d, n, seed):
    "Ragged rows: outputs, states and gradients as from the chunked scan"
    x = arguments(1, d, sum(lengths), n, options=('D', 'z', 'delta_bias'), seed=seed)
    x |= dict(initial_state=torch.randn(len(lengths), d, n), cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32))
    def run(backend):
        own = {k: v.clone().requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in x.items()}
        y, last = selective_scan(**own, return_last_state=True, backend=backend)
        leaves = [v for v in own.values() if torch.is_tensor(v) and v.requires_grad]
        return [y, last, *torch.autograd.grad((y*torch.arange(y.shape[-1])).sum()/y.shape[-1] + last.sin().sum(), leaves)]
    for got, want in zip(run('numba'), run('chunked')):
        assert (got - want).abs().max() <= 1e-4*want.abs().max().clamp(min=1)

@settings(max_examples=20, deadline=None)
@given(l=st.integers(2, 80), cut=st.floats(0, 1))
def test_parts_equal_whole(l, cut):
    x, k = arguments(2, 20, l, 4), 1 + int(cut*(l - 2))
    part = lambda lo, hi: {n: v[..., lo:hi] if n in TOKENWISE else v for n, v in x.items()}
    whole, last = numba(**x, return_last_state=True)
    first, state = numba(**part(0, k), return_last_state=True)
    second, end = numba(**{**part(k, l), 'initial_state': state}, return_last_state=True)
    assert torch.equal(torch.cat([first, second], -1), whole) and torch.equal(end, last)        # the very same arithmetic

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_in_and_out_float32_inside(dtype):
    x = arguments(2, 40, 60, 8)
    low = {k: v.to(dtype) if k in TOKENWISE else v for k, v in x.items()}
    got, want = results_of(low), results_of({k: v.to(dtype).float() if k in TOKENWISE else v for k, v in x.items()})
    assert got['y'].dtype == dtype and got['last'].dtype == torch.float32 and got['u'].dtype == dtype and got['A'].dtype == torch.float32
    assert torch.equal(got['last'], want['last'])                                              # nothing is rounded on the way
    assert torch.equal(got['y'], want['y'].to(dtype))

def results_of(x):
    x = {k: v.clone().requires_grad_() if torch.is_tensor(v) else v for k, v in x.items()}
    y, last = numba(**x, return_last_state=True)
    leaves = {k: v for k, v in x.items() if torch.is_tensor(v)}
    return dict(y=y, last=last) | dict(zip(leaves, torch.autograd.grad((y.float().sum() + last.sum()), list(leaves.values()))))

def test_same_bits_in_every_run_and_with_any_number_of_threads(monkeypatch):
    x, before = arguments(5, 700, 50, 16), torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 2, 7):
            torch.set_num_threads(threads)
            runs.append(results(numba, x))
    finally: torch.set_num_threads(before)
    for run in runs[1:]:
        for name in run: assert torch.equal(run[name], runs[0][name]), name

def test_rows_with_gaps_and_transposed_rows():
    "Half of a wider row, and channels that do not lie side by side"
    x = {k: (v[0].t() if k in TOKENWISE else v) for k, v in arguments(1, 24, 40, 4).items()}
    want, _ = scan_compiled(**{k: v.contiguous() if torch.is_tensor(v) else v for k, v in x.items()})
    wide = torch.randn(40, 72)
    wide[:, 24:48] = x['z']; wide[:, 48:] = x['u']
    got, _ = scan_compiled(**{**x, 'z': wide[:, 24:48], 'u': wide[:, 48:]})
    assert torch.equal(got, want)
    assert torch.equal(scan_compiled(**{**x, 'delta': x['delta'][:1].expand(40, 24)})[0], scan_compiled(**{**x, 'delta': x['delta'][:1].repeat(40, 1)})[0])

@pytest.mark.parametrize('big', [1., 30., 200., 1e6])
def test_large_steps_do_not_overflow(big):
    x = arguments(1, 4, 40, 16, options=()); x['delta'] = torch.full_like(x['delta'], big)
    got, want = numba(**x), selective_scan_ref(**x)
    assert torch.isfinite(got).all() and torch.allclose(got, want, rtol=1e-4, atol=1e-3*big)

@pytest.mark.parametrize('name', ['u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'initial_state'])
def test_nan_is_not_lost(name):
    "One NaN anywhere is seen in the output of its channel or token, as in the reference"
    x = arguments(1, 6, 10, 3)
    x[name].view(-1)[0] = float('nan')
    assert torch.equal(numba(**x).isnan(), selective_scan_ref(**x).isnan())

def test_what_is_kept_for_the_backward_pass_is_small():
    kept, x = [], arguments(2, 64, 512, 16)
    x['u'].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t): numba(**x)
    assert sum(kept) < 2*64*512*16/2                                                           # (B,D,L,N) is never there

def test_nothing_is_kept_without_gradients():
    x = arguments(1, 8, 100, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t): numba(**x)
    assert not kept

def test_some_inputs_need_no_gradient():
    x = arguments(2, 10, 40, 4)
    x['B'].requires_grad_()
    gB, = torch.autograd.grad(numba(**x).sum(), x['B'])
    x['u'].requires_grad_()
    assert torch.equal(torch.autograd.grad(numba(**x).sum(), x['B'])[0], gB)

def test_double_precision_stays_double():
    x = {k: v.double() if torch.is_tensor(v) else v for k, v in arguments(2, 6, 20, 4).items()}
    got, want = numba(**x), selective_scan_ref(**x)
    assert got.dtype == torch.float64 and torch.allclose(got, want, rtol=1e-11, atol=1e-11)

def test_traced_transformed_and_fake_tensors_take_the_chunked_scan():
    x = arguments(1, 4, 20, 3)
    want = selective_scan_ref(**x)
    others = {k: v for k, v in x.items() if k != 'u'}
    compiled = torch.compile(lambda u: selective_scan(u, **others, backend='numba'), backend='eager', fullgraph=True)
    assert torch.allclose(compiled(x['u']), want, atol=1e-4)
    from torch._subclasses import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True) as mode: fake = selective_scan(mode.from_tensor(x['u']), **others, backend='numba')
    assert fake.shape == want.shape and not has_numbers(fake)
    program = torch.export.export(Scan(others), (x['u'],))
    assert torch.allclose(program.module()(x['u']), want, atol=1e-4)

class Scan(torch.nn.Module):
    def __init__(self, others):
        super().__init__()
        self.others = others
    def forward(self, u): return selective_scan(u, **self.others, backend='numba')

def test_threads_from_threads():
    "Two Python threads that scan at once do not disturb each other"
    from concurrent.futures import ThreadPoolExecutor
    inputs = [arguments(3, 300, 40, 8, seed=seed) for seed in range(6)]
    want = [results(numba, x) for x in inputs]
    with ThreadPoolExecutor(3) as pool: got = list(pool.map(lambda x: results(numba, x), inputs))
    for a, b in zip(got, want):
        for name in a: assert torch.equal(a[name], b[name])

def test_share_does_each_item_once_and_raises():
    for items, threads in ((1, 4), (7, 3), (100, 2), (0, 2)):
        done = []
        share(lambda first, end: done.extend(range(first, end)), items, threads)
        assert sorted(done) == list(range(items))
    with pytest.raises(ZeroDivisionError): share(lambda first, end: 1/(first < 50), 100, 2)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_after_a_fork():
    "A child process makes threads of its own"
    program = f'''
import os, sys, torch
sys.path.insert(0, {os.path.dirname(__file__)!r})
torch.set_num_threads(2)
from test_cpu_scan import arguments, numba
x = arguments(4, 200, 10, 4)
want = numba(**x)
pid = os.fork()
if pid == 0: os._exit(0 if torch.equal(numba(**x), want) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
'''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]

def test_width_does_not_depend_on_threads(monkeypatch):
    assert 'get_num_threads' not in block_width.__code__.co_names
    assert [block_width(s, 512) for s in (1, 6, 12)] == [128, 512, 512] and block_width(100, 3) == 512

def test_auto_takes_it_and_says_so_once(capsys, monkeypatch):
    monkeypatch.delenv('SEGVID_SCAN', raising=False)
    from segvid import scan
    monkeypatch.setattr(scan, '_announced', set())
    assert scan_backend('cpu') == scan_backend('cpu') == 'numba'
    assert capsys.readouterr().out.count("by 'numba'") == 1
    monkeypatch.setenv('SEGVID_SCAN', 'chunked')
    assert scan_backend('cpu') == 'chunked'

def test_without_numba():
    "Hidden from the import system: the package works, 'auto' is 'chunked', and the wish for it says what to install"
    program = '''
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('numba', 'llvmlite'): raise ModuleNotFoundError('blocked: ' + name, name=name)
sys.meta_path.insert(0, Block())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == 'numba' else real(name, *a)
import torch
import segvid, segvid.cpu_scan
from segvid.scan import scan_backend, selective_scan
from segvid.segmenter import video_segmenter
assert scan_backend('cpu') == 'chunked'
for f in (lambda: scan_backend('cpu', 'numba'), lambda: segvid.cpu_scan.scan_compiled(*[torch.ones(2, 2)]*5)):
    try: f()
    except (RuntimeError, ImportError) as error: assert "pip install 'segvid[fast]'" in str(error), error
    else: raise AssertionError('no error')
with torch.no_grad(): video_segmenter('mit_b0', 5, embed_dim=16, depth=1, window=4, shift=2).eval()(torch.randn(1, 2, 3, 32, 32))
assert 'numba' not in sys.modules
'''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]

def test_import_is_lazy():
    "Importing the package does not import numba"
    program = 'import sys, segvid, segvid.all, segvid.cpu_scan; assert "numba" not in sys.modules'
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', program], timeout=120).returncode == 0

def test_a_package_folder_that_cannot_be_written(monkeypatch):
    "Where nothing can be kept, the compiler runs without keeping"
    import numba
    real = numba.njit
    def njit(cache=False, **options):
        if cache: raise RuntimeError('cannot cache function: no locator available')
        return real(**options)
    monkeypatch.setattr(numba, 'njit', njit)
    def double(x): return 2*x
    assert cpu_scan.compiled(double)(4) == 8
