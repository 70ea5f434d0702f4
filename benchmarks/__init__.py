"""Speed, memory and what is left behind; each a command: `python -m benchmarks.engines`, and so on."""
