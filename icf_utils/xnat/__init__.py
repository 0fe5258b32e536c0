"""XNAT: upload over HTTP, direct import into the prearchive, sending by C-STORE."""
