"""The ledger: accounts, plans, transfers, charges, storage and usage."""
