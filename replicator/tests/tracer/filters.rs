//! What is not told: the daemon's own doings, other file systems, other trees.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use replicator::tracer::{Row, TraceEvent, Tracer, TracerOptions};
use replicator_core::extent::Extent;

use crate::fixture::{Image, Traced, VOLUME, assert_covered, file, not_run, options, row};
use crate::operations::{Aligned, filled, open_direct};

fn shell(script: &str, path: &Path) {
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(path).status().expect("a shell");
    assert!(status.success());
}

/// A tracer with these options, unless the kernel has no programs at all.
fn start(image: Image, options: TracerOptions) -> Option<Traced> {
    match Tracer::start(options) {
        Ok(tracer) => Some(Traced { tracer, image }),
        Err(error) if row() == Row::Fentry => {
            not_run(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn own_writes_are_not_told_and_those_of_others_are() {
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let mut options = options(vec![image.watch()]);
    options.ignored_process = None;
    let Some(mut traced) = start(image, options) else { return };
    let path = traced.image.directory("own").join("file");
    let own = filled(&path, 65_536);
    let seen = traced.during(|| {
        own.write_all_at(b"own", 100).expect("pwrite");
        open_direct(&path).write_all_at(Aligned::new(4096, 1).bytes(), 8192).expect("direct pwrite");
        own.sync_all().expect("fsync");
    });
    assert!(seen.is_empty(), "{seen:?}");
    assert!(traced.tracer.counters().filtered_own > 0);
    let seen = traced.during(|| shell("printf foreign >> \"$1\"", &path));
    assert_covered("a child's write", &seen, file(&path), Extent::at(65_536, 7), None);
}

#[test]
fn another_device_is_not_told() {
    let Some(mut traced) = Traced::new("ext4", &[], "") else { return };
    let elsewhere = tempfile::NamedTempFile::new().expect("a file elsewhere");
    let seen = traced.during(|| {
        elsewhere.as_file().write_all_at(&[1; 10_000], 0).expect("pwrite");
        elsewhere.as_file().sync_all().expect("fsync");
    });
    assert!(seen.is_empty(), "{seen:?}");
}

/// A tracer for the directory `tree` of an image; the resolver knows the set and counts questions.
struct Tree {
    traced: Traced,
    members: Arc<Mutex<HashSet<u64>>>,
    questions: Arc<Mutex<Vec<u64>>>,
}

fn tree() -> Option<Tree> {
    let image = Image::new("ext4", &[], "")?;
    let directory = image.directory("tree");
    image.directory("other");
    let members = Arc::new(Mutex::new(HashSet::new()));
    let questions = Arc::new(Mutex::new(Vec::new()));
    let mut watch = image.watch();
    watch.whole_filesystem = false;
    watch.root_inode = fs::metadata(directory).expect("the tree").ino();
    let mut options = options(vec![watch]);
    let (known, asked) = (Arc::clone(&members), Arc::clone(&questions));
    options.resolve = Some(Box::new(move |file, _| {
        asked.lock().expect("lock").push(file.inode);
        known.lock().expect("lock").contains(&file.inode)
    }));
    let traced = start(image, options)?;
    Some(Tree { traced, members, questions })
}

#[test]
fn unknown_files_are_resolved_once_and_then_filtered_in_the_kernel() {
    let Some(mut tree) = tree() else { return };
    let inside = tree.traced.image.mount.join("tree/inside");
    let outside = tree.traced.image.mount.join("other/outside");
    let (member, stranger) = (filled(&inside, 10), filled(&outside, 10));
    tree.members.lock().expect("lock").insert(file(&inside).inode);
    // Questions about the time before do not count.
    tree.traced.drain();
    tree.traced.tracer.forget(VOLUME, file(&inside).inode);
    tree.traced.tracer.forget(VOLUME, file(&outside).inode);
    tree.questions.lock().expect("lock").clear();

    for _ in 0..5 {
        let seen = tree.traced.during(|| member.write_all_at(b"abc", 3).expect("pwrite"));
        assert_covered("a member", &seen, file(&inside), Extent::at(3, 3), None);
        let seen = tree.traced.during(|| stranger.write_all_at(b"abc", 3).expect("pwrite"));
        assert!(seen.is_empty(), "{seen:?}");
    }
    let mut asked = tree.questions.lock().expect("lock").clone();
    asked.sort_unstable();
    let mut expected = vec![file(&inside).inode, file(&outside).inode];
    expected.sort_unstable();
    assert_eq!(asked, expected, "each file is asked about once");
    assert!(tree.traced.tracer.counters().filtered_outside >= 4);
}

#[test]
fn announced_members_are_not_asked_about() {
    let Some(mut tree) = tree() else { return };
    let path = tree.traced.image.mount.join("tree/announced");
    let member = filled(&path, 10);
    tree.traced.drain();
    tree.traced.tracer.set_membership(VOLUME, file(&path).inode, true);
    tree.questions.lock().expect("lock").clear();
    let seen = tree.traced.during(|| member.write_all_at(b"abc", 3).expect("pwrite"));
    assert_covered("a member", &seen, file(&path), Extent::at(3, 3), None);
    assert!(tree.questions.lock().expect("lock").is_empty());

    // Moved out: nothing is known, and the answer is no.
    tree.traced.tracer.set_membership(VOLUME, file(&path).inode, false);
    let seen = tree.traced.during(|| member.write_all_at(b"abc", 3).expect("pwrite"));
    assert!(seen.is_empty(), "{seen:?}");
    // And back in.
    tree.traced.tracer.set_membership(VOLUME, file(&path).inode, true);
    let seen = tree.traced.during(|| member.write_all_at(b"abc", 3).expect("pwrite"));
    assert_covered("a member again", &seen, file(&path), Extent::at(3, 3), None);
}

/// A verdict about a deleted file must not silence the new file that gets its number.
#[test]
fn a_reused_inode_number_is_unknown() {
    let Some(mut tree) = tree() else { return };
    let outside = tree.traced.image.mount.join("other/outside");
    let inside = tree.traced.image.mount.join("tree/inside");
    // ext4 gives the lowest free number: a handful of tries is plenty.
    for _ in 0..100 {
        let stranger = filled(&outside, 10);
        let number = file(&outside).inode;
        let seen = tree.traced.during(|| stranger.write_all_at(b"abc", 3).expect("pwrite"));
        assert!(seen.iter().all(|seen| !matches!(seen.event, TraceEvent::Write { .. })), "{seen:?}");
        drop(stranger);
        fs::remove_file(&outside).expect("unlink");
        let member = fs::File::create(&inside).expect("create");
        if file(&inside).inode != number {
            drop(member);
            fs::remove_file(&inside).expect("unlink");
            continue;
        }
        tree.members.lock().expect("lock").insert(number);
        let seen = tree.traced.during(|| member.write_all_at(b"new", 0).expect("pwrite"));
        assert_covered("the new file", &seen, file(&inside), Extent::at(0, 3), None);
        return;
    }
    panic!("no number was reused");
}
