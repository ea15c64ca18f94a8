"""The unit: understood by systemd, closed by default, patient enough for a drain."""
import pathlib
import re
import shutil
import tempfile

from common import DEPLOY, check, default_of, equal, finish, run, skip, tool

text = (DEPLOY / "systemd/taca.service").read_text()
values = {}
for line in text.splitlines():
    if "=" in line and not line.startswith("#"):
        values.setdefault(line.split("=", 1)[0], []).append(line.split("=", 1)[1])

equal(values["Type"], ["notify"], "Type")  # notify-reload wants systemd 253, Debian 12 has 252
equal(values["ExecReload"], ["/bin/kill -HUP $MAINPID"], "ExecReload")
check(int(values["WatchdogSec"][0]) >= 10, "the watchdog bears a busy machine")
for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "LockPersonality"):
    equal(values.get(name), ["yes"], name)
equal(values["ProtectSystem"], ["strict"], "ProtectSystem")
equal(values["CapabilityBoundingSet"], [""], "CapabilityBoundingSet")
check("TACA_INSECURE=1" not in " ".join(values.get("Environment", [])), "not open by default")

drain = default_of("drain-timeout")
if drain is None:
    skip("no built taca: the drain's default is unknown")
else:
    check(int(values["TimeoutStopSec"][0]) >= drain + 10, "TimeoutStopSec covers the drain")
connections = default_of("max-connections")
if connections:
    check(int(values["LimitNOFILE"][0]) >= 2 * connections, "LimitNOFILE covers the connections")

if tool("systemd-analyze"):
    with tempfile.TemporaryDirectory(prefix="taca-unit-") as temp:
        unit = pathlib.Path(temp) / "taca.service"
        # verify wants an executable and the page where the unit says they are
        unit.write_text(re.sub(r"^(ExecStart=)/\S+", r"\1/bin/true", text, flags=re.M))
        socket = shutil.copy(DEPLOY / "systemd/taca.socket", temp)
        said = run("systemd-analyze", "verify", "--man=no", unit, socket)
        ours = [l for l in said.stdout.splitlines() if "taca." in l]
        equal(ours, [], "systemd-analyze verify")
        grade = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit).stdout
        level = re.search(r"exposure level for taca.service: ([0-9.]+)", grade)
        if level:
            check(float(level.group(1)) <= 2.0, f"exposure {level.group(1)} is at most 2.0 of 10")
        else:
            skip(f"systemd-analyze security does not answer here: {grade.strip()[:80]}")
else:
    skip("no systemd-analyze")
finish("systemd unit")
