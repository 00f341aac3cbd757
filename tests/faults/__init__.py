"""Disturbs small runs at random, and looks whether they end as the undisturbed ones did: `make test-faults`.

- `kills.py`: a run is killed anywhere, and the same command goes on;
- `full_disks.py`: the disk is full from some write on, and there is room again when the same command goes on;
- `damage.py`: a file of a run is damaged, and the same command goes on.

Each trial is made from its number and the seed alone, so `python -m faults --seed S --only NUMBER` repeats it.
"""
