//! What is read for a verification on one node is compared on the other: the same where the trees are the same, and exactly what
//! somebody changed where not.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use replicator_core::extent::Extent;
use replicator_core::verify::Verdict;
use replicator_core::wire::seen::{Aspect, Findings};

use super::fixture::{self, Image, inode};
use super::mirror::Mirror;
use super::random_tree::{Random, change, walk};
use crate::storage::verify::{paths_of, read_contents, read_names, read_state};

/// All that differs of a file, as a verification finds it.
fn differences(mirror: &Mirror, path: &Path, fine: bool) -> Vec<Verdict> {
    let number = inode(path);
    let file = mirror.primary.file(number);
    let found = fs::symlink_metadata(path).expect("stat");
    let (state, looked) = read_state(&mirror.primary, number, fine).expect("read the state");
    let mut verdicts = vec![mirror.replica.verify_state(file, &state)];
    if found.is_dir() {
        let (names, _) = read_names(&mirror.primary, number, fine).expect("read the names");
        verdicts.push(mirror.replica.verify_names(file, &names));
    }
    assert_eq!(looked.end, if found.is_file() { found.size() } else { 0 });
    if looked.end > 0 {
        let whole = Extent { start: 0, end: looked.end };
        let (digests, read) = read_contents(&mirror.primary, number, whole, fine).expect("read");
        assert_eq!(read.end, looked.end);
        verdicts.push(mirror.replica.verify_contents(file, whole, &digests));
    }
    verdicts.retain(|verdict| *verdict != Verdict::Same);
    verdicts
}

fn aspects(verdict: &Verdict) -> Vec<(Aspect, String)> {
    let Verdict::Details(details) = verdict else { panic!("{verdict:?}") };
    let findings = Findings::decode(details).expect("findings");
    let told = findings.list.into_iter();
    told.map(|finding| (finding.aspect, String::from_utf8(finding.name).expect("a name"))).collect()
}

#[test]
fn trees_that_are_the_same_are_found_to_be() {
    let Some(directory) = fixture::directory() else { return };
    for seed in 0..6 {
        let parent = directory.path().join(seed.to_string());
        let mut random = Random(seed);
        let mut mirror = Mirror::new(&parent);
        for _ in 0..150 {
            change(&mirror.primary, &mut random);
        }
        mirror.resync();
        mirror.assert_same(&format!("seed {seed}"));
        for path in walk(&mirror.primary.path) {
            for fine in [false, true] {
                assert_eq!(differences(&mirror, &path, fine), [], "seed {seed}, {}", path.display());
            }
        }
    }
}

#[test]
fn what_somebody_changed_is_told_exactly() {
    let Some(image) = Image::ext4() else { return };
    let mut mirror = Mirror::new(image.path());
    let (a, b) = (mirror.primary.path.clone(), mirror.secondary.path.clone());
    fs::create_dir(a.join("d")).unwrap();
    for name in ["d/bytes", "d/mode", "d/gone", "d/replaced", "d/short", "same"] {
        fs::write(a.join(name), vec![7; 300_000]).unwrap();
    }
    symlink("here", a.join("link")).unwrap();
    mirror.resync();

    let bytes = File::options().write(true).open(b.join("d/bytes")).unwrap();
    let modified = bytes.metadata().unwrap().modified().unwrap();
    bytes.write_all_at(b"x", 70_000).unwrap();
    bytes.set_modified(modified).unwrap();
    fs::set_permissions(b.join("d/mode"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(b.join("d/gone")).unwrap();
    fs::remove_file(b.join("d/replaced")).unwrap();
    fs::write(b.join("d/replaced"), vec![7; 300_000]).unwrap();
    fs::write(b.join("d/stranger"), "x").unwrap();
    File::options().write(true).open(b.join("d/short")).unwrap().set_len(100_000).unwrap();

    let of = |name: &str, fine| differences(&mirror, &a.join(name), fine);
    assert_eq!(of("same", true), []);
    assert_eq!(of("link", true), []);
    assert_eq!(of("d/bytes", false), [Verdict::Extents(vec![Extent { start: 65_536, end: 131_072 }])]);
    assert_eq!(of("d/bytes", true), [Verdict::Extents(vec![Extent { start: 69_632, end: 73_728 }])]);
    assert_eq!(of("d/mode", false), [Verdict::Details(Vec::new())]);
    assert_eq!(aspects(&of("d/mode", true)[0]), [(Aspect::Mode, String::new())]);
    assert_eq!(of("d/gone", true), [Verdict::Absent, Verdict::Absent]);
    // Shorter is a matter of state alone.
    let short: Vec<_> = of("d/short", true);
    assert_eq!(short.len(), 1);
    assert_eq!(aspects(&short[0]), [(Aspect::Size, String::new()), (Aspect::Times, String::new())]);
    let names = of("d", true);
    assert_eq!(aspects(&names[0]), [(Aspect::Times, String::new())]);
    let told = aspects(&names[1]);
    let expected =
        [(Aspect::MissingName, "gone"), (Aspect::OtherFile, "replaced"), (Aspect::ExtraName, "stranger")];
    assert_eq!(told, expected.map(|(aspect, name)| (aspect, name.to_owned())));

    // All of it is set right by listing the directory again and comparing.
    mirror.resync();
    mirror.assert_same("after a resync");
}

#[test]
fn files_are_found_by_their_numbers() {
    let Some(image) = Image::ext4() else { return };
    let volume = fixture::volume(image.path(), "a");
    let path = volume.path.join("one/two/three");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "x").unwrap();
    let wanted = [inode(&path), inode(path.parent().unwrap()), volume.root_inode, u64::MAX];
    let found = paths_of(&volume, wanted.into_iter().collect());
    assert_eq!(found.get(&wanted[0]).map(|path| path.to_str().unwrap()), Some("one/two/three"));
    assert_eq!(found.get(&wanted[1]).map(|path| path.to_str().unwrap()), Some("one/two"));
    assert_eq!(found.get(&wanted[2]).map(|path| path.to_str().unwrap()), Some(""));
    assert_eq!(found.len(), 3);
}
