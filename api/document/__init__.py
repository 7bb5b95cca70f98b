"""The OpenAPI document, which clients are made from, and the page that shows it."""
