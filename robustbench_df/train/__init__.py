"""Two-phase training: one training loop and the modules that it uses."""
