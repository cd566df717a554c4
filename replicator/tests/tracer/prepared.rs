//! Kernel programs that were loaded ahead see nothing before they are attached, and everything after it.

use std::os::unix::fs::FileExt;

use replicator::tracer::{PreparedTracer, TraceEvent, Tracer, TracerError, TracerOptions};

use crate::fixture::{Image, Traced, file, not_run, options};
use crate::operations::filled;

/// As [`Traced::new`] starts one; `None` where that cannot be done.
fn prepare(image: &Image, change: impl Fn(&mut TracerOptions)) -> Option<PreparedTracer> {
    let options = || {
        let mut options = options(vec![image.watch()]);
        change(&mut options);
        options
    };
    match PreparedTracer::load(options()) {
        Ok(prepared) => Some(prepared),
        Err(error) => {
            // What cannot be prepared cannot be started either.
            assert!(Tracer::start(options()).is_err(), "{error}");
            not_run(&error.to_string());
            None
        }
    }
}

#[test]
fn nothing_is_told_before_and_everything_after() {
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let path = image.directory("prepared").join("file");
    let target = filled(&path, 65_536);
    let Some(prepared) = prepare(&image, |_| {}) else { return };
    target.write_all_at(b"before", 0).expect("pwrite");
    let tracer = prepared.attach(None).expect("the kernel took them before");
    let mut traced = Traced { tracer, image };
    assert_eq!(traced.drain().len(), 0, "it was told of what happened before");
    target.write_all_at(b"after", 4096).expect("pwrite");
    let seen = traced.drain();
    let written = seen.iter().any(|seen| match seen.event {
        TraceEvent::Write { file: about, extent } => {
            about == file(&path) && extent.start <= 4096 && extent.end >= 4101
        }
        _ => false,
    });
    assert!(written, "{seen:?}");
    assert_eq!(traced.tracer.counters().missed, 0);
}

/// A file of which nothing is known is asked about only now: who could answer was not there before.
#[test]
fn who_is_asked_about_files_is_named_when_it_is_attached() {
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let (inside, outside) = (image.directory("in").join("file"), image.directory("out").join("file"));
    let (within, without) = (filled(&inside, 4096), filled(&outside, 4096));
    let Some(prepared) = prepare(&image, |options| {
        for watch in &mut options.watches {
            watch.whole_filesystem = false;
        }
    }) else {
        return;
    };
    let known = file(&inside);
    let tracer =
        prepared.attach(Some(Box::new(move |file, _| file == known))).expect("the kernel took them before");
    let mut traced = Traced { tracer, image };
    within.write_all_at(b"x", 0).expect("pwrite");
    without.write_all_at(b"x", 0).expect("pwrite");
    let seen = traced.drain();
    let of = |path| {
        seen.iter()
            .any(|seen| matches!(seen.event, TraceEvent::Write { file: about, .. } if about == file(path)))
    };
    assert!(of(&inside) && !of(&outside), "{seen:?}");
}

#[test]
fn what_cannot_be_watched_cannot_be_prepared() {
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let mut watch = image.watch();
    watch.filesystem = "tmpfs".to_owned();
    assert!(matches!(PreparedTracer::load(options(vec![watch])), Err(TracerError::Uncovered { .. })));
}
