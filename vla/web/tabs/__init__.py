"""The page's tabs: the components of each, and what its buttons call."""
