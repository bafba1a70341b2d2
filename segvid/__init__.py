"Video semantic segmentation you can read."
import warnings as _warnings
_warnings.filterwarnings('ignore', r'.*torch\.jit\.script', FutureWarning)  # of fastai's own modules, while they are imported
from importlib.metadata import PackageNotFoundError, version as _version
try: __version__ = _version('segvid')
except PackageNotFoundError: __version__ = '0+unknown'  # a checkout on the path that was never installed

from . import mit  # registers mit_b0 ... mit_b5 with timm
