"""What is fast, and how we know: each module runs as `python -m benchmarks.<name>`."""
