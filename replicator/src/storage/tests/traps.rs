//! Nothing outside the tree is ever touched by what a peer sends, whatever lies in the tree.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::wire::attributes::Attributes;
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};

use super::fixture;
use super::mirror::Mirror;
use crate::storage::compare_trees::compare_trees;
use crate::storage::replica::{ReplicaError, SyncTarget};

/// A directory beside the tree with a file in it, and a copy of both to compare with at the end.
struct Outside {
    path: PathBuf,
    copy: PathBuf,
}

impl Outside {
    fn new(parent: &Path) -> Outside {
        let outside = Outside { path: parent.join("outside"), copy: parent.join("copy") };
        fs::create_dir(&outside.path).expect("mkdir");
        fs::write(outside.path.join("victim"), b"not yours").expect("write");
        let status = std::process::Command::new("cp")
            .arg("-a")
            .args([&outside.path, &outside.copy])
            .status()
            .expect("run cp");
        assert!(status.success());
        outside
    }

    fn assert_untouched(&self) {
        assert_eq!(compare_trees(&self.path, &self.copy).expect("compare"), []);
    }
}

fn node(mirror: &Mirror, inode: u64, kind: FileKind) -> NewNode {
    NewNode { file: file(mirror, inode), kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, target: Vec::new() }
}

fn file(mirror: &Mirror, inode: u64) -> FileId {
    mirror.primary.file(inode)
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let Some(directory) = fixture::directory() else { return };
    let outside = Outside::new(directory.path());
    let mut mirror = Mirror::new(directory.path());
    fs::write(mirror.primary.path.join("good"), b"x").expect("write");
    mirror.resync();
    let root = mirror.primary.root_file();
    let good = file(&mirror, fixture::inode(&mirror.primary.path.join("good")));
    let long = [b'n'; 256];
    let names: [&[u8]; 10] = [
        b"",
        b".",
        b"..",
        b"/",
        b"../outside/victim",
        b"good/..",
        b"/etc/passwd",
        b"nul\0inside",
        &long,
        b".replicator",
    ];
    for name in names {
        let name = name.to_vec();
        let new = node(&mirror, 1_000_000, FileKind::Regular);
        let entry = ListedEntry { name: name.clone(), node: new.clone() };
        let rename = |old: &[u8], new: &[u8]| Operation::Rename {
            old_parent: root,
            old_name: old.to_vec(),
            new_parent: root,
            new_name: new.to_vec(),
            file: good,
            other: None,
            other_last: false,
            exchange: false,
        };
        let operations = [
            Operation::Create { parent: root, name: name.clone(), node: new.clone() },
            Operation::Link { parent: root, name: name.clone(), node: new },
            Operation::Unlink { parent: root, name: name.clone(), file: good, directory: false, last: false },
            rename(b"good", &name),
            rename(&name, b"better"),
            Operation::List { directory: root, first: true, last: true, entries: vec![entry] },
        ];
        for operation in operations {
            let refused = mirror.replica.apply_namespace(&operation);
            assert!(matches!(refused, Err(ReplicaError::Malformed { .. })), "{operation:?}: {refused:?}");
            if matches!(operation, Operation::List { .. }) {
                mirror.resync();
            }
        }
    }
    mirror.assert_same("after refusals");
    outside.assert_untouched();
}

#[test]
fn descriptions_that_make_no_sense_are_refused() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    mirror.resync();
    let root = mirror.primary.root_file();
    let good = || node(&mirror, 5, FileKind::Regular);
    let symlink = |target: &[u8]| NewNode { kind: FileKind::Symlink, target: target.to_vec(), ..good() };
    let elsewhere = FileId { volume: replicator_core::ids::VolumeId(7), inode: 5 };
    let nodes = [
        NewNode { mode: 0o100_644, ..good() },
        NewNode { uid: u32::MAX, ..good() },
        NewNode { file: root, ..good() },
        NewNode { file: elsewhere, ..good() },
        symlink(b""),
        symlink(b"a\0b"),
        symlink(&[b't'; 4096]),
    ];
    for node in nodes {
        let operation = Operation::Create { parent: root, name: b"n".to_vec(), node };
        let refused = mirror.replica.apply_namespace(&operation);
        assert!(matches!(refused, Err(ReplicaError::Malformed { .. })), "{operation:?}: {refused:?}");
    }
    let unlink =
        Operation::Unlink { parent: root, name: b"n".to_vec(), file: root, directory: true, last: true };
    assert!(matches!(mirror.replica.apply_namespace(&unlink), Err(ReplicaError::Malformed { .. })));
    let foreign = Operation::List { directory: elsewhere, first: true, last: true, entries: vec![] };
    assert!(matches!(mirror.replica.apply_namespace(&foreign), Err(ReplicaError::Malformed { .. })));
    assert_eq!(mirror.replica.known_files(), 1);
}

#[test]
fn symlinks_in_the_way_are_replaced_and_not_followed() {
    let Some(directory) = fixture::directory() else { return };
    let outside = Outside::new(directory.path());
    let mut mirror = Mirror::new(directory.path());
    let (a, b) = (mirror.primary.path.clone(), mirror.secondary.path.clone());
    fs::create_dir(a.join("directory")).expect("mkdir");
    fs::write(a.join("directory/victim"), b"new content, longer than before").expect("write");
    fs::write(a.join("file"), b"new").expect("write");
    fs::set_permissions(a.join("file"), fs::Permissions::from_mode(0o777)).expect("chmod");
    symlink(&outside.path, b.join("directory")).expect("symlink");
    symlink(outside.path.join("victim"), b.join("file")).expect("symlink");
    symlink(&outside.path, b.join("superfluous")).expect("symlink");
    mirror.resync();
    mirror.assert_same("symlinks");
    outside.assert_untouched();
}

#[test]
fn a_directory_that_becomes_a_symlink_between_operations() {
    let Some(directory) = fixture::directory() else { return };
    let outside = Outside::new(directory.path());
    let mut mirror = Mirror::new(directory.path());
    let (a, b) = (mirror.primary.path.clone(), mirror.secondary.path.clone());
    fs::create_dir(a.join("directory")).expect("mkdir");
    fs::write(a.join("directory/victim"), b"12345").expect("write");
    mirror.resync();
    fs::remove_dir_all(b.join("directory")).expect("remove");
    symlink(&outside.path, b.join("directory")).expect("symlink");
    let parent = file(&mirror, fixture::inode(&a.join("directory")));
    let victim = file(&mirror, fixture::inode(&a.join("directory/victim")));
    let create = Operation::Create {
        parent,
        name: b"new".to_vec(),
        node: node(&mirror, 1_000_000, FileKind::Regular),
    };
    let unlink =
        Operation::Unlink { parent, name: b"victim".to_vec(), file: victim, directory: false, last: true };
    for operation in [create, unlink] {
        let refused = mirror.replica.apply_namespace(&operation);
        assert!(matches!(refused, Err(ReplicaError::Lost { .. })), "{operation:?}: {refused:?}");
    }
    assert!(matches!(mirror.replica.descriptor(victim), Err(ReplicaError::Lost { .. })));
    let attributes = Attributes { mode: 0o100_777, ..Attributes::default() };
    assert!(matches!(mirror.replica.apply_attributes(victim, &attributes), Err(ReplicaError::Lost { .. })));
    outside.assert_untouched();
    mirror.resync();
    mirror.assert_same("repaired");
    outside.assert_untouched();
}

#[test]
fn a_directory_that_is_moved_out_of_the_tree() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    let (a, b) = (mirror.primary.path.clone(), mirror.secondary.path.clone());
    fs::create_dir_all(a.join("directory/inner")).expect("mkdir");
    mirror.resync();
    // Beside the tree, under a name that begins with the tree's.
    let away = directory.path().join("b-side");
    fs::rename(b.join("directory"), &away).expect("rename");
    for path in ["directory", "directory/inner"] {
        let create = Operation::Create {
            parent: file(&mirror, fixture::inode(&a.join(path))),
            name: b"new".to_vec(),
            node: node(&mirror, 1_000_000, FileKind::Regular),
        };
        let refused = mirror.replica.apply_namespace(&create);
        assert!(matches!(refused, Err(ReplicaError::Lost { .. })), "{refused:?}");
    }
    mirror.resync();
    mirror.assert_same("repaired");
    let left: Vec<_> = super::random_tree::walk(&away);
    assert_eq!(left, [away.clone(), away.join("inner")]);
}

#[test]
fn an_orphanage_that_is_a_symlink_is_refused() {
    let Some(directory) = fixture::directory() else { return };
    let outside = Outside::new(directory.path());
    for planted in [".replicator", ".replicator/orphans"] {
        let parent = tempfile::tempdir_in(directory.path()).expect("a directory");
        let mut mirror = Mirror::new(parent.path());
        let b = mirror.secondary.path.clone();
        fs::write(b.join("superfluous"), b"x").expect("write");
        if planted.contains('/') {
            fs::create_dir(b.join(".replicator")).expect("mkdir");
        }
        symlink(&outside.path, b.join(planted)).expect("symlink");
        mirror.begin();
        let list = Operation::List {
            directory: mirror.primary.root_file(),
            first: true,
            last: true,
            entries: Vec::new(),
        };
        mirror.replica.apply_namespace(&list).expect_err("the orphanage cannot be used");
        mirror.replica.end_resync().expect_err("it cannot be emptied");
        outside.assert_untouched();
    }
}

#[test]
fn deleting_orphans_follows_no_symlink() {
    let Some(directory) = fixture::directory() else { return };
    let outside = Outside::new(directory.path());
    let mut mirror = Mirror::new(directory.path());
    let deep = mirror.secondary.path.join("1/2/3/4");
    fs::create_dir_all(&deep).expect("mkdir");
    for at in [&deep, &mirror.secondary.path.join("1"), &mirror.secondary.path] {
        symlink(&outside.path, at.join("link")).expect("symlink");
        symlink(outside.path.join("victim"), at.join("link-to-file")).expect("symlink");
    }
    mirror.resync();
    mirror.assert_same("deleted");
    outside.assert_untouched();
}

/// What is mounted at a path, unmounted when dropped, wherever the mount point was renamed to.
struct Mounted(OwnedFd);

impl Mounted {
    fn new(at: PathBuf) -> Option<Mounted> {
        fs::create_dir_all(&at).expect("mkdir");
        if mount(None::<&str>, &at, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).is_err() {
            println!("not run: tmpfs cannot be mounted here");
            return None;
        }
        fs::write(at.join("inside"), b"x").expect("write");
        Some(Mounted::find(&at))
    }

    fn find(at: &Path) -> Mounted {
        Mounted(nix::fcntl::open(at, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).expect("open"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        umount2(path.as_str(), MntFlags::MNT_DETACH).expect("unmount");
    }
}

#[test]
fn what_is_mounted_inside_stays() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    let (a, b) = (mirror.primary.path.clone(), mirror.secondary.path.clone());
    fs::create_dir_all(b.join("gone/deeper")).expect("mkdir");
    fs::write(b.join("gone/file"), b"x").expect("write");
    let Some(_direct) = Mounted::new(b.join("mounted")) else { return };
    let Some(_deeper) = Mounted::new(b.join("gone/deeper/mounted")) else { return };
    let Some(_source) = Mounted::new(a.join("on-the-primary")) else { return };
    mirror.resync();
    assert!(b.join("mounted/inside").exists());
    assert!(!b.join("on-the-primary").exists() && !b.join("gone").exists());
    let orphans = super::random_tree::walk(&b.join(".replicator"));
    assert!(orphans.iter().any(|path| path.ends_with("mounted/inside")), "{orphans:?}");
    assert!(!orphans.iter().any(|path| path.ends_with("file")), "{orphans:?}");
    // The primary wants that very name.
    fs::create_dir(a.join("mounted")).expect("mkdir");
    let list = Operation::Create {
        parent: mirror.primary.root_file(),
        name: b"mounted".to_vec(),
        node: node(&mirror, 1_000_000, FileKind::Directory),
    };
    let refused = mirror.replica.apply_namespace(&list).expect_err("it is in the way");
    assert_eq!(refused.errno().0, libc::EBUSY);
}

#[test]
fn a_bind_mount_of_the_same_file_system_is_no_part_of_the_tree() {
    let Some(directory) = fixture::directory() else { return };
    let outside = Outside::new(directory.path());
    let mut mirror = Mirror::new(directory.path());
    let at = mirror.primary.path.join("bound");
    fs::create_dir(&at).expect("mkdir");
    if mount(Some(&outside.path), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).is_err() {
        println!("not run: bind mounts do not work here");
        return;
    }
    let bound = Mounted::find(&at);
    mirror.resync();
    assert!(!mirror.secondary.path.join("bound").exists());
    drop(bound);
    mirror.resync();
    mirror.assert_same("unmounted");
}

#[test]
fn special_files_are_not_opened() {
    let Some(directory) = fixture::directory() else { return };
    let mut mirror = Mirror::new(directory.path());
    let path = mirror.primary.path.join("fifo");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
    // A device that does not exist: to open it would be an error.
    let device = mirror.primary.path.join("device");
    let number = nix::sys::stat::makedev(240, 7);
    nix::sys::stat::mknod(&device, nix::sys::stat::SFlag::S_IFCHR, Mode::S_IRWXU, number).expect("mknod");
    symlink("nowhere", mirror.primary.path.join("symlink")).expect("symlink");
    mirror.resync();
    mirror.assert_same("special files");
    assert!(fs::metadata(mirror.secondary.path.join("fifo")).expect("stat").file_type().is_fifo());
    for path in [path, device, mirror.primary.path.join("symlink")] {
        let file = file(&mirror, fs::symlink_metadata(path).expect("stat").ino());
        assert!(mirror.replica.descriptor(file).expect("ignored").is_none());
        assert!(
            matches!(mirror.replica.sync_target(file), Ok(SyncTarget::Volume(volume)) if volume == file.volume)
        );
        let error = crate::storage::reader::open_for_read(&mirror.primary, file.inode).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
