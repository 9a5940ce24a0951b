"""Data sets by a short specification; a format of one's own is a :class:`DataFormat`, made known by ``add_format``."""

from constropt.lab.data.load import FORMATS, DataFormat, add_format, load_data
from constropt.lab.data.readers import LabelledData

__all__ = ["FORMATS", "DataFormat", "LabelledData", "add_format", "load_data"]
