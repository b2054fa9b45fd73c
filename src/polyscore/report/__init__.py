"""What is shown to people: descriptions of files, and the demo page."""
