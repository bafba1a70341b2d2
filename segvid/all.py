"Everything for a notebook: `from segvid.all import *` (written by hand; a program imports what it needs from the modules)."
from fastai.basics import *
from fastai.callback.all import *
from segvid.labels import *
from segvid.organize import *
from segvid.clips import *
from segvid.annotations import *
from segvid.toycity import *
from segvid.augment import *
from segvid.mit import *
from segvid.scan import *
from segvid.tv3s import *
from segvid.segmenter import *
from segvid.metrics import *
from segvid.evaluate import *
from segvid.survive import *
from segvid.learner import *
from segvid.processes import *
from segvid.recorded import *
from segvid.stream import FrameSource, StreamReport, VideoStream, open_source, read_mask_video, segment_frames, segment_video
from segvid.viewer import ClipViewer, DatasetBrowser, WindowExplorer
from segvid.bench import *
from segvid.demo import *
from segvid.mmseg import from_config, learner_from_config, runner_from_config
from segvid.export import *
from segvid.cli import segvid_eval, segvid_train
