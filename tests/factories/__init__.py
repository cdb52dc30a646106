"""One file a domain: rows as the domain itself would have made them."""
