"""The web pages and the HTTP interface of a receiver's sessions."""
