"""The report: it reads the files of a run and writes one self-contained HTML page. Nothing here imports torch."""
