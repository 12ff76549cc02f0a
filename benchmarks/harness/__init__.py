"""How benchmarks measure: turns, floors, rows, the result file and its figure."""
