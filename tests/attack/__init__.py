"""What strangers, crashes and wrong use can do to the package, made by code."""
