//! The figures for a person, and for a program.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::Measured;
use super::bars::{Judged, median, ratio};
use super::jobs::Job;
use super::variants::VARIANTS;

/// The table.
pub fn text(chosen: &[&Job], measured: &Measured, judged: &[Judged], trace: Option<&str>) -> String {
    let mut text = String::new();
    for job in chosen {
        let _ = writeln!(text, "\n{}: {}", job.name, job.about);
        let _ = writeln!(
            text,
            "    {:<16} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9}",
            "", "calls/s", "MiB/s", "p50 us", "p90 us", "p99 us", "of native"
        );
        for variant in VARIANTS {
            let figure = |of: fn(&super::Figures) -> f64| median(measured, job.name, *variant, of);
            let Some(rate) = figure(|figures| figures.per_second) else { continue };
            let _ = writeln!(
                text,
                "    {:<16} {rate:>10.0} {:>10.1} {:>9.1} {:>9.1} {:>9.1} {:>9.2}",
                variant.heading(),
                figure(|figures| figures.bytes_per_second).unwrap_or(0.0) / f64::from(1 << 20),
                figure(|figures| figures.p50_us).unwrap_or(0.0),
                figure(|figures| figures.p90_us).unwrap_or(0.0),
                figure(|figures| figures.p99_us).unwrap_or(0.0),
                ratio(measured, job.name, *variant).unwrap_or(0.0),
            );
        }
        for bar in judged.iter().filter(|bar| bar.job == job.name) {
            let word = if bar.met { "met" } else { "MISSED" };
            let _ = writeln!(text, "    {word:<7} {}: {:.2}", bar.bar, bar.found);
        }
    }
    let _ = writeln!(text, "\ncost of a traced write:\n{}", trace.unwrap_or("not measured: no such example"));
    let met = judged.iter().filter(|bar| bar.met).count();
    let _ = writeln!(text, "\n{met} of {} bars met", judged.len());
    text
}

/// The same as JSON.
pub fn json(
    about: &str,
    chosen: &[&Job],
    measured: &Measured,
    judged: &[Judged],
    trace: Option<&str>,
) -> Result<String> {
    let jobs: Vec<Value> = chosen
        .iter()
        .map(|job| {
            let variants: Vec<Value> = VARIANTS
                .iter()
                .filter_map(|variant| {
                    let rounds = measured.get(&(job.name, *variant))?;
                    let figure = |of: fn(&super::Figures) -> f64| median(measured, job.name, *variant, of);
                    Some(json!({
                        "variant": variant.heading(),
                        "calls_per_second": figure(|figures| figures.per_second),
                        "bytes_per_second": figure(|figures| figures.bytes_per_second),
                        "p50_us": figure(|figures| figures.p50_us),
                        "p90_us": figure(|figures| figures.p90_us),
                        "p99_us": figure(|figures| figures.p99_us),
                        "of_native": ratio(measured, job.name, *variant),
                        "rounds": rounds,
                    }))
                })
                .collect();
            json!({ "job": job.name, "about": job.about, "variants": variants })
        })
        .collect();
    let all = json!({ "about": about, "jobs": jobs, "bars": judged, "trace_cost": trace });
    Ok(serde_json::to_string_pretty(&all)?)
}
