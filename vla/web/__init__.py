"""What stands behind the page (`web_interface.py`)."""
