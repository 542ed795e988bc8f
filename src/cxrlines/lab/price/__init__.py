"""What a plan will cost: GPU hours, memory, disk."""
