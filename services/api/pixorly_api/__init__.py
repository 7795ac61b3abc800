"""Jobs, slots, images and API keys: what clients talk to."""
