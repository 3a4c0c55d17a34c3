"""The command line: settings in, Trainer out, every error in one line."""
