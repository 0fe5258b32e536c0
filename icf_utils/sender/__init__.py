"""Sending images to DICOM nodes by C-STORE (SCU)."""
