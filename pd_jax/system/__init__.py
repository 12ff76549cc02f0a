"""The machine: devices, hosts, signals, terminal and files."""
