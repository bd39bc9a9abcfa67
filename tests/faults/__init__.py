"""What happens when parts are killed, stalled or told to stop: nothing that was acknowledged is lost."""
