"Everything for a notebook: `from segvid.all import *` (written by hand; a program imports what it needs from the modules)."
from fastai.basics import *
from fastai.callback.all import *
from segvid.labels import *
from segvid.organize import *
from segvid.clips import *
from segvid.toycity import *
from segvid.augment import *
from segvid.mit import *
from segvid.scan import *
from segvid.tv3s import *
from segvid.segmenter import *
from segvid.metrics import *
from segvid.learner import *
from segvid.viewer import ClipViewer, DatasetBrowser, WindowExplorer
from segvid.bench import *
from segvid.demo import *
