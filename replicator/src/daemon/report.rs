//! The report of a verification: the core tells of files by their numbers, a person wants paths.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use replicator_core::ids::{Errno, FileId};
use replicator_core::verify::Difference;
use replicator_core::wire::seen::{Aspect, Finding, Findings};

use crate::storage::verify::paths_of;
use crate::verification::{Found, LISTED_MAX, VerifyReport};
use crate::volume::Volume;

/// Collects what a verification finds.
#[derive(Default)]
pub struct Reports {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    report: VerifyReport,
    /// Found, and not yet looked for in the tree.
    unplaced: Vec<(FileId, Difference)>,
    /// A worker looks for them.
    placing: bool,
}

impl Reports {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A verification begins: what an earlier one found is forgotten.
    pub fn begin(&self, number: u64) {
        let mut inner = self.inner();
        inner.report = VerifyReport { number, ..VerifyReport::default() };
        inner.unplaced.clear();
    }

    /// What was found so far.
    pub fn report(&self) -> VerifyReport {
        let inner = self.inner();
        let mut report = inner.report.clone();
        report.pending += inner.unplaced.len() as u64;
        report
    }

    /// Something differs. Returns whether [`Reports::place`] is to be called, by a worker.
    pub fn add(&self, file: FileId, difference: Difference) -> bool {
        let mut inner = self.inner();
        if inner.unplaced.len() + inner.report.found.len() >= LISTED_MAX {
            inner.report.more += 1;
            return false;
        }
        inner.unplaced.push((file, difference));
        !std::mem::replace(&mut inner.placing, true)
    }

    /// Find out where the files lie. Reads the directories of the tree where the kernel does not know.
    pub fn place(&self, volumes: &[Arc<Volume>]) {
        loop {
            let (number, found) = {
                let mut inner = self.inner();
                let found = std::mem::take(&mut inner.unplaced);
                if found.is_empty() {
                    inner.placing = false;
                    return;
                }
                inner.report.pending = found.len() as u64;
                (inner.report.number, found)
            };
            let places = places_of(volumes, &found);
            let mut inner = self.inner();
            if inner.report.number == number {
                inner.report.pending = 0;
                for (file, difference) in found {
                    let path = places.get(&file).cloned().unwrap_or_else(|| unplaced(volumes, file));
                    describe(&mut inner.report, &path, difference);
                }
            }
        }
    }
}

fn places_of(volumes: &[Arc<Volume>], found: &[(FileId, Difference)]) -> HashMap<FileId, PathBuf> {
    let mut places = HashMap::new();
    for volume in volumes {
        let files = found.iter().map(|(file, _)| file).filter(|file| file.volume == volume.id);
        let inodes: BTreeSet<u64> = files.map(|file| file.inode).collect();
        for (inode, path) in paths_of(volume, inodes) {
            let is_root = path.as_os_str().is_empty();
            let whole = if is_root { volume.path.clone() } else { volume.path.join(path) };
            places.insert(volume.file(inode), whole);
        }
    }
    places
}

/// What is said of a file that has no name any more, or whose name could not be found.
fn unplaced(volumes: &[Arc<Volume>], file: FileId) -> PathBuf {
    let directory = volumes.get(usize::from(file.volume.0)).map(|volume| volume.path.clone());
    directory.unwrap_or_default().join(format!("(inode {})", file.inode))
}

fn describe(report: &mut VerifyReport, path: &Path, difference: Difference) {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    match difference {
        Difference::Contents(extents) => {
            let ranges = extents.iter().map(|extent| (extent.start, extent.end)).collect();
            report.push(Found { path: text(path), what: "contents".to_owned(), ranges, ..Found::default() });
        }
        Difference::Details(_, details) => {
            let Findings { list, more } = Findings::decode(&details).unwrap_or_default();
            for finding in list {
                report.push(found(path, &finding));
            }
            report.more += u64::from(more);
        }
        Difference::UnreadableHere(_, errno) => unreadable(report, text(path), "unreadable here", errno),
        Difference::UnreadableThere(_, errno) => unreadable(report, text(path), "unreadable there", errno),
    }
}

fn unreadable(report: &mut VerifyReport, path: String, what: &str, errno: Errno) {
    let here = std::io::Error::from_raw_os_error(errno.0).to_string();
    report.push(Found { path, what: what.to_owned(), here, ..Found::default() });
}

fn found(path: &Path, finding: &Finding) -> Found {
    use std::os::unix::ffi::OsStrExt;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let named = path.join(std::ffi::OsStr::from_bytes(&finding.name));
    let (path, what) = match finding.aspect {
        Aspect::MissingName => (named.as_path(), "missing"),
        Aspect::ExtraName => (named.as_path(), "extra"),
        Aspect::OtherFile => (named.as_path(), "another file"),
        Aspect::Kind => (path, "kind"),
        Aspect::Mode => (path, "mode"),
        Aspect::Owner => (path, "owner"),
        Aspect::Size => (path, "size"),
        Aspect::Times => (path, "modification time"),
        Aspect::ExtendedAttribute => (path, "extended attribute"),
        Aspect::Flags => (path, "flags"),
        Aspect::Target => (path, "target"),
        Aspect::Device => (path, "device"),
        Aspect::Names => (path, "names"),
    };
    let of = |value: &[u8]| match finding.aspect {
        Aspect::ExtendedAttribute => format!("{} {}", text(&finding.name), text(value)),
        _ => text(value),
    };
    Found {
        path: path.to_string_lossy().into_owned(),
        what: what.to_owned(),
        here: of(&finding.here),
        there: of(&finding.there),
        ranges: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicator_core::extent::Extent;
    use replicator_core::ids::VolumeId;

    #[test]
    fn findings_are_told_by_path_and_in_words() {
        let mut report = VerifyReport::default();
        let mut findings = Findings::default();
        findings.push(Aspect::ExtraName, b"stranger", b"", b"");
        findings.push(Aspect::Mode, b"", b"0644", b"0600");
        findings.push(Aspect::ExtendedAttribute, b"user.a", b"none", b"3 bytes");
        let part = replicator_core::verify::VerifyPart::Names;
        describe(&mut report, Path::new("/srv/d"), Difference::Details(part, findings.encode()));
        describe(&mut report, Path::new("/srv/f"), Difference::Contents(vec![Extent::at(4096, 4096)]));
        describe(&mut report, Path::new("/srv/g"), Difference::UnreadableThere(part, Errno(libc::EIO)));
        let told: Vec<_> =
            report.found.iter().map(|found| (found.path.as_str(), found.what.as_str())).collect();
        let expected = [
            ("/srv/d/stranger", "extra"),
            ("/srv/d", "mode"),
            ("/srv/d", "extended attribute"),
            ("/srv/f", "contents"),
            ("/srv/g", "unreadable there"),
        ];
        assert_eq!(told, expected);
        assert_eq!(report.found[2].there, "user.a 3 bytes");
        assert_eq!(report.found[3].ranges, [(4096, 8192)]);
    }

    #[test]
    fn what_is_not_listed_is_counted() {
        let reports = Reports::default();
        reports.begin(1);
        let file = FileId { volume: VolumeId(0), inode: 9 };
        assert!(reports.add(file, Difference::Contents(Vec::new())));
        for _ in 1..LISTED_MAX {
            assert!(!reports.add(file, Difference::Contents(Vec::new())));
        }
        reports.add(file, Difference::Contents(Vec::new()));
        reports.place(&[]);
        let report = reports.report();
        assert_eq!((report.found.len(), report.more, report.pending), (LISTED_MAX, 1, 0));
    }
}
