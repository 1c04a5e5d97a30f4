"""What stands in front of the server, and what it cuts."""
