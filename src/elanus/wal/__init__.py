"""The log: one ordered, durable, single-writer sequence of records per pchannel. `log` is the port."""
