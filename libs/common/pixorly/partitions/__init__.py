"""Tables that are split by the month of their UUIDv7: the SQL that splits them, and that makes months ahead of time.

A service that has such tables applies these migrations before its own, and calls `keep_partitions` now and then.
"""
