"""What can be rented: domain types, the Provider contract, and the adapters."""
