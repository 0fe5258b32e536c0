"""Makers of inputs for the tests: every DICOM file is made when it is needed, none is kept in the repository.

``make_dicom.dicom_bytes`` makes one image, ``make_dicom.write_visit`` a folder of series, ``make_dicom.element`` the
bytes of a single element, well-formed or not. ``make_hard_inputs`` makes a folder for each thing that real exports get
wrong, ``make_cod`` buckets in the Cloud Optimized DICOM format. The same arguments give the same bytes on every
machine: identifiers are derived from names, and no clock and no randomness is asked. Every patient is invented.
"""
