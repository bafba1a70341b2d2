"""Times a training through the learner in one process and in one for each GPU: python tests/gpu/check_processes.py  (about two minutes; --dry: tiny, two processes on the CPU).

MiT-B1, 2 clips of 4 frames at 512x1024 for each process, bfloat16, exchange of gradients and common batch statistics included. One, all and one again,
each in processes of their own; prints clips a second and the ratio; all numbers go to processes.json in the folder that the variable OUT names (default: here)."""
import json, os, subprocess, sys, time
from pathlib import Path
DRY, HERE = '--dry' in sys.argv, Path(__file__).resolve()
SIZE, WARM, STEPS = ((32, 64), 2, 4) if DRY else ((512, 1024), 12, 40)

def work():
    "One process: seconds a step, on standard output of the first"
    import torch
    from fastai.callback.core import Callback, CancelFitException
    from segvid.augment import ClipDataLoaders
    from segvid.learner import clip_learner
    rank, many = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    if not DRY: torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)))
    clip = torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8), torch.randint(0, 19, (4, *SIZE), dtype=torch.uint8)

    class Clips(torch.utils.data.Dataset):
        def __len__(self): return 2*many*(WARM + STEPS)
        def __getitem__(self, i): return clip

    class Clock(Callback):
        "Seconds from step WARM to the last, in a row"
        order, n = 99, 0
        def before_batch(self):
            if self.training and self.n in (WARM, WARM + STEPS - 1):
                if not DRY: torch.cuda.synchronize()
                self.seconds = time.perf_counter() - getattr(self, 'start', 0); self.start = time.perf_counter()
            self.n += self.training
        def before_validate(self): raise CancelFitException

    device = torch.device('cpu' if DRY else 'cuda')
    dls = ClipDataLoaders.from_datasets(Clips(), Clips(), SIZE, bs=2, aug='none', color='none', num_workers=0 if DRY else 2, device=device, seed=0)
    small = dict(embed_dim=32, depth=2, window=2, shift=1) if DRY else {}
    learn, clock = clip_learner(dls, 'mit_b0' if DRY else 'mit_b1', **small).to_bf16(), Clock()
    with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(): learn.fit(1, 6e-5, cbs=clock)
    if rank == 0: print('ROW', json.dumps(dict(processes=many, seconds=clock.seconds/(STEPS - 1), clips_per_second=2*many*(STEPS - 1)/clock.seconds,
                                              GB=None if DRY else torch.cuda.max_memory_allocated()/1e9, device='cpu' if DRY else torch.cuda.get_device_name(), torch=torch.__version__)), flush=True)
    if many > 1: torch.distributed.destroy_process_group()

def run(processes):
    "A row of figures from `processes` processes"
    env = dict(os.environ, **(dict(ACCELERATE_USE_CPU='true') if DRY else {}))
    start = [sys.executable] if processes == 1 else [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', str(processes), '--master_port', '29611']
    done = subprocess.run([*start, str(HERE), '--work', *sys.argv[1:]], capture_output=True, text=True, env=env)
    rows = [line[4:] for line in done.stdout.splitlines() if line.startswith('ROW ')]
    if not rows: sys.exit(f'{processes} processes failed:\n{done.stderr[-3000:]}')
    return json.loads(rows[0])

if '--work' in sys.argv: work()
else:
    import torch
    many = 2 if DRY else torch.cuda.device_count()
    rows = [run(n) for n in (1, many, 1)]
    one = 2/(1/rows[0]['clips_per_second'] + 1/rows[2]['clips_per_second'])
    result = dict(encoder='mit_b1', size=SIZE, clips_per_process=2, frames=4, rows=rows, times=rows[1]['clips_per_second']/one)
    Path(os.environ.get('OUT', '.'), 'processes.json').write_text(json.dumps(result, indent=1))
    for r in rows: print(f"{r['processes']} process{'es' if r['processes'] > 1 else ''}: {r['clips_per_second']:.1f} clips/s, {1000*r['seconds']:.1f} ms a step")
    print(f"{many} processes train {result['times']:.2f} times as fast as one")
