"""Which VPN setups still get people around the blocking on this network, and how the others fail."""

__version__ = "0.1.0"
