"""The whole system in one thread: the services' rules on a virtual clock, under faults that a seed decides."""
