"""Settings in, Trainer out, every error in one line."""
