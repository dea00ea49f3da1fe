"""The page that people hand on: files of a run in, one self-contained HTML page out. Nothing here imports torch."""
