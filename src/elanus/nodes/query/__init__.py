"""The query node: sealed segments mapped from files, searched under the deletes it has been sent."""
