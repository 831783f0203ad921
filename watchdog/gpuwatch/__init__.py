"""gpuwatch: the daemon that owns every rented machine, and the only code that can destroy one."""

__version__ = "0.1.0"
