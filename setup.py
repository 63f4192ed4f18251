"""The jobs are installed within the package, as diffsasrec.jobs: nothing of ours is named `jobs`
among the packages of others. In a checkout they are the folder jobs/ that people read and call.
"""

from setuptools import find_packages, setup

JOBS = find_packages(include=["jobs", "jobs.*"])

setup(
    packages=find_packages(include=["diffsasrec", "diffsasrec.*"])
    + [f"diffsasrec.{name}" for name in JOBS],
    package_dir={"diffsasrec.jobs": "jobs"},
    package_data={
        "diffsasrec": ["py.typed"],
        "diffsasrec.jobs": ["*.yaml", "schedules/*"],
        "diffsasrec.jobs.report": ["templates/*"],
        "diffsasrec.jobs.faults.rig": ["inject/*.py"],
    },
)
