"""Every night from Airflow 3, on a worker that has this project in PROJECT and reaches the head.

A retry is the same command, and so the same run: it joins a job that still runs, and goes on from
what is done. When Airflow ends the task (time-out, "mark failed"), it sends SIGTERM to jobs.submit,
which stops the job on the cluster.

A local lake is made by hand before, once: the same night with --new-lake. In here it would take a
disk that is not mounted for a new lake. A lake on S3 needs nothing.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = "/opt/diffsasrec"
TOKEN = "/etc/diffsasrec/auth_token"  # chmod 600; not in PROJECT, which travels

with DAG(
    dag_id="diffsasrec_nightly",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # for missed dates: jobs.backfill, which goes through them in order
    max_active_runs=1,
):
    BashOperator(
        task_id="nightly",
        # exec: so that the signal reaches jobs.submit itself
        bash_command=(
            "exec .venv/bin/python -m jobs.submit --address http://127.0.0.1:8265 "
            "--timeout 21600 -- "
            "python -m jobs.nightly --config jobs/nightly.yaml "
            "--date {{ data_interval_end | ds }}"  # stays the same in retries and re-runs
        ),
        cwd=PROJECT,
        env={"RAY_AUTH_TOKEN_PATH": TOKEN},  # a path: the token itself is no variable
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=10),
        execution_timeout=timedelta(hours=7),  # the job's own time-out comes first
    )
