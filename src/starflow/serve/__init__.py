"""A server of videos: an HTTP API in the shape of OpenAI's, jobs in a database, and worker processes with the model."""
