"""Other systems we exchange images with: who they are, and what is sent to them and fetched from them."""
