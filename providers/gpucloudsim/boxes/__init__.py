"""The insides of rented machines: directories, processes, SSH servers, a stand-in for nvidia-smi."""
