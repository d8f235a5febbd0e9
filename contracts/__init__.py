"""What crosses a boundary: HTTP bodies, durable inputs and outputs, events, custom status."""
