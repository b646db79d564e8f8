"""The soak: a fleet under load while workers, Postgres and links die, and an account of every task at the end."""
