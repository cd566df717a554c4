//! fio, and what its JSON says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::exec;
use crate::setup;

/// What one run of one job gave. For a job that syncs, the latencies are those of the write and its fsync together
/// (sums of the two percentiles).
#[derive(Clone, Copy, PartialEq, Default, Debug, serde::Serialize)]
pub struct Figures {
    /// Calls per second (a write and its fsync count as one).
    pub per_second: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 90th percentile in microseconds.
    pub p90_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Median of the fsync alone in microseconds; 0 without.
    pub sync_p50_us: f64,
}

/// Run one job on `<directory>/<file>.<job number>`.
///
/// # Errors
/// fio failed.
pub fn run(directory: &Path, file: &str, arguments: &[&str], seconds: u64) -> Result<Figures> {
    let mut command = Command::new(setup::program("fio"));
    command.args([
        "--name=job",
        "--output-format=json",
        "--group_reporting=1",
        "--thread=1",
        "--time_based=1",
    ]);
    command.args(["--fallocate=none", "--end_fsync=0", "--percentile_list=50:90:99", "--ioengine=psync"]);
    command.arg(format!("--runtime={seconds}")).arg(format!("--directory={}", directory.display()));
    command
        .arg(format!("--filename_format={file}.$jobnum"))
        .arg(format!("--size={}", size(directory, file)?));
    // Later ones win: a job may choose another engine.
    let words = exec::output(command.args(arguments))?;
    // Notes to the person come before the JSON.
    let json = words.find('{').map_or("", |at| &words[at..]);
    figures(&serde_json::from_str(json).context("read fio's JSON")?)
}

fn size(directory: &Path, file: &str) -> Result<u64> {
    let path = directory.join(format!("{file}.0"));
    Ok(path.metadata().with_context(|| format!("look at {}", path.display()))?.len())
}

/// The figures of the one group in fio's JSON.
fn figures(value: &Value) -> Result<Figures> {
    let job = &value["jobs"][0];
    ensure!(job["error"] == 0, "fio reports error {}", job["error"]);
    let side = if job["write"]["total_ios"].as_u64() > Some(0) { &job["write"] } else { &job["read"] };
    let number =
        |value: &Value, what: &str| value.as_f64().with_context(|| format!("fio's JSON lacks {what}"));
    let at = |latencies: &Value, percentile: &str| {
        let nanoseconds = &latencies["percentile"][percentile];
        Ok::<_, anyhow::Error>(nanoseconds.as_f64().unwrap_or(0.0) / 1000.0)
    };
    let (call, sync) = (&side["clat_ns"], &job["sync"]["lat_ns"]);
    let together = |percentile: &str| Ok::<_, anyhow::Error>(at(call, percentile)? + at(sync, percentile)?);
    Ok(Figures {
        per_second: number(&side["iops"], "iops")?,
        bytes_per_second: number(&side["bw_bytes"], "bw_bytes")?,
        p50_us: together("50.000000")?,
        p90_us: together("90.000000")?,
        p99_us: together("99.000000")?,
        sync_p50_us: at(sync, "50.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn write_and_fsync_are_summed() {
        let latencies =
            |p50: u64| json!({"percentile": {"50.000000": p50, "90.000000": 4000, "99.000000": 9000}});
        let value = json!({"jobs": [{
            "error": 0,
            "read": {"total_ios": 0},
            "write": {"total_ios": 5, "iops": 100.5, "bw_bytes": 411_648, "clat_ns": latencies(2000)},
            "sync": {"lat_ns": latencies(300_000)},
        }]});
        let found = figures(&value).unwrap();
        assert_eq!(
            (found.per_second, found.p50_us, found.p90_us, found.sync_p50_us),
            (100.5, 302.0, 8.0, 300.0)
        );
        let failed = json!({"jobs": [{"error": 5}]});
        assert!(figures(&failed).is_err());
    }
}
