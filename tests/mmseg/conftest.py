"These tests need MMEngine and MMSegmentation: `make test-mmseg` runs them in an environment of their own; elsewhere they are skipped."
import importlib.util
from pathlib import Path
import pytest

def pytest_collection_modifyitems(items):
    missing = [n for n in ('mmengine', 'cv2') if importlib.util.find_spec(n) is None]
    for item in items:
        if missing and Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=f'{" and ".join(missing)} not installed: make test-mmseg runs these in an environment of their own'))

@pytest.fixture(scope='session')
def configs(): return Path(__file__).parent.parent.parent/'local_configs'

@pytest.fixture(scope='session')
def city(tmp_path_factory):
    from segvid.toycity import make_toycity
    return make_toycity(tmp_path_factory.mktemp('city')/'city', sequences=3, frames=6, size=(64, 128), val=1)

@pytest.fixture
def small(city):
    "Words that make any of our configs a matter of seconds"
    return dict(data_root=city, dilation=[-2, -1], crop_size=(32, 64), samples_per_gpu=2, workers_per_gpu=0, pretrained=None, seed=0,
                embed_dim=16, depth=1, window=4, shift=2, max_iters=3, val_interval=3, warmup=1)
