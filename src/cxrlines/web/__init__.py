"""The HTTP API and the page: `serve` answers films with findings, over HTTP, from worker processes; it stores nothing
unless it is given a project folder."""
