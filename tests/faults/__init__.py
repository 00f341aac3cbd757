"""Disturbs small runs at random, and checks that they end like the undisturbed ones: `make test-faults`.

- `kills.py`: a run is killed anywhere, and the same command resumes it;
- `full_disks.py`: the disk is full from some write on, and has space again when the same command resumes the run;
- `damage.py`: a file of a run is damaged, and the same command resumes it.

Each trial depends only on its number and the seed, so `python -m faults --seed S --only NUMBER` repeats it.
"""
