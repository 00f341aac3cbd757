"""Disturbs small runs at random, and looks whether they end as the undisturbed ones did: `make test-faults`.

- `kills.py`: a run is killed anywhere, and the same command resumes it;
- `full_disks.py`: the disk is full from some write on, and has space again when the same command resumes the run;
- `damage.py`: a file of a run is damaged, and the same command resumes it.

Each trial is made from its number and the seed alone, so `python -m faults --seed S --only NUMBER` repeats it.
"""
