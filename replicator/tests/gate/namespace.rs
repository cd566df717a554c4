//! Names: what applications may do with them, and what the log says of it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, mknod};
use replicator::gate::Passthrough;
use replicator_core::ids::FileKind;
use replicator_core::wire::namespace::Operation;

use super::support::{Fixture, Seen, as_user, both, errno, runnable};

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> nix::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
}

#[test]
fn new_names_of_every_kind_are_logged_as_they_are_on_disk() {
    both(|fixture| {
        fs::create_dir(fixture.join("directory")).unwrap();
        File::create(fixture.join("file")).unwrap();
        symlink("some/target", fixture.join("symlink")).unwrap();
        nix::unistd::mkfifo(&fixture.join("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
        let device = libc::makedev(300, 70_000);
        mknod(&fixture.join("device"), SFlag::S_IFCHR, Mode::S_IRUSR, device).unwrap();
        mknod(&fixture.join("block"), SFlag::S_IFBLK, Mode::S_IRUSR, libc::makedev(8, 1)).unwrap();
        mknod(&fixture.join("socket"), SFlag::S_IFSOCK, Mode::S_IRUSR, 0).unwrap();
        mknod(&fixture.join("plain"), SFlag::S_IFREG, Mode::S_IRUSR, 0).unwrap();
        let expected = [
            ("directory", FileKind::Directory),
            ("file", FileKind::Regular),
            ("symlink", FileKind::Symlink),
            ("pipe", FileKind::Fifo),
            ("device", FileKind::CharacterDevice),
            ("block", FileKind::BlockDevice),
            ("socket", FileKind::Socket),
            ("plain", FileKind::Regular),
        ];
        let operations = fixture.recorder.operations();
        assert_eq!(operations.len(), expected.len());
        for (operation, (expected_name, kind)) in operations.iter().zip(expected) {
            let Operation::Create { parent, name, node } = operation else { panic!("{operation:?}") };
            let metadata = fs::symlink_metadata(fixture.join(expected_name)).unwrap();
            assert_eq!(*parent, fixture.volume.root_file());
            assert_eq!(name, expected_name.as_bytes());
            assert_eq!(node.file.inode, metadata.ino());
            assert_eq!(node.kind, kind);
            assert_eq!(node.mode, metadata.mode() & 0o7777);
            assert_eq!((node.uid, node.gid), (metadata.uid(), metadata.gid()));
            let wanted_target: &[u8] = if kind == FileKind::Symlink { b"some/target" } else { b"" };
            assert_eq!(node.target, wanted_target);
        }
        let Operation::Create { node, .. } = &operations[4] else { unreachable!() };
        assert_eq!(node.rdev, device);
        assert_eq!(fs::metadata(fixture.join("device")).unwrap().rdev(), device);
        assert_eq!(fs::read_link(fixture.join("symlink")).unwrap(), Path::new("some/target"));
        assert!(fs::symlink_metadata(fixture.join("socket")).unwrap().file_type().is_socket());
    });
}

#[test]
fn renames_say_what_was_replaced_or_exchanged() {
    both(|fixture| {
        let (a, b, c) = (fixture.join("a"), fixture.join("b"), fixture.join("c"));
        fs::write(&a, b"a").unwrap();
        fs::write(&b, b"b").unwrap();
        let (file_a, file_b) = (fixture.file(&a), fixture.file(&b));
        fs::hard_link(&b, &c).unwrap();
        fixture.recorder.clear();
        let last = || fixture.recorder.operations().pop().unwrap();

        assert_eq!(rename_with(&a, &b, RenameFlags::RENAME_NOREPLACE), Err(nix::Error::EEXIST));
        assert!(fixture.recorder.operations().is_empty(), "a refused operation is not logged");

        rename_with(&a, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
        let Operation::Rename { file, other, other_last, exchange, .. } = last() else { panic!() };
        assert_eq!((file, other, other_last, exchange), (file_a, Some(file_b), false, true));
        assert_eq!((fixture.file(&a), fixture.file(&b)), (file_b, file_a));

        // `a` (file b, which has the other name `c`) is replaced: not its last name.
        fs::rename(&b, &a).unwrap();
        let Operation::Rename { file, other, other_last, exchange, .. } = last() else { panic!() };
        assert_eq!((file, other, other_last, exchange), (file_a, Some(file_b), false, false));
        // `c`, its last name.
        fs::rename(&a, &c).unwrap();
        let Operation::Rename { other, other_last, .. } = last() else { panic!() };
        assert_eq!((other, other_last), (Some(file_b), true));
        fixture.wait_for("forgotten", |fixture| fixture.recorder.saw(&Seen::Forgotten(file_b)));

        fs::create_dir(fixture.join("sub")).unwrap();
        fs::rename(&c, fixture.join("sub/c")).unwrap();
        let Operation::Rename { old_parent, new_parent, old_name, new_name, other, .. } = last() else {
            panic!()
        };
        assert_eq!(
            (old_parent, new_parent),
            (fixture.volume.root_file(), fixture.file(&fixture.join("sub")))
        );
        assert_eq!((&old_name[..], &new_name[..], other), (&b"c"[..], &b"c"[..], None));
    });
}

#[test]
fn a_whiteout_is_a_rename_and_a_creation() {
    both(|fixture| {
        let (from, to) = (fixture.join("from"), fixture.join("to"));
        fs::write(&from, b"x").unwrap();
        fixture.recorder.clear();
        if let Err(error) = rename_with(&from, &to, RenameFlags::RENAME_WHITEOUT) {
            assert_eq!(error, nix::Error::EINVAL);
            println!("not run: the file system knows no whiteouts");
            return;
        }
        let operations = fixture.recorder.operations();
        let [Operation::Rename { .. }, Operation::Create { name, node, .. }] = &operations[..] else {
            panic!("{operations:?}")
        };
        assert_eq!(name, b"from");
        assert_eq!((node.kind, node.rdev), (FileKind::CharacterDevice, 0));
        assert!(fs::symlink_metadata(&from).unwrap().file_type().is_char_device());
    });
}

/// Such a rename may change the times of the old name's directory all the same (ext4).
#[test]
fn a_whiteout_that_fails_is_told_as_a_change_of_attributes() {
    both(|fixture| {
        for name in ["from", "to", "to/full"] {
            fs::create_dir(fixture.join(name)).unwrap();
        }
        // Known to the kernel, and a moment ago.
        let made = fs::metadata(fixture.path()).unwrap().modified().unwrap();
        let past = made - std::time::Duration::from_secs(60);
        File::open(fixture.path()).unwrap().set_modified(past).unwrap();
        fixture.recorder.clear();
        let error = rename_with(&fixture.join("from"), &fixture.join("to"), RenameFlags::RENAME_WHITEOUT);
        if error == Err(nix::Error::EINVAL) {
            println!("not run: the file system knows no whiteouts");
            return;
        }
        assert!(matches!(error, Err(nix::Error::ENOTEMPTY | nix::Error::EEXIST)), "{error:?}");
        assert!(fixture.recorder.operations().is_empty());
        assert!(fixture.recorder.saw(&Seen::Attributes(fixture.volume.root_file())));
        let (shown, below) = (fs::metadata(fixture.path()).unwrap(), fstat(fixture.volume.root()).unwrap());
        assert_eq!((shown.mtime(), shown.mtime_nsec()), (below.st_mtime, below.st_mtime_nsec));
    });
}

#[test]
fn links_and_unlinks_count_names() {
    both(|fixture| {
        let (one, two) = (fixture.join("one"), fixture.join("two"));
        fs::write(&one, b"x").unwrap();
        let file = fixture.file(&one);
        fixture.recorder.clear();
        fs::hard_link(&one, &two).unwrap();
        assert_eq!(fs::metadata(&one).unwrap().nlink(), 2);
        fs::remove_file(&one).unwrap();
        assert_eq!(fs::metadata(&two).unwrap().nlink(), 1);
        fs::remove_file(&two).unwrap();
        let operations = fixture.recorder.operations();
        assert!(
            matches!(
                &operations[..],
                [
                    Operation::Link { node, .. },
                    Operation::Unlink { last: false, directory: false, .. },
                    Operation::Unlink { last: true, .. },
                ] if node.file == file
            ),
            "{operations:?}"
        );
        fixture.wait_for("forgotten", |fixture| fixture.recorder.saw(&Seen::Forgotten(file)));
        fs::create_dir(&one).unwrap();
        assert_eq!(errno(fs::remove_file(&one)), libc::EISDIR);
        fs::write(one.join("inside"), b"x").unwrap();
        assert_eq!(errno(fs::remove_dir(&one)), libc::ENOTEMPTY);
        fs::remove_file(one.join("inside")).unwrap();
        fs::remove_dir(&one).unwrap();
        let last = fixture.recorder.operations().pop().unwrap();
        assert!(matches!(last, Operation::Unlink { directory: true, last: true, .. }));
    });
}

/// A symlink with two names stays a symlink in the log.
#[test]
fn a_linked_symlink_keeps_its_target() {
    both(|fixture| {
        symlink("target", fixture.join("one")).unwrap();
        fs::hard_link(fixture.join("one"), fixture.join("two")).unwrap();
        let last = fixture.recorder.operations().pop().unwrap();
        assert!(
            matches!(&last, Operation::Link { node, .. } if node.target == b"target" && node.kind == FileKind::Symlink)
        );
    });
}

#[test]
fn the_reserved_name_is_nobodys() {
    if !runnable() {
        return;
    }
    let ground = super::support::Ground::temporary();
    fs::create_dir(ground.path().join(".replicator")).unwrap();
    fs::write(ground.path().join(".replicator/state"), b"secret").unwrap();
    let fixture = Fixture::over(ground, Passthrough::Auto);
    let reserved = fixture.join(".replicator");
    assert_eq!(errno(fs::symlink_metadata(&reserved)), libc::ENOENT);
    assert_eq!(errno(fs::read(reserved.join("state"))), libc::ENOENT);
    assert_eq!(errno(fs::create_dir(&reserved)), libc::EPERM);
    assert_eq!(errno(File::create(&reserved)), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(&reserved)), libc::ENOENT);
    fs::write(fixture.join("file"), b"x").unwrap();
    assert_eq!(errno(fs::rename(fixture.join("file"), &reserved)), libc::EPERM);
    assert_eq!(errno(fs::hard_link(fixture.join("file"), &reserved)), libc::EPERM);
    assert_eq!(errno(symlink("x", &reserved)), libc::EPERM);
    let names: Vec<_> =
        fs::read_dir(fixture.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    // Elsewhere the name is as good as any.
    fs::create_dir(fixture.join("sub")).unwrap();
    fs::create_dir(fixture.join("sub/.replicator")).unwrap();
}

#[test]
fn mounts_inside_are_not_entered() {
    if !runnable() {
        return;
    }
    let ground = super::support::Ground::temporary();
    let inside = ground.path().join("inside");
    fs::create_dir(&inside).unwrap();
    super::support::run("mount", &["-t", "tmpfs", "inside", inside.to_str().unwrap()]);
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let guard = Unmount(inside.clone());
    // A mount of the same file system has the same device number.
    let (elsewhere, bound) = (tempfile::tempdir_in(ground.path()).unwrap(), ground.path().join("bound"));
    fs::create_dir(&bound).unwrap();
    super::support::run("mount", &["--bind", elsewhere.path().to_str().unwrap(), bound.to_str().unwrap()]);
    let bound_guard = Unmount(bound.clone());
    let mut fixture = Fixture::over(ground, Passthrough::Auto);
    for point in [&inside, &bound] {
        assert_eq!(errno(fs::metadata(point)), libc::EXDEV, "{point:?}");
        assert_eq!(errno(fs::write(point.join("file"), "x")), libc::EXDEV, "{point:?}");
        assert_eq!(errno(fs::rename(point, fixture.join("renamed"))), libc::EXDEV, "{point:?}");
    }
    let mut names: Vec<_> =
        fs::read_dir(fixture.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names[1..], ["bound", "inside"]);
    fixture.unmount();
    drop((guard, bound_guard));
}

#[test]
fn new_files_belong_to_their_makers() {
    both(|fixture| {
        let root = fixture.path();
        // The way into the temporary directory is root's alone; a descriptor of it leads around that.
        let inside = File::open(&root).unwrap();
        use std::os::fd::AsRawFd;
        let base = format!("/proc/self/fd/{}", inside.as_raw_fd());
        let base = Path::new(&base);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(root.join("shared")).unwrap();
        chown(root.join("shared"), Some(0), Some(4000)).unwrap();
        fs::set_permissions(root.join("shared"), fs::Permissions::from_mode(0o2770)).unwrap();
        as_user(1000, 1000, &[4000], || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o666).open(base.join("mine")).unwrap();
            fs::DirBuilder::new().mode(0o777).create(base.join("my-directory")).unwrap();
            symlink("x", base.join("my-symlink")).unwrap();
            // Only the supplementary group lets this in; the group comes from the directory.
            options.open(base.join("shared/ours")).unwrap();
            fs::create_dir(base.join("shared/sub")).unwrap();
        });
        as_user(1001, 1001, &[], || {
            assert_eq!(errno(File::create(base.join("mine"))), libc::EACCES);
            assert_eq!(errno(File::create(base.join("shared/no"))), libc::EACCES);
            assert_eq!(
                errno(fs::set_permissions(base.join("mine"), fs::Permissions::from_mode(0o600))),
                libc::EPERM
            );
        });
        let owner = |name: &str| {
            let metadata = fs::symlink_metadata(root.join(name)).unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
        };
        let umask = {
            let current = nix::sys::stat::umask(Mode::empty());
            nix::sys::stat::umask(current);
            current.bits()
        };
        assert_eq!(owner("mine"), (1000, 1000, 0o666 & !umask));
        assert_eq!(owner("my-directory"), (1000, 1000, 0o777 & !umask));
        assert_eq!((owner("my-symlink").0, owner("my-symlink").1), (1000, 1000));
        assert_eq!((owner("shared/ours").0, owner("shared/ours").1), (1000, 4000));
        assert_eq!(owner("shared/sub").1, 4000);
        assert_ne!(owner("shared/sub").2 & libc::S_ISGID, 0, "a setgid directory hands the bit down");
    });
}

/// Writing, truncating and changing the owner clear set-id bits as they do without the gate.
#[test]
fn set_id_bits_are_cleared_by_others_only() {
    both(|fixture| {
        let root = fixture.path();
        let inside = File::open(&root).unwrap();
        use std::os::fd::AsRawFd;
        let base = format!("/proc/self/fd/{}", inside.as_raw_fd());
        let base = Path::new(&base);
        let path = root.join("program");
        let prepare = || {
            fs::write(&path, b"#!/bin/true").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        };
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        prepare();
        OpenOptions::new().write(true).open(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!(mode(), 0o6777, "root's write keeps them");
        as_user(1000, 1000, &[], || {
            OpenOptions::new().write(true).open(base.join("program")).unwrap().write_all(b"x").unwrap();
        });
        assert_eq!(mode(), 0o777, "a user's write clears them");
        prepare();
        as_user(1000, 1000, &[], || {
            drop(OpenOptions::new().write(true).truncate(true).open(base.join("program")).unwrap());
        });
        assert_eq!(mode(), 0o777, "a user's O_TRUNC clears them");
        prepare();
        as_user(1000, 1000, &[], || {
            OpenOptions::new().write(true).open(base.join("program")).unwrap().set_len(3).unwrap();
        });
        assert_eq!(mode(), 0o777, "a user's ftruncate clears them");
        prepare();
        chown(&path, Some(1000), None).unwrap();
        assert_eq!(mode(), 0o777, "a change of owner clears them");
        prepare();
        chown(&path, None, None).unwrap();
        assert_eq!(mode(), 0o777, "also to nobody else");
        // A descriptor that was there before the bits.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let mut before =
            as_user(1000, 1000, &[], || OpenOptions::new().write(true).open(base.join("program")).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        as_user(1000, 1000, &[], || before.write_all(b"y").unwrap());
        assert_eq!(mode(), 0o777, "also through a descriptor opened before");
    });
}

/// The kernel hands on names that are longer than the file system below takes: it is asked, as it would be without the gate.
#[test]
fn names_that_are_too_long_are_refused_as_such() {
    both(|fixture| {
        File::create(fixture.join("file")).unwrap();
        fixture.recorder.clear();
        let longest = fixture.join(&"x".repeat(255));
        let long = fixture.join(&"x".repeat(256));
        let longer = fixture.join(&"x".repeat(1000));
        for path in [&long, &longer] {
            let refused = |result: std::io::Result<()>| errno(result) == libc::ENAMETOOLONG;
            assert!(refused(fs::metadata(path).map(drop)));
            assert!(refused(File::create(path).map(drop)));
            assert!(refused(fs::create_dir(path)));
            assert!(refused(symlink("target", path)));
            assert!(refused(nix::unistd::mkfifo(path, Mode::S_IRUSR).map_err(Into::into)));
            assert!(refused(fs::hard_link(fixture.join("file"), path)));
            assert!(refused(fs::rename(fixture.join("file"), path)));
            assert!(refused(fs::rename(path, fixture.join("file"))));
            assert!(refused(fs::remove_file(path)));
            assert!(refused(fs::remove_dir(path)));
        }
        assert_eq!(fixture.recorder.operations(), []);
        fs::rename(fixture.join("file"), &longest).unwrap();
        assert!(longest.exists());
        assert_eq!(fixture.report().requests.malformed, 0);
    });
}
