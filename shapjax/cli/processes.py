"""The flags of a command that runs as one of several processes, and its start."""

from absl import flags

from shapjax.training import distributed

flags.disclaim_key_flags()  # --help of a command shows them as its own
_FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines --multihost, --coordinator, --num_processes and --process_id."""
    flags.DEFINE_bool("multihost", False, "One of several processes, which find each other: TPU pod, SLURM, Open MPI.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where --multihost cannot find it.")
    flags.DEFINE_integer("num_processes", None, "Number of processes of the run, with --coordinator.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0, with --coordinator.", lower_bound=0)


def start() -> None:
    """Joins the processes that the flags tell of, if any. Before JAX's first computation."""
    distributed.start(multihost=_FLAGS.multihost, coordinator=_FLAGS.coordinator, num_processes=_FLAGS.num_processes,
                      process_id=_FLAGS.process_id)
