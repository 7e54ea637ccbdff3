"""What every room needs: errors, option types, tensors, several processes."""
