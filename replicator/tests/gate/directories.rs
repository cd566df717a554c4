//! Directory listings.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::support::{Fixture, both, runnable};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use replicator::gate::Passthrough;

#[test]
fn a_listing_shows_names_kinds_and_numbers() {
    both(|fixture| {
        let mut expected = HashMap::new();
        for number in 0..300 {
            let name = format!("entry-{number}-{}", "x".repeat(number % 200));
            let path = fixture.join(&name);
            if number % 3 == 0 {
                fs::create_dir(&path).unwrap()
            } else {
                fs::write(&path, b"x").unwrap()
            }
            expected.insert(OsString::from(name), (number % 3 == 0, fs::metadata(&path).unwrap().ino()));
        }
        for _ in 0..2 {
            let shown: HashMap<_, _> = fs::read_dir(fixture.path())
                .unwrap()
                .map(|entry| {
                    use std::os::unix::fs::DirEntryExt;
                    let entry = entry.unwrap();
                    let is_directory = entry.file_type().unwrap().is_dir();
                    // Also asks for the attributes, which the listing may have brought along.
                    assert_eq!(entry.metadata().unwrap().ino(), entry.ino());
                    (entry.file_name(), (is_directory, entry.ino()))
                })
                .collect();
            assert_eq!(shown, expected);
        }
    });
}

/// Names that are there all the time are listed exactly once, whatever happens to the others meanwhile.
#[test]
fn a_listing_of_5000_names_survives_changes() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    let stays = |number: usize| number.is_multiple_of(2);
    for number in 0..5000 {
        File::create(fixture.join(&format!("name-{number:05}"))).unwrap();
    }
    let mut seen: HashMap<OsString, usize> = HashMap::new();
    for (count, entry) in fs::read_dir(fixture.path()).unwrap().enumerate() {
        *seen.entry(entry.unwrap().file_name()).or_default() += 1;
        if count % 2 == 0 && count < 2500 {
            let gone = 2 * count + 1;
            if gone < 5000 {
                fs::remove_file(fixture.join(&format!("name-{gone:05}"))).unwrap();
            }
            File::create(fixture.join(&format!("added-{count}"))).unwrap();
        }
    }
    for number in (0..5000).filter(|number| stays(*number)) {
        let name = OsString::from(format!("name-{number:05}"));
        assert_eq!(seen.get(&name), Some(&1), "{name:?}");
    }
    assert!(seen.values().all(|count| *count == 1), "no name twice");
}

/// telldir and seekdir: a place in a listing stays the same place.
#[test]
fn places_in_a_listing_last() {
    both(|fixture| {
        for number in 0..500 {
            File::create(fixture.join(&format!("{number}"))).unwrap();
        }
        let path = std::ffi::CString::new(fixture.path().to_str().unwrap()).unwrap();
        // SAFETY: the path is NUL-terminated; the stream is used by this thread only and closed in the end.
        unsafe {
            let stream = libc::opendir(path.as_ptr());
            assert!(!stream.is_null());
            let next = || {
                let entry = libc::readdir(stream);
                (!entry.is_null()).then(|| std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_owned())
            };
            let mut places = Vec::new();
            loop {
                let place = libc::telldir(stream);
                let Some(name) = next() else { break };
                places.push((place, name));
            }
            assert_eq!(places.len(), 502);
            let distinct: HashSet<_> = places.iter().map(|(place, _)| *place).collect();
            assert_eq!(distinct.len(), places.len());
            for (place, name) in places.iter().rev().step_by(7) {
                libc::seekdir(stream, *place);
                assert_eq!(next().as_ref(), Some(name));
            }
            libc::rewinddir(stream);
            assert_eq!(next().as_ref(), Some(&places[0].1));
            libc::closedir(stream);
        }
    });
}

/// The kernel keeps a listing until a name in the directory changes, and then shows the change.
#[test]
fn an_unchanged_directory_is_listed_without_asking() {
    both(|fixture| {
        let directory = fixture.join("directory");
        fs::create_dir(&directory).unwrap();
        let names = || -> HashSet<OsString> {
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let asked = || -> u64 {
            let counts = fixture.gate().counters().by_name();
            ["OPENDIR", "READDIR", "READDIRPLUS"].iter().filter_map(|name| counts.get(*name)).sum()
        };
        let mut expected = HashSet::new();
        for number in 0..300 {
            let name = OsString::from(format!("name-{number}"));
            File::create(directory.join(&name)).unwrap();
            expected.insert(name);
            if number % 100 == 99 {
                assert_eq!(names(), expected);
            }
        }
        // Looking at the directory renews its times, after which the kernel asks once more.
        fs::metadata(&directory).unwrap();
        assert_eq!(names(), expected);
        let before = asked();
        assert_eq!(names(), expected);
        assert_eq!(asked(), before);
        let other = fixture.join("other");
        fs::remove_file(directory.join("name-7")).unwrap();
        expected.remove(&OsString::from("name-7"));
        assert_eq!(names(), expected);
        fs::rename(directory.join("name-8"), &other).unwrap();
        expected.remove(&OsString::from("name-8"));
        assert_eq!(names(), expected);
        fs::rename(&other, directory.join("back")).unwrap();
        expected.insert("back".into());
        assert_eq!(names(), expected);
        fs::hard_link(directory.join("back"), directory.join("linked")).unwrap();
        expected.insert("linked".into());
        assert_eq!(names(), expected);
        assert!(asked() > before);
    });
}

/// A kept listing does not outlive a move of the directory itself: ".." is another one then.
#[test]
fn a_moved_directory_lists_its_new_parent() {
    both(|fixture| {
        let parents = [fixture.join("first"), fixture.join("second")];
        for parent in &parents {
            fs::create_dir(parent).unwrap();
        }
        let [from, to] = parents.each_ref().map(|parent| parent.join("moved"));
        fs::create_dir(&from).unwrap();
        assert_eq!(parent_number(&from), fs::metadata(&parents[0]).unwrap().ino());
        assert_eq!(parent_number(&from), fs::metadata(&parents[0]).unwrap().ino());
        fs::rename(&from, &to).unwrap();
        assert_eq!(parent_number(&to), fs::metadata(&parents[1]).unwrap().ino());
    });
}

/// The inode number listed for "..".
fn parent_number(directory: &std::path::Path) -> u64 {
    let mut stream = nix::dir::Dir::open(directory, OFlag::O_RDONLY, Mode::empty()).unwrap();
    let parent = stream.iter().map(Result::unwrap).find(|entry| entry.file_name() == c"..");
    parent.unwrap().ino()
}

/// What the kernel forgets, the gate forgets: memory follows use.
#[test]
fn forgotten_nodes_leave_the_table() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    for number in 0..200 {
        fs::write(fixture.join(&format!("{number}")), b"x").unwrap();
    }
    assert!(fixture.report().inodes > 200);
    for number in 0..200 {
        fs::remove_file(fixture.join(&format!("{number}"))).unwrap();
    }
    fixture.wait_for("nodes forgotten", |fixture| fixture.report().inodes == 1);
    assert_eq!(fixture.report().open_files, 0);
}
