"""The uploader: checks each generated image, makes its small versions, and puts them into the bucket."""
