//! Names and attributes: seen by the function row only.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirEntryExt, FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use replicator::tracer::{Row, TraceEvent, Tracer};
use replicator_core::extent::Extent;

use crate::fixture::{Image, Seen, Traced, assert_covered, assert_told, file, not_run, options, row};
use crate::operations::filled;

fn directory(path: &Path) -> TraceEvent {
    TraceEvent::Directory { directory: file(path) }
}

fn attributes(path: &Path) -> TraceEvent {
    TraceEvent::Attributes { file: file(path) }
}

fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_string_lossy().as_bytes()).expect("no NUL")
}

/// The change of names is told for the directory, and the file's for itself.
fn assert_created(what: &str, seen: &[Seen], parent: &Path, child: &Path) {
    assert_told(what, seen, directory(parent));
    assert_told(what, seen, attributes(child));
}

#[test]
fn names() {
    if row() != Row::Fentry {
        return not_run("the tracepoint row leaves names to the gate");
    }
    let Some(mut traced) = Traced::new("ext4", &[], "") else { return };
    let (one, two) = (traced.image.directory("one"), traced.image.directory("two"));
    let path = one.join("file");

    let seen = traced.during(|| drop(File::create(&path).expect("create")));
    assert_created("open(O_CREAT)", &seen, &one, &path);
    let seen = traced.during(|| drop(File::open(&path).expect("open")));
    assert!(seen.is_empty(), "an open that creates nothing: {seen:?}");

    let seen = traced.during(|| fs::create_dir(one.join("directory")).expect("mkdir"));
    assert_created("mkdir", &seen, &one, &one.join("directory"));
    let seen = traced.during(|| symlink("file", one.join("symlink")).expect("symlink"));
    assert_created("symlink", &seen, &one, &one.join("symlink"));
    let fifo = one.join("fifo");
    let seen = traced.during(|| {
        // SAFETY: the path is NUL-terminated.
        assert_eq!(unsafe { libc::mknod(c_path(&fifo).as_ptr(), libc::S_IFIFO | 0o600, 0) }, 0);
    });
    assert_created("mknod", &seen, &one, &fifo);
    let seen = traced.during(|| fs::hard_link(&path, two.join("link")).expect("link"));
    assert_created("link", &seen, &two, &path);

    let seen = traced.during(|| fs::rename(&path, two.join("renamed")).expect("rename"));
    assert_created("rename, to", &seen, &two, &two.join("renamed"));
    assert_told("rename, from", &seen, directory(&one));
    let victim = two.join("victim");
    drop(File::create(&victim).expect("create"));
    let replaced = attributes(&victim);
    let seen = traced.during(|| fs::rename(two.join("renamed"), &victim).expect("rename"));
    assert_told("what a rename replaces", &seen, replaced);

    let gone = attributes(&victim);
    let seen = traced.during(|| fs::remove_file(&victim).expect("unlink"));
    assert_told("unlink", &seen, directory(&two));
    assert_told("what is unlinked", &seen, gone);
    let seen = traced.during(|| fs::remove_dir(one.join("directory")).expect("rmdir"));
    assert_told("rmdir", &seen, directory(&one));

    let seen = traced.during(|| {
        let nameless =
            OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(&one).expect("O_TMPFILE");
        drop(nameless);
    });
    assert!(
        seen.iter().any(|seen| matches!(seen.event, TraceEvent::Attributes { .. })),
        "a file without a name: {seen:?}"
    );
}

#[test]
fn changed_attributes() {
    if row() != Row::Fentry {
        return not_run("the tracepoint row leaves attributes to the gate");
    }
    let Some(mut traced) = Traced::new("ext4", &[], "") else { return };
    let path = traced.image.directory("attributes").join("file");
    drop(File::create(&path).expect("create"));
    let told = attributes(&path);

    let seen = traced.during(|| fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod"));
    assert_told("chmod", &seen, told);
    let seen = traced.during(|| std::os::unix::fs::chown(&path, Some(1), Some(1)).expect("chown"));
    assert_told("chown", &seen, told);
    let seen = traced.during(|| {
        let file = OpenOptions::new().write(true).open(&path).expect("open");
        file.set_modified(std::time::UNIX_EPOCH).expect("utimens");
    });
    assert_told("utimens", &seen, told);
    let (name, value) = (c"user.test", b"value");
    let seen = traced.during(|| {
        // SAFETY: the strings are NUL-terminated, and the value has that length.
        let result = unsafe {
            libc::setxattr(c_path(&path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    });
    assert_told("setxattr", &seen, told);
    let seen = traced.during(|| {
        // SAFETY: the strings are NUL-terminated.
        assert_eq!(unsafe { libc::removexattr(c_path(&path).as_ptr(), name.as_ptr()) }, 0);
    });
    assert_told("removexattr", &seen, told);
}

/// A file that comes in from outside is new as a whole, and writes to it are told from then on.
#[test]
fn arrivals() {
    if row() != Row::Fentry {
        return not_run("the tracepoint row leaves names to the gate");
    }
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let (inside, outside) = (image.directory("inside"), image.directory("outside"));
    let mut watch = image.watch();
    watch.whole_filesystem = false;
    watch.root_inode = file(&inside).inode;
    let mut options = options(vec![watch]);
    let mount = image.mount.clone();
    // Whoever lies below the directory at the moment of the question.
    options.resolve = Some(Box::new(move |file, _| {
        let listed = |directory: &Path| {
            fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| entry.ino() == file.inode)
        };
        listed(&mount.join("inside")) || listed(&mount.join("inside/directory"))
    }));
    let tracer = match Tracer::start(options) {
        Ok(tracer) => tracer,
        Err(error) => return not_run(&error.to_string()),
    };
    let mut traced = Traced { tracer, image };

    for (name, link) in [("renamed", false), ("linked", true)] {
        let (from, to) = (outside.join(name), inside.join(name));
        let target = filled(&from, 10_000);
        let seen = traced.during(|| target.write_all_at(b"x", 0).expect("pwrite"));
        assert!(seen.is_empty(), "{seen:?}");
        let seen = traced.during(|| {
            if link {
                fs::hard_link(&from, &to).expect("link")
            } else {
                fs::rename(&from, &to).expect("rename")
            }
        });
        assert_told(name, &seen, TraceEvent::Write { file: file(&to), extent: Extent::WHOLE });
        assert_told(name, &seen, directory(&inside));
        let seen = traced.during(|| target.write_all_at(b"x", 5).expect("pwrite"));
        assert_covered(name, &seen, file(&to), Extent::at(5, 1), None);
    }

    // Exchanged, from the side that is not followed: the inner name is the old one.
    let (from, to) = (outside.join("exchanged"), inside.join("exchanged"));
    let target = filled(&from, 10_000);
    drop(File::create(&to).expect("create"));
    traced.drain();
    let seen = traced.during(|| target.write_all_at(b"x", 0).expect("pwrite"));
    assert!(seen.is_empty(), "{seen:?}");
    let seen = traced.during(|| {
        let (old, new) = (c_path(&to), c_path(&from));
        let (here, exchange) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
        // SAFETY: the paths are NUL-terminated.
        assert_eq!(unsafe { libc::renameat2(here, old.as_ptr(), here, new.as_ptr(), exchange) }, 0);
    });
    assert_told("exchanged", &seen, TraceEvent::Write { file: file(&to), extent: Extent::WHOLE });
    let seen = traced.during(|| target.write_all_at(b"x", 5).expect("pwrite"));
    assert_covered("exchanged", &seen, file(&to), Extent::at(5, 1), None);

    let (from, to) = (outside.join("directory"), inside.join("directory"));
    fs::create_dir(&from).expect("mkdir");
    let target = filled(&from.join("below"), 10);
    traced.drain();
    let seen = traced.during(|| target.write_all_at(b"x", 0).expect("pwrite"));
    assert!(seen.is_empty(), "{seen:?}");
    traced.during(|| fs::rename(&from, &to).expect("rename"));
    let seen = traced.during(|| target.write_all_at(b"x", 3).expect("pwrite"));
    assert_covered("below a directory", &seen, file(&to.join("below")), Extent::at(3, 1), None);
}
