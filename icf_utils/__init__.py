"""icf-utils: DICOM visits become reproducible archives, metadata, DataLad datasets and a browsable catalog."""

__version__ = "0.1.0"
