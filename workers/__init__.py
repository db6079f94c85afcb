"""What runs behind the queue: Celery tasks, the detector, training and the phantom."""
