"""Studies: methods x seeds on one data set, trained by one resumable loop, each run in a folder of its own."""
