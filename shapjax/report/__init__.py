"""Pictures of votes and the report page of one or two evaluated runs."""
