"""How visits come in: by DICOM C-STORE, from folder trees, as zips over HTTP; and what became of them."""
