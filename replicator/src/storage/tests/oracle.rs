//! The comparison of trees finds every kind of difference, and nothing where there is none.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknod};

use super::fixture;
use super::random_tree::{acl, flag, put_flags, set_xattr};
use crate::storage::compare_trees::{Aspect, compare_trees};

/// A tree with one of everything, and its copy.
fn pair(parent: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (a, b) = (parent.join("a"), parent.join("b"));
    fs::create_dir_all(a.join("d/e")).expect("mkdir");
    let file = fs::File::create(a.join("d/sparse")).expect("create");
    file.write_all_at(&[1; 8192], 1 << 20).expect("write");
    file.set_len(4 << 20).expect("truncate");
    fs::write(a.join("d/plain"), vec![5; 700_000]).expect("write");
    for name in ["one", "two"] {
        fs::hard_link(a.join("d/plain"), a.join(name)).expect("link");
    }
    symlink("target", a.join("symlink")).expect("symlink");
    mknod(&a.join("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).expect("mknod");
    set_xattr(&a.join("d/e"), c"user.x", b"value");
    let status = Command::new("cp").arg("-a").args([&a, &b]).status().expect("run cp");
    assert!(status.success());
    (a, b)
}

fn aspects(a: &Path, b: &Path) -> Vec<(String, Aspect)> {
    compare_trees(a, b)
        .expect("compare")
        .into_iter()
        .map(|difference| (difference.path.display().to_string(), difference.aspect))
        // Changes of names change the times of directories.
        .filter(|(_, aspect)| !matches!(aspect, Aspect::ModificationTime(..)))
        .collect()
}

#[test]
fn every_aspect_is_seen() {
    let Some(directory) = fixture::directory() else { return };
    let (a, b) = pair(directory.path());
    assert_eq!(compare_trees(&a, &b).expect("compare"), []);
    let expect = |expected: &[(&str, Aspect)]| {
        let expected: Vec<_> =
            expected.iter().map(|(path, aspect)| (path.to_string(), aspect.clone())).collect();
        assert_eq!(aspects(&a, &b), expected);
    };
    let sparse = fs::OpenOptions::new().write(true).open(b.join("d/sparse")).expect("open");
    sparse.write_all_at(&[2], (1 << 20) + 5000).expect("write");
    expect(&[("d/sparse", Aspect::Bytes((1 << 20) + 5000))]);
    sparse.write_all_at(&[1], (1 << 20) + 5000).expect("write");
    sparse.write_all_at(&[0; 4096], 2 << 20).expect("write");
    expect(&[("d/sparse", Aspect::Holes(2 << 20))]);
    fs::copy(a.join("d/sparse"), b.join("d/sparse")).expect("copy");
    sparse.set_len((4 << 20) + 1).expect("truncate");
    assert!(aspects(&a, &b).contains(&("d/sparse".into(), Aspect::Size(4 << 20, (4 << 20) + 1))));
    let status =
        Command::new("cp").args(["--sparse=always", "-a"]).args([a.join("d/sparse"), b.join("d")]).status();
    assert!(status.expect("run cp").success());
    expect(&[]);

    fs::set_permissions(b.join("d/e"), fs::Permissions::from_mode(0o2711)).expect("chmod");
    expect(&[("d/e", Aspect::Mode(0o755, 0o2711))]);
    fs::set_permissions(b.join("d/e"), fs::Permissions::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::lchown(b.join("symlink"), Some(3), Some(4)).expect("chown");
    expect(&[("symlink", Aspect::Owner((0, 0), (3, 4)))]);
    fs::remove_file(b.join("symlink")).expect("remove");
    expect(&[("symlink", Aspect::OnlyInFirst)]);
    symlink("other", b.join("symlink")).expect("symlink");
    expect(&[("symlink", Aspect::Target("target".into(), "other".into()))]);
    fs::remove_file(b.join("symlink")).expect("remove");
    symlink("target", b.join("symlink")).expect("symlink");

    fs::remove_file(b.join("device")).expect("remove");
    mknod(&b.join("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 5)).expect("mknod");
    expect(&[("device", Aspect::DeviceNumber(makedev(1, 3), makedev(1, 5)))]);
    fs::remove_file(b.join("device")).expect("remove");
    fs::write(b.join("device"), b"").expect("write");
    expect(&[("device", Aspect::Kind(libc::S_IFCHR, libc::S_IFREG))]);
    fs::remove_file(a.join("device")).expect("remove");
    expect(&[("device", Aspect::OnlyInSecond)]);
    fs::remove_file(b.join("device")).expect("remove");

    set_xattr(&b.join("d/e"), c"user.x", b"value2");
    set_xattr(&b.join("d"), c"trusted.y", b"");
    expect(&[
        ("d", Aspect::ExtendedAttribute("trusted.y".into())),
        ("d/e", Aspect::ExtendedAttribute("user.x".into())),
    ]);
    set_xattr(&a.join("d/e"), c"user.x", b"value2");
    set_xattr(&a.join("d"), c"trusted.y", b"");
    set_xattr(&b.join("d"), c"system.posix_acl_default", &acl(9));
    expect(&[("d", Aspect::ExtendedAttribute("system.posix_acl_default".into()))]);
    set_xattr(&a.join("d"), c"system.posix_acl_default", &acl(9));

    if put_flags(&b.join("one"), flag::NO_DUMP).is_some() {
        let one = ["d/plain", "one", "two"].map(|name| (name, Aspect::Flags(0, flag::NO_DUMP)));
        expect(&one);
        put_flags(&b.join("one"), 0);
    }
    if put_flags(&b.join("d"), flag::IMMUTABLE).is_some() {
        expect(&[("d", Aspect::Flags(0, flag::IMMUTABLE))]);
        put_flags(&b.join("d"), 0);
    }

    fs::remove_file(b.join("two")).expect("remove");
    let status = Command::new("cp").arg("-a").args([a.join("two"), b.join("two")]).status();
    assert!(status.expect("run cp").success());
    expect(&[("two", Aspect::Links("d/plain".into(), "two".into()))]);
}

#[test]
fn a_time_that_differs_by_a_nanosecond_is_seen() {
    let Some(directory) = fixture::directory() else { return };
    let (a, b) = pair(directory.path());
    for (root, nanoseconds) in [(&a, 1), (&b, 2)] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1, nanoseconds);
        fs::File::open(root).expect("open").set_modified(time).expect("set");
    }
    let found = compare_trees(&a, &b).expect("compare");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].aspect, Aspect::ModificationTime((1, 1), (1, 2)));
    assert_eq!(found[0].path, Path::new(""));
}

#[test]
fn depth_costs_neither_stack_nor_descriptors() {
    use nix::fcntl::{OFlag, openat};
    let Some(directory) = fixture::directory() else { return };
    for root in ["a", "b"] {
        fs::create_dir(directory.path().join(root)).expect("mkdir");
        let mut at: std::os::fd::OwnedFd = fs::File::open(directory.path().join(root)).expect("open").into();
        for level in 0..1500 {
            mkdirat(&at, "d", Mode::S_IRWXU).expect("mkdir");
            at = openat(&at, "d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).expect("open");
            if level == 1499 && root == "b" {
                mkdirat(&at, "extra", Mode::S_IRWXU).expect("mkdir");
            }
        }
    }
    let found = aspects(&directory.path().join("a"), &directory.path().join("b"));
    assert_eq!(found.len(), 1);
    assert!(found[0].0.ends_with("d/extra") && found[0].1 == Aspect::OnlyInSecond);
}
