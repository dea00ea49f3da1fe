"""Where detectors look: CAMs, what they are worth, and the pictures that a report shows."""
