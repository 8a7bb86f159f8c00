#!/usr/bin/env bash
# box.sh PLACE [FOLDER=INSIDE]...: boot a systemd of its own as process 1, over a throw-away copy of this machine.
#
# Nothing of the machine is changed. The root is an overlay whose upper layer is in memory; /tmp, /run, /var/log, /dev and
# the network are the box's own; no unit, generator or wish of the machine's comes along, so nothing runs but systemd and
# its journal. All of it lives in namespaces and ends with process 1.
#
# PLACE is an empty folder to mount on, in a name space that nobody else sees. Each FOLDER is visible inside at INSIDE,
# for reading. A line "process 1 is NUMBER" comes on standard output, with the number that the machine knows.
# Needs root, systemd 250 or later, and a kernel with overlayfs and cgroup2. Run it by `unshare --mount`.
set -euo pipefail

remove() {
    find "$1" -depth -type d -exec rmdir {} +
}

outside() {
    mkdir "$1/groups" "$1/memory"
    # systemd takes the whole tree of control groups that it sees, so it gets to see a branch: the root of a name space.
    mount -t cgroup2 none "$1/groups"
    home="$1/groups$(sed -n 's/^0:://p' /proc/self/cgroup)"
    branch="$home/wsd-box-$$"
    # One at a time, because a new branch is empty for a moment, as one is that a killed script has left behind.
    exec 9< "$0"
    flock 9
    for old in "$home"/wsd-box-*; do
        if grep -qs '^populated 0' "$old/cgroup.events"; then remove "$old"; fi
    done
    mkdir "$branch"
    echo $$ > "$branch/cgroup.procs"
    exec 9<&-
    # Each ends with the one that has started it, however that ends.
    setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount --ipc --uts --net --cgroup \
        bash "$0" --inside "$@" || true
    echo $$ > "$home/cgroup.procs"
    remove "$branch"
}

inside() {
    local place=$1 root="$1/memory/root" name pair
    shift
    read -r pid _ < /proc/self/stat  # of the machine's /proc still
    mount --make-rprivate /
    ip link set lo up
    mount -t tmpfs -o mode=755 tmpfs "$place/memory"
    mkdir "$root" "$place/memory/upper" "$place/memory/work"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$place/memory/upper,workdir=$place/memory/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    mount -t cgroup2 none "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm"
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    for name in tmp var/tmp dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$root/$name"; done
    for name in run var/log; do mount -t tmpfs -o mode=755 tmpfs "$root/$name"; done
    for pair in "$@"; do
        mkdir -p "$root${pair#*=}"
        mount --bind "${pair%%=*}" "$root${pair#*=}"
        mount -o remount,bind,ro "$root${pair#*=}"
    done
    rm -rf "$root"/etc/systemd/* "$root"/usr/lib/systemd/*-generators
    find "$root/usr/lib/systemd/system" "$root/lib/systemd/system" -name '*.wants' -prune -exec rm -rf {} +
    mkdir -p "$root/etc/systemd/system/sockets.target.wants" "$root/.old"
    ln -s /lib/systemd/system/systemd-journald.socket "$root/etc/systemd/system/sockets.target.wants/"
    cd "$root"
    pivot_root . .old
    echo "process 1 is $pid"
    # Shared: LoadCredential= mounts in a name space of its own, and the box must see it.
    exec chroot . sh -c 'umount -l /.old && mount --make-rshared / && exec env -i container=wsd-box \
        /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=0' < /dev/null > /dev/null 2>&1
}

# Whether this machine lets one do the like; else with what it says.
try() {
    mkdir "$1/groups" "$1/memory"
    mount -t cgroup2 none "$1/groups"
    mkdir "$1/groups$(sed -n 's/^0:://p' /proc/self/cgroup)/wsd-box-$$"
    rmdir "$1/groups$(sed -n 's/^0:://p' /proc/self/cgroup)/wsd-box-$$"
    mount -t tmpfs tmpfs "$1/memory"
    mkdir "$1/memory/upper" "$1/memory/work" "$1/memory/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$1/memory/upper,workdir=$1/memory/work" "$1/memory/root"
    unshare --pid --fork --kill-child --mount --ipc --uts --net --cgroup ip link set lo up
}

case $1 in
    --inside) shift; inside "$@" ;;
    --try) shift; try "$@" ;;
    *) outside "$@" ;;
esac
