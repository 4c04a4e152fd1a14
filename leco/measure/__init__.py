"""A net before and after: bytes, multiply-adds, time; and tables for people."""
