"""Entities: small durable states that serialise what is asked of them."""
