"""Give a generator to others: export, web page, hub, published folder."""
