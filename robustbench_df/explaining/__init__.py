"""Where detectors look: CAMs, how far they can be trusted, and the pictures that a report shows."""
