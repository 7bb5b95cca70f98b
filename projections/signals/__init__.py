"""Messages over the queue's Redis: wake-ups to the workers, progress from them, and arq's connection."""
