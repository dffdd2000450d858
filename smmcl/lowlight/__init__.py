"""Three companions for low light, Similarity Min-Max, WiiD and SCL-LLE, and what they share."""
