"""The server's page: what a person sees of models, episodes, dreams and runs."""
