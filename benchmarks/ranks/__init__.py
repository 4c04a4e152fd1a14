"""What training on several processes costs."""
