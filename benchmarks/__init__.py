"""The leaderboard: methods x data sets x seeds, each cell in a process of its own, resumable, with statistics."""
