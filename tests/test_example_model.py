"The trained model in examples/: it loads without trust, knows its classes, and sees real streets."
import os
from pathlib import Path
import pytest, torch
from segvid.clips import FrameIndex
from segvid.evaluate import evaluate_model
from segvid.learner import load_model

file = Path(__file__).parents[1]/'examples/camvid_tv3s.safetensors'

def test_facts():
    "Classes, size and head are in the file; it is smaller than 60 MB"
    model = load_model(file, 'cpu')
    assert (model.labels.name, model.num_classes, model.size, model.head.carries_state) == ('camvid', 11, (720, 960), True)
    assert file.stat().st_size < 60e6
    with torch.no_grad(): logits = model.stream().step(torch.zeros(1, 3, 96, 128))
    assert logits.shape == (1, 11, 96, 128) and logits.isfinite().all()

@pytest.mark.skipif('SEGVID_SHARED' not in os.environ, reason='real frames: set SEGVID_SHARED')
def test_real_frames():
    "Six validation frames, streamed: far above chance"
    index = FrameIndex(Path(os.environ['SEGVID_SHARED'])/'data/camvid', 'val')
    index.records = index.records[:6]
    index.labelled, index.snippets = index.records, [index.records]
    scores = evaluate_model(load_model(file, 'cpu'), index, progress=False)
    assert scores.frames == 6 and scores.mIoU > .55 and scores.pixel_accuracy > .9
