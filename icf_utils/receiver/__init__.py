"""Receiving visits by DICOM C-STORE (SCP) or as uploaded zips, and the sessions that bring them into the store."""
