# Becomes process 1 of a system of its own: run in namespaces of its own, with the root's mount point, the system's name, and a file that takes the
# number this process has outside.
set -e
root=$1 name=$2 number=$3

# The proc that is mounted still is the machine's.
read -r outside _ < /proc/self/stat
echo "$outside" > "$number"

mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
echo "$name" > etc/hostname

# What belongs to the kernel, and so to the machine, can be read only: a system that starts would set it.
mount -t proc -o nosuid,noexec,nodev proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o nosuid,noexec,nodev sysfs sys
mount -o remount,bind,ro,nosuid,noexec,nodev sys
mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 sys/fs/cgroup

mount -t tmpfs -o mode=755,nosuid devices dev
for device in null zero full random urandom tty fuse; do cp -a "/dev/$device" dev/; done
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev run run

# Not chroot: units with a file system of their own need a root that is one.
pivot_root . mnt
umount -l /mnt
cd /
exec env -i container=laboratory PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --show-status=no
