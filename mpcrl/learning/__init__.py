"""Learning models from what was seen: the replay buffer, fitting of ensembles, and how far to trust them."""
