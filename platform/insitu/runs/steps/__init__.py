"""The steps fetch and publish around an algorithm."""
