"""Small apps for the host to host, in folders as users have them."""
