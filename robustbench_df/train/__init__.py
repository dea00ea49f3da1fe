"""Two-phase training: one visible loop and what it calls."""
