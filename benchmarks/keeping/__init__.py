"""What ``forgetting.py`` trains and measures, and how settings are chosen."""
