"""Jobs: whatever is slow, done in the background, with retries, priorities and schedules."""
