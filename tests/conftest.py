"Shared by all tests: where the large fixtures are, if they are."
import os
from pathlib import Path
import pytest, torch

torch.set_num_threads(1)                       # small tensors gain nothing from more, and two test processes share the machine

@pytest.fixture(scope='session')
def shared():
    "Folder of the golden outputs and the real video, from the variable SEGVID_SHARED; tests that need it are skipped elsewhere"
    folder = os.environ.get('SEGVID_SHARED')
    if not folder or not Path(folder).is_dir(): pytest.skip('SEGVID_SHARED does not name the folder with golden outputs and real video')
    return Path(folder)
