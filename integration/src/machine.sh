# Boots systemd as process 1 of a machine made of namespaces: its own processes, mounts, network, host name, IPC and
# cgroup. Ends with its standard input. Needs root.
#
#   bash machine.sh SEED [COMMAND]
#
# SEED/etc and SEED/var are copied to the machine's root, a tmpfs of ROOT_SIZE; SEED/usr/local is mounted. The rest of /usr is
# this host's, read-only. COMMAND runs in the machine before systemd does, as its process 1. The process id of systemd
# is written to SEED/pid, in this host's numbers.
set -euo pipefail

inside() {
    root=$seed/root
    mount --make-rprivate /
    mkdir -p "$root"
    mount -t tmpfs -o "mode=755,size=${ROOT_SIZE:-64m}" root "$root"
    cd "$root"
    mkdir -p usr etc/systemd/system proc sys dev run tmp var/tmp var/lib old
    chmod 1777 tmp var/tmp
    mount --bind /usr usr
    mount -o remount,bind,ro usr
    mount --bind "$seed/usr/local" usr/local
    for name in bin sbin lib lib32 lib64 libx32; do
        if [ -L "/$name" ]; then
            cp -a "/$name" "$name"
        elif [ -d "/$name" ]; then
            mkdir "$name"
            mount --bind "/$name" "$name"
        fi
    done
    for name in passwd group nsswitch.conf ld.so.cache alternatives ethertypes protocols services; do
        [ ! -e "/etc/$name" ] || cp -a "/etc/$name" etc/
    done
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >etc/machine-id
    # Units that would reach beyond the machine, or wait for devices.
    for unit in dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-debug.mount \
        sys-kernel-tracing.mount sys-kernel-config.mount systemd-journald-audit.socket systemd-udevd.service \
        systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service systemd-logind.service \
        systemd-sysctl.service systemd-modules-load.service systemd-timesyncd.service systemd-networkd.service \
        systemd-networkd.socket systemd-resolved.service apparmor.service; do
        ln -s /dev/null "etc/systemd/system/$unit"
    done
    ln -s /lib/systemd/system/basic.target etc/systemd/system/default.target
    for name in etc var; do
        [ ! -d "$seed/$name" ] || cp -a "$seed/$name/." "$name/"
    done

    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 dev dev
    for name in null zero full random urandom tty; do
        : >"dev/$name"
        mount --bind "/dev/$name" "dev/$name"
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    mount -t tmpfs -o mode=755 run run
    ip link set lo up
    pivot_root . old
    umount -l old
    rmdir old
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    eval "$command"
    exec env -i container=peerwall-test PATH="$PATH" /lib/systemd/systemd --log-target=console --show-status=no </dev/null
}

seed=$1 command=${2-:}
if [ "${3-}" = inside ]; then
    inside
fi

# Makes a cgroup for it, below the root. The hierarchy is mounted here, because it may be read-only or missing outside.
if [ -z "${MACHINE_MOUNTS-}" ]; then
    MACHINE_MOUNTS=1 exec unshare --mount bash "$0" "$@"
fi
mkdir -p "$seed/cgroup"
mount -t cgroup2 cgroup2 "$seed/cgroup"
cgroup=$seed/cgroup/peerwall-machine-$$
mkdir "$cgroup"
end() {
    [ -z "${machine-}" ] || kill -KILL "$machine" 2>/dev/null || true
    wait
    # Its processes end with its process 1, but not at once.
    for _ in $(seq 100); do
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.05
    done
}
trap end EXIT
(
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec unshare --pid --fork --kill-child --mount --net --uts --ipc --cgroup bash "$0" "$seed" "$command" inside
) </dev/null &
machine=$!
# Process 1 is the only child of unshare.
until pid=$(cat "/proc/$machine/task/$machine/children" 2>/dev/null) && [ -n "$pid" ]; do
    kill -0 "$machine"
    sleep 0.01
done
echo "${pid% }" >"$seed/pid.new"
mv "$seed/pid.new" "$seed/pid"
cat >/dev/null
