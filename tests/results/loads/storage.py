# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems over loop devices, nested, and walks over trees."""

from __future__ import annotations

from pathlib import Path

from tests.results.place import Place, SetUpError, load

ENGINES = ("io_uring", "libaio", "psync")


def run_fio(place: Place, where: Path, engines: tuple[str, ...] = ENGINES) -> None:
    """Each engine reads and writes at random in files of its own, with fsync now and then."""
    for engine in engines:
        direct = "1" if engine == "libaio" else "0"
        folder = where / engine
        folder.mkdir()
        place.start(
            *("fio", f"--name={engine}", f"--directory={folder}", f"--ioengine={engine}"),
            *(f"--direct={direct}", "--rw=randrw", "--bs=4k-64k", "--size=24m", "--nrfiles=4"),
            *("--iodepth=16", "--numjobs=2", "--fsync=32", "--time_based", "--runtime=3600"),
            *("--fallocate=none", "--thread=0", "--group_reporting"),
        )


FIO = (
    "fio randrw 4-64 KiB, fsync each 32, by io_uring, libaio (O_DIRECT) and pread/pwrite,"
    " 2 jobs each"
)


@load("fio-ext4", f"{FIO}, ext4 over loop", "fio", "e2fsprogs")
def fio_ext4(place: Place) -> None:
    run_fio(place, place.file_system("ext4", 1024))


@load("fio-xfs", f"{FIO}, xfs over loop", "fio", "xfsprogs")
def fio_xfs(place: Place) -> None:
    run_fio(place, place.file_system("xfs", 1024))


@load("fio-btrfs", f"{FIO}, btrfs over loop", "fio", "btrfs-progs")
def fio_btrfs(place: Place) -> None:
    run_fio(place, place.file_system("btrfs", 1024))


@load(
    "fio-nested", "the same, xfs over loop over btrfs over loop", "fio", "xfsprogs", "btrfs-progs"
)
def fio_nested(place: Place) -> None:
    below = place.file_system("btrfs", 2048)
    run_fio(place, place.file_system("xfs", 1024, below))


@load(
    "fio-overlay",
    "the same, overlayfs over xfs over loop over btrfs",
    "fio",
    "xfsprogs",
    "btrfs-progs",
)
def fio_overlay(place: Place) -> None:
    xfs = place.file_system("xfs", 1024, place.file_system("btrfs", 2048))
    for name in ("lower", "upper", "work"):
        (xfs / name).mkdir()
    options = f"lowerdir={xfs}/lower,upperdir={xfs}/upper,workdir={xfs}/work"
    run_fio(place, place.mounted("mount", "-t", "overlay", "-o", options, "overlay"))


@load(
    "fio-fuse",
    "pread/pwrite the same way, FUSE (bindfs) over btrfs over loop",
    "fio",
    "bindfs",
    "btrfs-progs",
)
def fio_fuse(place: Place) -> None:
    run_fio(place, place.mounted("bindfs", place.file_system("btrfs", 1024)), ("psync",))


@load(
    "fio-nfs",
    "pread/pwrite the same way, NFS over loopback over ext4 over loop",
    "fio",
    "nfs-kernel-server",
)
def fio_nfs(place: Place) -> None:
    for kind in ("nfs4", "nfsd"):
        if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
            raise SetUpError(f"this kernel has no {kind}, built in or loaded")
    control = Path("/proc/fs/nfsd")
    if not (control / "threads").exists():
        place.run("mount", "-t", "nfsd", "nfsd", control)
        place.undo("umount", control)
    if int((control / "threads").read_text()):
        raise SetUpError("an NFS server runs here, and its exports are not ours to change")
    # Exports and clients are noted apart from what this machine may have of its own.
    place.run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/nfs")
    place.undo("umount", "/var/lib/nfs")
    for state in ("etab", "rmtab"):
        Path("/var/lib/nfs", state).touch()
    exported = place.file_system("ext4", 1024)
    # Only version 4, which needs no portmapper. It makes who opens a file wait for clients of
    # before, 10 s at least.
    place.start("rpc.mountd", "--foreground", "-N", "3")
    place.run("exportfs", "-o", "rw,no_root_squash,fsid=0", f"127.0.0.1:{exported}")
    place.undo("exportfs", "-u", f"127.0.0.1:{exported}")
    place.run("rpc.nfsd", "-N", "3", "-G", "10", "-L", "10", "4")
    place.undo("rpc.nfsd", "0")
    run_fio(place, place.mounted("mount", "-t", "nfs4", "127.0.0.1:/"), ("psync",))


@load(
    "trees",
    "tar, rsync, du and rm over trees 120 folders deep, ext4 to btrfs, caches cold",
    "tar",
    "rsync",
    "coreutils",
    "btrfs-progs",
)
def trees(place: Place) -> None:
    source = place.file_system("ext4", 512)
    target = place.file_system("btrfs", 512)
    place.run(
        *("sh", "-c"),
        'cd "$1"; for tree in 1 2 3 4; do mkdir $tree; ( cd $tree;'
        " for depth in $(seq 120); do mkdir down; cd down;"
        " for file in 1 2 3; do echo $depth > $file; done; done ); done",
        *("sh", source),
    )
    place.shell(
        'while :; do mount -o remount "$1"; tar -C "$1" -cf - . | tar -C "$2" -xf - ;'
        ' rsync -a "$1/" "$2/rsync/"; du -s "$1" "$2"; sync -f "$2"; rm -rf "$2"/*; done',
        source,
        target,
    )
