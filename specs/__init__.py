"""The contracts: what a user may ask for, what the farm plans, what comes back. No torch and no ray in here."""
