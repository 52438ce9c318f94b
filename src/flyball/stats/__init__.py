"""Numbers with what they rest on: intervals that follow the sampling design. numpy and scipy only."""
