"""The packages of the wheel; everything else stands in setup.cfg.

Folders of `spin_trl` are found, so a new one is shipped without being named anywhere. The recipes lie at the top of the
repository, where a reader sees them, and are installed as `spin_trl.recipes` (`package_dir` in setup.cfg). `find:` in
setup.cfg can't add a package to those that it finds, so it is done here.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["spin_trl", "spin_trl.*"]), "spin_trl.recipes"])
