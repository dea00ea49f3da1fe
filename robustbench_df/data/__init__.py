"""Images in: sources, decoding, the cache, the demo set and splits."""
