"Programs of their own for tests, without the seconds that importing PyTorch takes: a server imports once, and every new process is a fork of it."
import importlib, multiprocessing, os, socket, sys, tempfile, time, traceback, warnings
from pathlib import Path
from types import SimpleNamespace

server = multiprocessing.get_context('forkserver')
server.set_forkserver_preload(['accelerate', 'fastai.callback.all', 'segvid.cli', 'segvid.demo', 'segvid.bench', 'segvid.stream', 'segvid.processes'])

def free_port():
    "A port that nobody uses"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def _enter(function, args, env, log, errors):
    "What the new process does: write to the log, run, and end with the function's status"
    os.environ.update(env)
    for number, file in (1, log), (2, errors): os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', buffering=1), os.fdopen(2, 'w', buffering=1)
    multiprocessing.set_start_method('fork', force=True)                       # workers of loaders are its own children, and end with it
    import torch
    torch.set_num_threads(1); warnings.simplefilter('ignore')
    try: status = function(*args) or 0
    except SystemExit as e: status = e.code if isinstance(e.code, int) else e.code is not None
    except BaseException: traceback.print_exc(); status = 1
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(status)

class Program:
    "A function of a module that runs in a process of its own; what it prints goes to a file"
    def __init__(self, function, *args, log, env=None, errors=None):
        self.log, self.errors = Path(log), Path(errors or log)
        self.log.touch(); self.errors.touch()
        self.process = server.Process(target=_enter, args=(function, args, env or {}, str(log), str(self.errors)))
        self.process.start()
    @property
    def text(self): return self.log.read_text()
    def kill(self): self.process.kill(); self.process.join()
    def signal(self, number): os.kill(self.process.pid, number)
    def wait(self, seconds=300):
        "Its exit status"
        self.process.join(seconds)
        if self.process.exitcode is None: self.kill(); raise TimeoutError(f'not finished after {seconds} seconds:\n{self.text[-2000:]}')
        return self.process.exitcode
    def wait_until(self, seen, seconds=300):
        "Wait until `seen(lines)` of what it has printed is true, or it has ended"
        end = time.time() + seconds
        while self.process.exitcode is None and time.time() < end and not seen(self.text.splitlines()): time.sleep(.01)

def together(function, *args, folder, processes=2):
    "Start a function in several processes that find one another, on the CPU"
    port = free_port()
    env = lambda rank: dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), ACCELERATE_USE_CPU='true')
    return [Program(function, *args, log=Path(folder)/f'log_{port}_{rank}', env=env(rank)) for rank in range(processes)]

def finish(programs, seconds=300):
    "Wait for all; their texts. Fails with what they said if one failed"
    status = [p.wait(seconds) for p in programs]
    assert not any(status), '\n'.join(p.text[-3000:] for p in programs)
    return [p.text for p in programs]

def _call(module, name, args, folder):
    "A console script as its file in bin/ calls it"
    os.chdir(folder)
    sys.argv = [name, *args]
    return getattr(importlib.import_module(module), name)()

def script(module, name, *args, cwd=None, seconds=120):
    "Run a console script in a process of its own: returncode, stdout, stderr"
    with tempfile.TemporaryDirectory() as folder:
        run = Program(_call, module, name, [str(a) for a in args], str(cwd or folder), log=Path(folder)/'out', errors=Path(folder)/'err', env=dict(COLUMNS='100'))
        return SimpleNamespace(returncode=run.wait(seconds), stdout=run.text, stderr=run.errors.read_text())

def text(program, *args):
    "Run the text of a program, as `python -c` does"
    sys.argv = ['-c', *args]
    exec(compile(program, 'program', 'exec'), {'__name__': '__main__'})
