"""The commands: flags, config, calls into the library, printed results. Each module has a `run()`."""

import asyncio
import os
import pathlib
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from logging import CRITICAL, getLogger

import jax
from absl import app, flags, logging
from etils import epath

import shapjax.config
from shapjax import paths
from shapjax.errors import Stopped, UserError, cleaning_up_on_interrupt, near_names, printable
from shapjax.export import read
from shapjax.training import machine
from shapjax.training.meta import newest_meta


def run_command(main: Callable[[Sequence[str]], None], *, takes_names: bool = False) -> None:
    """Runs an absl main function; a user's mistake becomes one line on stderr and exit status 1.

    `--help` prints the docstring of main's module and its flags.

    Args:
      main: takes the command's name and the arguments that are no flags.
      takes_names: whether there may be any; if not, they are refused, as flags without their dashes are.
    """
    logging.set_verbosity(logging.WARNING)
    # Orbax's threads and tasks print tracebacks of errors that it raises anyway.
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    getLogger("gcsfs").setLevel(CRITICAL)  # it does as well
    asyncio.log.logger.disabled = True
    sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on metadata of images, which nobody needs
    try:
        with cleaning_up_on_interrupt():
            app.run(main, flags_parser=lambda argv: _parse(argv, main, takes_names))
    except (UserError, OSError, *paths.bucket_errors()) as e:
        print(f"error: {printable(' '.join(str(e).splitlines()))}", file=sys.stderr, flush=True)
        # The message is out. After a failed write orbax's threads and coroutines would print more as they end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        sys.exit(1)
    except Stopped as e:
        print(e, file=sys.stderr)
        sys.exit(e.EXIT_STATUS)


def _unraisable(what) -> None:
    """Calls Python's own hook, except for errors of tensorstore in orbax's event loop, of which it raises the first.

    A Ctrl-C that comes where no exception can be raised is passed on.
    """
    file = getattr(getattr(what.object, "cr_code", None), "co_filename", "")  # of a coroutine
    if what.exc_type is KeyboardInterrupt:
        signal.raise_signal(signal.SIGINT)
    elif "Event loop is closed" not in str(what.exc_value) and "orbax" not in file:
        sys.__unraisablehook__(what)


def _parse(argv: list[str], main: Callable, takes_names: bool) -> list[str]:
    module = sys.modules[main.__module__]
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(module.__doc__.strip(), "\n\nFlags:", flags.FLAGS.module_help(main.__module__), sep="\n")
        if "config" in flags.FLAGS:
            print(f"\nSettings, --config.KEY=VALUE, with their defaults:\n{shapjax.config.describe()}")
        sys.exit(0)
    argv = list(argv)
    for i, argument in enumerate(argv[1:], start=1):
        if argument == "--config" and i + 1 < len(argv):
            argv[i + 1] = _config_file(argv[i + 1])
        elif argument.startswith("--config="):
            argv[i] = f"--config={_config_file(argument.removeprefix('--config='))}"
    known = shapjax.config.flatten(shapjax.config.default_config())
    for argument in argv[1:]:
        if argument.startswith("--config."):
            key = argument.removeprefix("--config.").partition("=")[0]
            if key not in known:
                raise UserError(f"{argument}: there is no setting {key!r}; {near_names(key, known)}")
            if key.startswith("loaded."):
                raise UserError(f"{argument}: loaded weights and variants set this, not a person; leave it out")
    try:
        command, *names = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError) as e:  # a config file that sets an unknown key raises the latter two
        message = str(e.args[0] if e.args else e).split("\n")[0]  # str() of a KeyError would quote it
        if missing := re.match(r"flag --(\w+)=None: Flag --\w+ must have a value", message):
            message = f"--{missing[1]} is missing: {flags.FLAGS[missing[1]].help}"
        raise UserError(f"{message} (see --help)") from e
    if names and not takes_names:
        raise UserError(f"{names[0]} is no flag, and nothing else is expected; flags begin with -- (see --help)")
    return [command, *names]


def _config_file(given: str) -> str:
    """Returns the path of a config file with its argument, such as "configs/imagenet.py:b16".

    Args:
      given: that, or the name of a recipe of shapjax's in place of the path: "imagenet:b16".

    Raises:
      UserError: if there is no such file and no such recipe.
    """
    if paths.in_bucket(given):
        raise UserError(f"--config {given}: a config is a program, and is read from a local disk alone; copy it there")
    name, colon, argument = os.path.expanduser(given).partition(":")
    package = pathlib.Path(shapjax.config.__file__).parent
    recipes = {path.stem: path for directory in (package.parent / "configs", package / "configs")  # checkout, wheel
               for path in sorted(directory.glob("[!_]*.py"))}
    if pathlib.Path(name).is_file():
        return f"{name}{colon}{argument}"
    if name in recipes:
        return f"{recipes[name]}{colon}{argument}"
    raise UserError(f"--config {name}{colon}{argument}: there is no such config file, and no recipe of that name; "
                    f"{near_names(name, recipes)}")


def require_writable(path: epath.Path) -> None:
    """Makes the directory of `path`; raises UserError if no file can be written there. For use before long work."""
    try:
        paths.require_writable(path)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent} ({error.strerror or error}); give another --output") from None


def settle_devices(directory: str, *, start: Callable[[], None] = lambda: None) -> None:
    """Splits the CPU as suits the model in a directory, and keeps compiled programs. Must run before JAX starts.

    A damaged model is left to `load`, which says what is wrong with it, or reads an older step.

    Args:
      directory: of the model.
      start: joins the processes of the command, once the devices of this one are settled.
    """
    try:
        directory = read.located(directory)
        meta = read.read_meta(directory) if read.is_exported(directory) else newest_meta(directory)
    except UserError:
        meta = None
    machine.split_cpu(machine.cpu_devices(meta.config) if meta else 0)
    start()
    keep_compiled()


def keep_compiled() -> None:
    """Lets JAX keep the programs that it compiles for an accelerator, for the next command.

    The programs lie in $XDG_CACHE_HOME/shapjax, by default ~/.cache/shapjax. Call this once the devices are settled:
    it asks JAX for them.

    JAX_COMPILATION_CACHE_DIR names another directory, for programs of CPUs too; set but empty, nothing is kept. By
    default programs of CPUs are not kept: on many CPUs XLA refuses programs that it has compiled on the same
    machine, with errors on stderr (jax-ml/jax#38445).
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given == "":
        jax.config.update("jax_enable_compilation_cache", False)
    elif given is None and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(paths.cache_directory()))
