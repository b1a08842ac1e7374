"""What the page is made of: what it reads, and the tab that searches images."""
