"""The market and the life of instances: vendor-neutral, no clock, no socket, no disk."""
