"""What the services of Pixorly share: events, delivery, outcomes, storage, and little else."""
