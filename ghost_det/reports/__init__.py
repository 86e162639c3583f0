"""What a training or a test leaves behind, and runs compared."""
