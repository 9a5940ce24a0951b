"""Data sets by a short specification; a format of one's own is a :class:`DataFormat`, made known by ``add_format``."""

from constropt.lab.data.labelled import LabelledData
from constropt.lab.data.load import FORMATS, DataFormat, add_format, load_data

__all__ = ["FORMATS", "DataFormat", "LabelledData", "add_format", "load_data"]
