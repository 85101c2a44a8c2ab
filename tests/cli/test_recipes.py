"""The commands of docs/scaling.md for clusters start runs of several processes, as local ones in a cluster's place."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

from shapjax.errors import Stopped

ROOT = pathlib.Path(__file__).parents[2]
JOB = 1000 + os.getpid()  # its number decides the port at which the processes meet
# What stands in for a launcher: how it finds the command among its arguments, and what it tells process $i of 2.
LAUNCHERS = {
    "srun": ('command=("$@")', "SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost"),
    "mpirun": ('while [ "$1" != python ]; do shift; done; command=("$@")',
               f"OMPI_MCA_orte_hnp_uri='{JOB * 4096}.0;tcp://127.0.0.1:1' OMPI_COMM_WORLD_SIZE=2 "
               "OMPI_COMM_WORLD_RANK=$i OMPI_COMM_WORLD_LOCAL_RANK=$i"),
    "gcloud": ('command=(bash -c "${@: -1:1}"); command[2]="${command[2]#--command=}"',
               "JAX_FORCE_TPU_INIT=1 TPU_WORKER_HOSTNAMES=localhost,localhost TPU_WORKER_ID=$i MEGASCALE_NUM_SLICES=1 "
               "MEGASCALE_SLICE_ID=0 MEGASCALE_COORDINATOR_ADDRESS=localhost"),
}


@pytest.fixture
def start(tmp_path, small):
    """Runs the commands of docs/scaling.md that use a launcher, with scripts in place of programs and a small run."""

    def run(launcher, **programs):
        for name, text in programs.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        blocks = re.findall(r"(?:^    .*\n)+", (ROOT / "docs" / "scaling.md").read_text(), re.M)
        (script,) = (textwrap.dedent(block) for block in blocks if f"{launcher} " in block)
        arguments = [*small, "--config.optim.steps=4", "--config.run.eval_every=4", "--config.run.cpu_devices=1"]
        script, count = re.subn(r"--config (?:…|configs/\S+)", " ".join(arguments), script)
        assert count == 1
        script = re.sub(r'--workdir=[^\s"]+', f"--workdir={tmp_path / 'run'}", script)
        script = re.sub(r'--config\.data\.[^\s"]+', "", script)
        (tmp_path / "shapjax").symlink_to(ROOT)  # the clone
        path = os.pathsep.join([str(tmp_path / "bin"), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(["bash", "-c", script], cwd=tmp_path if launcher == "gcloud" else ROOT, text=True,
                              capture_output=True, timeout=300,
                              env=os.environ | {"PATH": path, "JAX_PLATFORMS": "cpu", "SLURM_JOB_ID": str(JOB)})

    return run


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_a_run_whose_processes_find_each_other(start, launcher, tmp_path):
    command, environment = LAUNCHERS[launcher]
    ended = start(launcher, **{launcher: f"""{command}
for i in 0 1; do env {environment} "${{command[@]}}" & jobs[i]=$!; done
wait ${{jobs[0]}} && wait ${{jobs[1]}}"""})
    assert ended.returncode == 0 and "2 cpu device(s) of 2 processes" in ended.stdout, ended
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()


@pytest.mark.parametrize("status", [0, 1, Stopped.EXIT_STATUS])
def test_slurm_starts_a_run_again_that_was_stopped(start, status, tmp_path):
    ended = start("srun", srun=f"exit {status}", scontrol=f'echo "$@" > {tmp_path / "asked"}')
    asked = tmp_path / "asked"
    assert ended.returncode == status and asked.exists() == (status == Stopped.EXIT_STATUS)
    assert not asked.exists() or asked.read_text() == f"requeue {JOB}\n"
