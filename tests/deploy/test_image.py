"""The image, built with buildah and run with bubblewrap as an orchestrator would: read-only root, uid
65532, no capabilities. Slow and needs root, so only where TACA_TEST_IMAGE=1 asks for it:

    apt-get install buildah crun bubblewrap mmdebstrap
    TACA_TEST_IMAGE=1 ctest --preset release -R test_image -V

TACA_TEST_BASE names the image to build on, or the tar file of a Debian 12 root to make it from; without
it mmdebstrap makes one.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from common import ROOT, check, equal, finish, project_version, run, skip_all

if os.environ.get("TACA_TEST_IMAGE") != "1":
    skip_all("builds an image for minutes: TACA_TEST_IMAGE=1 asks for it")
for program in ("buildah", "bwrap", "mmdebstrap", "setpriv"):
    if not shutil.which(program):
        skip_all(f"no {program}")
if os.getuid() != 0:
    skip_all("buildah with chroot isolation wants root")

PORT, ADMIN = 18080, 18081
temp = pathlib.Path(tempfile.mkdtemp(prefix="taca-image-", dir="/var/tmp"))


def buildah(*command):
    # vfs: copies, but works where overlays cannot be mounted
    done = run("buildah", "--storage-driver", "vfs", "--root", temp / "store", "--runroot",
               temp / "run", *command, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"buildah {' '.join(map(str, command))}:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def base_image():
    tar = os.environ.get("TACA_TEST_BASE", "")
    if tar and not tar.endswith(".tar"):
        return tar
    if not tar:
        tar = temp / "base.tar"
        done = run("mmdebstrap", "--variant=minbase", "bookworm", tar)
        if done.returncode:
            skip_all(f"mmdebstrap: {done.stdout.strip()[-200:]}")
    container = buildah("from", "scratch")
    buildah("add", "-q", container, tar, "/")
    buildah("commit", "-q", container, "localhost/debian:bookworm-slim")
    buildah("rm", container)
    return "localhost/debian:bookworm-slim"


def check_config():
    config = json.loads(buildah("inspect", "--type", "image", "localhost/taca:test"))["Docker"]["config"]
    equal(config["User"], "65532:65532", "User")
    equal(config["Entrypoint"], ["/usr/local/bin/taca"], "Entrypoint")
    equal(config["Cmd"], ["serve"], "Cmd")
    equal(config["StopSignal"], "SIGTERM", "StopSignal")
    equal(config["Healthcheck"]["Test"], ["CMD", "/usr/local/bin/taca", "healthcheck"], "Healthcheck")
    equal(sorted(config["ExposedPorts"]), ["8080/tcp", "8081/tcp"], "ExposedPorts")
    equal(config["Labels"]["org.opencontainers.image.version"], project_version(), "version label")
    return config


def check_files(root):
    found = run("find", root, "-xdev", "-type", "f", "-perm", "/6000").stdout.split()
    equal(found, [], "setuid and setgid files")
    for name in ("cc", "gcc", "cmake", "ninja"):
        check(not (root / "usr/bin" / name).exists(), f"no {name} in the image")
    equal(list((root / "var/lib/apt/lists").glob("*")), [], "package lists")
    mine = run("find", root / "usr/local", "-perm", "/022", "!", "-type", "l").stdout.split()
    equal([f for f in mine if not f.endswith("/usr/local")], [], "files of ours that others may write")


def inside(root, config, command, environment, more=()):
    """The command line that runs `command` in the image as process 1 of its own namespaces."""
    env = dict(pair.split("=", 1) for pair in config["Env"]) | environment
    caps = [w for c in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") for w in ("--cap-add", c)]
    return ["bwrap", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--clearenv",
            *[w for k, v in env.items() for w in ("--setenv", k, v)],
            "--unshare-pid", "--unshare-ipc", "--as-pid-1", "--die-with-parent",
            "--cap-drop", "ALL", *caps, *more, "--",
            "/usr/bin/setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups",
            "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *command]


def wait_ready(service):
    until = time.monotonic() + 120
    while time.monotonic() < until and service.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/readyz", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            time.sleep(0.2)
    return False


def check_process(pid):
    status = dict(line.split(":\t", 1) for line in
                  pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    equal(status["Uid"].split(), ["65532"] * 4, "uid")
    equal(status["Gid"].split(), ["65532"] * 4, "gid")
    equal(int(status["CapEff"], 16), 0, "effective capabilities")
    equal(int(status["CapBnd"], 16), 0, "bounding set")
    equal(status["NoNewPrivs"].strip(), "1", "no_new_privs")
    equal(status["NSpid"].split()[-1], "1", "the program's own process number")


def check_service(root, config):
    environment = {"TACA_PORT": str(PORT), "TACA_ADMIN_LISTEN": f"127.0.0.1:{ADMIN}",
                   "TACA_DRAIN_GRACE": "1"}
    taca = config["Entrypoint"]
    closed = run(*inside(root, config, taca + config["Cmd"], environment))
    equal(closed.returncode, 78, f"serve without TACA_INSECURE ({closed.stdout.strip()[-120:]})")
    environment["TACA_INSECURE"] = "1"
    log = open(temp / "log", "w+", encoding="utf-8")
    told, telling = os.pipe()
    service = subprocess.Popen(
        inside(root, config, taca + config["Cmd"], environment, ("--info-fd", str(telling))),
        pass_fds=(telling,), stderr=log)
    os.close(telling)
    with open(told, encoding="utf-8") as info:
        pid = json.load(info)["child-pid"]
    try:
        check(wait_ready(service), "the service gets ready on a read-only root")
        check_process(pid)
        check(run("nsenter", "-t", pid, "-m", "-S", "65532", "-G", "65532", "--",
                  "/usr/bin/touch", "/tmp/x").returncode != 0, "nothing can be written")
        well = run(*inside(root, config, config["Healthcheck"]["Test"][1:], environment))
        equal(well.returncode, 0, f"healthcheck ({well.stdout.strip()[-120:]})")
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/v1/generate", b'{"prompt":"a red cube","steps":4}',
            {"Content-Type": "application/json", "Accept": "image/png"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            equal(reply.read(8), b"\x89PNG\r\n\x1a\n", "a picture's signature")
        workers = run("pgrep", "-P", pid).stdout.split()
        memory = sum(int(l.split()[1]) for p in [pid, *workers] for l in
                     pathlib.Path(f"/proc/{p}/status").read_text().splitlines()
                     if l.startswith("VmRSS"))
        print(f"resident memory of service and worker: {memory // 1024} MiB")
    finally:
        os.kill(pid, signal.SIGTERM)
        equal(service.wait(timeout=90), 0, "exit code after SIGTERM")
    ill = run(*inside(root, config, config["Healthcheck"]["Test"][1:], environment))
    equal(ill.returncode, 1, "healthcheck of a service that has left")
    log.seek(0)
    for line in log:
        try:
            json.loads(line)
        except ValueError:
            check(False, f"a log line is JSON: {line!r}")


try:
    started = time.monotonic()
    base = base_image()
    build_from = time.monotonic()
    buildah("bud", "--isolation", "chroot", "--pull-never", "--network", "host", "--format", "docker",
            "--timestamp", "0", "--build-arg", f"BASE={base}", "-t", "localhost/taca:test", ROOT)
    print(f"base {build_from - started:.0f} s, image {time.monotonic() - build_from:.0f} s")
    print(buildah("images", "--format", "{{.Name}}:{{.Tag}} {{.Size}}"))
    image_config = check_config()
    mounted = pathlib.Path(buildah("mount", buildah("from", "--pull-never", "localhost/taca:test")))
    check_files(mounted)
    check_service(mounted, image_config)
finally:
    buildah("umount", "--all")
    shutil.rmtree(temp, ignore_errors=True)
check(not temp.exists(), f"{temp} is gone")
finish("image")
