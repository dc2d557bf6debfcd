"""Everything that runs: data, training, evaluation, inference and the command line."""
