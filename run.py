#!/usr/bin/env python3
"""Makes `.venv` beside this file from the locked requirements, then hands over to pgfleet. Standard library only.

    python3 run.py up             everything on this machine: Postgres, API, workers, one export
    python3 run.py test ...       the tests (arguments go to pytest)
    python3 run.py bench NAME     a benchmark
    python3 run.py chaos          a soak: the fleet under load while everything is killed at random
    python3 run.py ANYTHING       pgfleet ANYTHING

The first start installs; later ones only compare the locks with a stamp in `.venv`, and need no network.
"""

# os.path and not pathlib, whose import is a third of a warm start. To be parsed by old Pythons too (3.6), whose users
# are to read the message below and not a SyntaxError; nothing newer stands above that message.
# ruff: noqa: PTH100, PTH102, PTH105, PTH108, PTH110, PTH111, PTH118, PTH120, PTH123, PTH208, E402, UP031, S310, S606
import sys

NEEDED = (3, 11)
if sys.version_info < NEEDED:
    import shutil

    found = [name for name in ("python3.%d" % minor for minor in range(20, 10, -1)) if shutil.which(name)]
    sys.exit(
        "pgfleet needs Python %d.%d or newer; this is Python %s (%s).\n%s"
        % (
            NEEDED[0],
            NEEDED[1],
            sys.version.split()[0],
            sys.executable,
            f"Run: {found[0]} run.py" if found else "Install a newer one, then start run.py with it.",
        )
    )

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import select
import shutil
import subprocess
import time

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
# Names in .venv: the first says that run.py made it and may remake it, the second that it is whole.
MARK = "made-by-run.py"
STAMP = "installed-by-run.py"

# Bootstrap for Pythons that have neither ensurepip nor pip (Debian's without python3-venv).
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


class Trouble(Exception):
    """What stops the installation, in words for a person."""


def main(arguments):
    command = arguments[0] if arguments else ""
    development = command in ("test", "bench", "chaos")
    try:
        if read_stamp() != expected_stamp(development) and read_stamp() != expected_stamp(True):
            install(development)
    except Trouble as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nrun.py: interrupted; start it again to finish installing.")
    except PermissionError as error:
        sys.exit(
            f"run.py: {error}\nThis user can't install pgfleet in {ROOT}: "
            "run as its owner, or copy the folder to a place of your own."
        )
    except OSError as error:
        sys.exit(f"run.py: {error}\nCan't install pgfleet in {ROOT}: its .venv must be writable, and needs 400 MB.")
    hand_over(command, arguments)


def hand_over(command, arguments):
    python = in_venv("bin", "python")
    sys.stdout.flush()
    if command == "test":
        os.chdir(ROOT)  # pytest takes its test folder from the settings only there
        argv = ["-m", "pytest", *arguments[1:]]
    elif command in ("bench", "chaos"):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
        argv = ["-m", "tests.benchmarks" if command == "bench" else "tests.chaos", *arguments[1:]]
    else:
        argv = ["-m", "pgfleet.cli.main", *arguments]
        # Amid an import a Ctrl-C may get lost: it waits until pgfleet.cli.main has imported what it needs.
        import signal

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execv(python, [python, *argv])


def in_venv(*names):
    return os.path.join(VENV, *names)


def locks(development):
    return ["requirements.lock"] + (["requirements-dev.lock"] if development else [])


def expected_stamp(development):
    """What the stamp holds when `.venv` is right: this folder, this Python, and the files it was installed from."""
    lines = ["folder " + ROOT, "python {}.{}".format(*sys.version_info[:2])]
    for name in ["pyproject.toml", *locks(development)]:
        with open(os.path.join(ROOT, name), "rb") as file:
            lines.append(f"{name} {hashlib.sha256(file.read()).hexdigest()}")
    return "\n".join(lines)


def read_stamp():
    """The stamp's text, or "" where there is none or its Python is gone (an upgraded system)."""
    with contextlib.suppress(OSError), open(in_venv(STAMP), encoding="utf-8") as file:
        if os.access(in_venv("bin", "python"), os.X_OK):
            return file.read()
    return ""


def install(development):
    with install_lock() as lock:
        stamp = read_stamp()
        # Someone else may have finished it meanwhile; development tools that are there already are kept in step.
        development = development or "requirements-dev.lock" in stamp
        wanted = expected_stamp(development)
        if stamp == wanted:
            return
        began = time.monotonic()
        if stamp.split("\n")[:2] != wanted.split("\n")[:2]:
            make_venv()
        else:
            os.unlink(in_venv(STAMP))  # from here until the end it is half-made
        pip = find_pip()
        for name in locks(development):
            with open(os.path.join(ROOT, name), encoding="utf-8") as file:
                count = len(re.findall(r"^[A-Za-z0-9]", file.read(), re.M))
            hashed = ["--require-hashes", "--only-binary", ":all:", "-r", name]
            run_pip(pip, hashed, lock, "packages of " + name, count)
        run_pip(pip, ["--no-deps", "--no-build-isolation", "--no-index", "-e", "."], lock, "pgfleet itself", 1)
        partial = in_venv(STAMP + ".new")
        with open(partial, "w", encoding="utf-8") as file:
            file.write(wanted)
        os.replace(partial, in_venv(STAMP))
        say(f"Installed in {time.monotonic() - began:.0f} s.")


@contextlib.contextmanager
def install_lock():
    """Only one run.py installs at a time. Yields a descriptor that pip is to inherit.

    The folder itself is locked: nothing to leave behind. Inherited, because the pip of a killed run.py must not write
    into the .venv that the next one makes.
    """
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another run.py installs here; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: go on without
        yield lock
    finally:
        os.close(lock)


def make_venv():
    if os.path.lexists(VENV):
        if not os.path.exists(in_venv(MARK)):
            raise Trouble(
                f"{VENV} was not made by run.py, so it is left alone.\nRename or remove it, or use it as it is: "
                ".venv/bin/pgfleet"
            )
        shutil.rmtree(VENV)
    say(f"Making .venv with Python {sys.version.split()[0]} ...")
    try:
        import venv
    except ImportError:
        raise Trouble("this Python has no venv module; install it (Debian: apt install python3-venv).") from None
    os.mkdir(VENV)
    with open(in_venv(MARK), "w", encoding="utf-8"):
        pass
    # Without pip: ensurepip would take longer than all the rest of this; see find_pip().
    venv.EnvBuilder(with_pip=False, symlinks=True).create(VENV)


def find_pip():
    """The command line that runs a pip which installs into .venv: Python's bundled one, its installed one, or ours."""
    python = in_venv("bin", "python")
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        folders = [os.path.join(os.path.dirname(spec.origin), "_bundled")]
        with contextlib.suppress(ImportError, AttributeError):
            import ensurepip

            folders.append(ensurepip._WHEEL_PKG_DIR)  # where Linux distributions put the wheels
        for folder in filter(None, folders):
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    if re.fullmatch(r"pip-[0-9.]+-.*\.whl", name):
                        return [python, os.path.join(folder, name, "pip")]
    with contextlib.suppress(ImportError):
        from pip import __version__

        if int(__version__.split(".")[0]) >= 23:  # the first with --python
            return [sys.executable, "-m", "pip", "--python", python]
    wheel = in_venv(PIP_WHEEL)
    if not os.path.exists(wheel):
        download_pip(wheel)
    return [python, os.path.join(wheel, "pip")]


def download_pip(target):
    """Fetch the pinned pip from the user's package index. The hash is checked, whatever index that is."""
    import base64
    import ssl
    import urllib.error
    import urllib.parse
    import urllib.request

    index = pip_setting("index-url") or "https://pypi.org/simple"
    context = ssl.create_default_context(cafile=pip_setting("cert"))

    def get(url):
        parts = urllib.parse.urlsplit(url)
        # What urllib does not do by itself: credentials within the URL.
        request = urllib.request.Request(
            urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        )
        request.add_header("Accept", "text/html")
        if parts.username:
            pair = urllib.parse.unquote("{}:{}".format(parts.username, parts.password or ""))
            request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.geturl(), answer.read()

    say(f"This Python has no pip; fetching {PIP_WHEEL} ...")
    page = index.rstrip("/") + "/pip/"
    try:
        base, body = get(page)
        links = re.findall(r'href="([^"]+)"', body.decode("utf-8", "replace"))
        ours = [link for link in links if link.partition("#")[0].endswith(PIP_WHEEL)]
        if not ours:
            raise Trouble(f"{page} does not offer {PIP_WHEEL}.")
        _, wheel = get(urllib.parse.urljoin(base, ours[0].replace("&amp;", "&")))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Trouble(
            f"this Python has no pip, and {PIP_WHEEL} can't be fetched from {index}: {error}\n"
            "Install pip (Debian: apt install python3-venv), or set PIP_INDEX_URL."
        ) from None
    if hashlib.sha256(wheel).hexdigest() != PIP_SHA256:
        raise Trouble(f"{PIP_WHEEL} from {index} has another content than expected; not used.")
    with open(target + ".new", "wb") as file:
        file.write(wheel)
    os.replace(target + ".new", target)


def pip_setting(name):
    """A setting of pip's from its environment variable, else from its configuration files; None where unset."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    import configparser

    home = os.path.expanduser("~")
    places = [home + "/.pip/pip.conf", os.environ.get("XDG_CONFIG_HOME", home + "/.config") + "/pip/pip.conf"]
    parser = configparser.RawConfigParser()
    with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read(["/etc/pip.conf", *places, os.environ.get("PIP_CONFIG_FILE", os.devnull)])
    return parser.get("install", name, fallback=None) or parser.get("global", name, fallback=None)


def run_pip(pip, arguments, lock, what, count):
    """`pip install`, with its progress on one line of a terminal; its own words only when it fails."""
    flags = ["--disable-pip-version-check", "--no-input", "--no-compile", "--no-user", "--no-warn-script-location"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_QUIET": "0", "PIP_NO_COLOR": "1"}
    env.pop("PYTHONPATH", None)
    say(f"Installing {what} ...")
    process = subprocess.Popen(
        [*pip, "install", "--progress-bar", "off", *flags, *arguments],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
    )
    output, began, seen, step = b"", time.monotonic(), 0, "starting pip"
    try:
        while True:
            if select.select([process.stdout], [], [], 0.5)[0]:
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                output += chunk
                for line in chunk.decode("utf-8", "replace").splitlines():
                    words = line.split()
                    if line.startswith("Collecting"):
                        seen += 1
                        step = "[{}/{}] {}".format(min(seen, count), count, words[1].partition("=")[0])
                    elif words[:1] == ["Downloading"]:
                        step = "[{}/{}] {}".format(min(seen, count), count, line.strip().rpartition("/")[2])
                    elif line.startswith("Installing"):
                        step = "unpacking"
            progress(f"  {step} ({time.monotonic() - began:.0f} s)")
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
        progress("")
    if process.returncode != 0:
        text = output.decode("utf-8", "replace")
        raise Trouble(
            "pip could not install the {}:\n{}\nThe first start needs the package index (pip's own settings for proxy, "
            "index and certificates apply), and there may be no package for this system.".format(
                what, "\n".join(text.strip().splitlines()[-12:])
            )
        )


def progress(text):
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\033[K" + text[:width])
        sys.stderr.flush()


def say(text):
    # On standard error: standard output belongs to the command that is handed over to, `--json` for one.
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
