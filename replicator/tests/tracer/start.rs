//! What the tracer says about itself, and when it refuses to start.

use replicator::tracer::{Cover, Hook, HookState, Row, Tracer, TracerError, Watch, probe};

use crate::fixture::{Traced, VOLUME, kernel_is_at_least, not_run, options, row};

#[test]
fn tmpfs_is_refused() {
    let watch = Watch {
        volume: VOLUME,
        kernel_device: 1,
        filesystem: "tmpfs".to_owned(),
        root_inode: 1,
        whole_filesystem: true,
    };
    match Tracer::start(options(vec![watch])) {
        Err(TracerError::Uncovered { filesystem, cover, .. }) => {
            assert_eq!((filesystem.as_str(), cover), ("tmpfs", Cover::Mapped));
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("stores to mappings of tmpfs are invisible"),
    }
}

#[test]
fn the_report_names_every_hook() {
    let Some(traced) = Traced::new("ext4", &[], "") else { return };
    let report = traced.tracer.report();
    assert_eq!(report.hooks.len(), Hook::ALL.len());
    assert_eq!(report.state(Hook::WritebackDirtyFolio), Some(HookState::Attached));
    assert_eq!(report.state(Hook::XfsFileBufferedWrite), Some(HookState::NotNeeded));
    assert!(row() == Row::Auto || report.row == row(), "{:?}", report.row);
    match report.row {
        Row::Tracepoints => {
            assert_eq!(report.state(Hook::Ext4DaWriteEnd), Some(HookState::Attached));
            assert_eq!(report.state(Hook::VfsRename), Some(HookState::NotNeeded));
        }
        _ => {
            for hook in &report.hooks {
                let refused = matches!(hook.state, HookState::Refused { .. });
                assert!(!refused, "{}: {:?}", hook.name, hook.state);
            }
            let uncovered: Vec<_> = report.uncovered.iter().map(|uncovered| uncovered.cover).collect();
            // The tracepoints at both ends of direct I/O came with Linux 6.6.
            let expected = if kernel_is_at_least(6, 6) { vec![] } else { vec![Cover::Direct] };
            assert_eq!(uncovered, expected);
            assert_eq!(report.state(Hook::VfsRename), Some(HookState::Attached));
        }
    }
}

#[test]
fn a_row_that_is_refused_is_reported_by_auto() {
    let probe = probe();
    if !probe.typed_tracepoint.available {
        return not_run("no typed tracepoints");
    }
    let Some(image) = crate::fixture::Image::new("ext4", &[], "") else { return };
    let mut options = options(vec![image.watch()]);
    options.row = Row::Auto;
    let tracer = Tracer::start(options).expect("the tracepoints suffice");
    let expected = if probe.functions.available { Row::Fentry } else { Row::Tracepoints };
    assert_eq!(tracer.report().row, expected, "{}", tracer.report().reason);
}

/// A row that is set by the configuration is had in full, or the tracer does not start.
#[test]
fn the_function_row_needs_functions() {
    let probe = probe();
    if !probe.typed_tracepoint.available {
        return not_run("no typed tracepoints");
    }
    let Some(image) = crate::fixture::Image::new("ext4", &[], "") else { return };
    let mut options = options(vec![image.watch()]);
    options.row = Row::Fentry;
    match Tracer::start(options) {
        Ok(tracer) => {
            assert!(probe.functions.available, "{}", probe.functions.reason);
            assert_eq!(tracer.report().row, Row::Fentry);
            assert_eq!(tracer.report().state(Hook::VfsRename), Some(HookState::Attached));
        }
        Err(TracerError::Functions { cover, function, source }) => {
            assert!(!probe.functions.available, "{function} for {cover:?}: {source}");
            assert!(source.raw_os_error().is_some(), "{function}: {source}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_probe_gives_a_reason_for_everything() {
    let probe = probe();
    for finding in
        [&probe.types, &probe.ring_buffer, &probe.raw_tracepoint, &probe.typed_tracepoint, &probe.functions]
    {
        println!("{}: {} ({})", finding.name, finding.available, finding.reason);
        assert!(!finding.reason.is_empty());
    }
}
