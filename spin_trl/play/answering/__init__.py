"""Who answers: a run's model in this process, engines that the run starts, or servers that exist already."""
