"""Finding many visits at once, in trees of folders, tables and folders of unsorted files."""
