"""A real systemd on a copy of this machine's file system, for what only systemd itself can show.

It is PID 1 of namespaces of its own, over an overlay whose upper half is in memory; its network is the one that it is
given. Of this machine's units it starts none, and none of its settings can be changed. When it is off, nothing is left.
Limits of memory and tasks do nothing in it where the machine's own cgroups are of version 1 and keep those controllers.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from vpntest.tunnel.namespace import Namespace

SHARED = "/mnt/shared"
"""Where the folder is seen in there."""

CLONE = Path(__file__).parents[2]
_BOOT = r"""
set -eu
shared=$1
work=$(mktemp -d)
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$work"
mkdir "$work"/cgroup "$work"/upper "$work"/work "$work"/root
mount -t cgroup2 none "$work/cgroup"
group=$work/cgroup/booted-$$
mkdir "$group"
off() {
    # The last process takes a moment to be gone.
    for _ in $(seq 50); do
        find "$group" -depth -type d -exec rmdir {} + 2> /dev/null && break
        sleep 0.1
    done
    umount -R "$work"
    rmdir "$work"
}
trap off EXIT
(
    echo $BASHPID > "$group/cgroup.procs"
    exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup bash -euc "$2" inner "$work" "$shared" "$3"
) &
machine=$!
trap 'kill -KILL $machine' TERM
wait $machine
"""

_INNER = r"""
work=$1 shared=$2 clone=$3 root=$1/root
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" none "$root"
units=$root/usr/lib/systemd
rm -rf "$root"/etc/systemd/system/* "$root/etc/machine-id" "$root/var/log/journal" "$units"/system-generators/*
rm -rf "$units"/system-environment-generators/* "$units"/system/*.wants/* "$units/system/systemd-journald-audit.socket"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
mkdir -p "$root/mnt/shared" "$root/mnt/old"
cat > "$root/etc/systemd/system/booted.target" << END
[Unit]
Wants=systemd-journald.service script.service timers.target
END
cat > "$root/etc/systemd/system/script.service" << END
[Unit]
DefaultDependencies=no
After=systemd-journald.service
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
StandardOutput=file:/mnt/shared/output
StandardError=inherit
ExecStart=/bin/bash /mnt/shared/script
END
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev none "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev none "$root/tmp"
mount -t tmpfs -o mode=755,nosuid none "$root/dev"
# An overlay shows no mounts of the lower half, and a clone below /tmp has just been hidden.
mkdir -p "$root$clone"
mount --bind "$clone" "$root$clone"
mkdir "$root"/dev/net "$root"/dev/pts "$root"/dev/shm
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    IFS=: read -r name major minor <<< "$device"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t devpts -o newinstance,ptmxmode=0666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount --bind "$shared" "$root/mnt/shared"
cd "$root"
pivot_root . mnt/old
umount -l /mnt/old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=booted.target \
    --log-target=null --show-status=no < /dev/null
"""


def booted(network: Namespace, folder: Path, script: str, *, within: float = 300.0) -> str:
    """Boots, runs a bash script in there as root, goes off. What the script said; it sees `folder` as :data:`SHARED`.

    Raises AssertionError where it is not done `within` so many seconds, or there is no systemd to boot.
    """
    (folder / "script").write_text(f"cd /\n{script}")
    output = folder / "output"
    output.write_text("")
    with network.entered():
        machine = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", _BOOT, "outer", folder, _INNER, CLONE],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        said, _ = machine.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        machine.terminate()
        said, _ = machine.communicate()
        raise AssertionError(f"not done within {within:g} s: {said}{output.read_text()}") from None
    assert machine.returncode == 0, said + output.read_text()
    return output.read_text()
