//! The figures for a person, and for a program.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::bars::middle;
use super::super::variants::Variant;
use super::figures::Figures;
use super::work::Job;
use super::{COMPARED, Measured};

/// Lowest ratio to native with one thread, by job.
const BARS: &[(&str, f64)] = &[
    ("stat", 0.80),
    ("list", 0.80),
    ("grep", 0.50),
    ("create", 0.25),
    ("rename", 0.25),
    ("unlink", 0.25),
    ("untar", 0.25),
];

/// The variants that are held against the plain directory.
const JUDGED: [Variant; 2] = [Variant::Alone, Variant::Mirror];

/// The table.
pub fn text(chosen: &[&Job], threads: &[usize], measured: &Measured) -> String {
    let mut text = String::new();
    for job in chosen {
        let _ = writeln!(text, "\n{}: {}", job.name, job.about);
        for count in threads {
            for variant in COMPARED {
                let Some(rounds) = measured.get(&(job.name, *count, variant)) else { continue };
                let _ = write!(
                    text,
                    "    {:<8} x{count} {:>10.0}/s",
                    variant.heading(),
                    of(rounds, |figures| figures.per_second)
                );
                if let Some(ratio) = ratio(measured, job.name, *count, variant) {
                    let _ = write!(
                        text,
                        "  {ratio:>5.2} of native  {:>6.1} us of the daemon  {}",
                        of(rounds, |figures| figures.processor_us),
                        words(&requests(rounds))
                    );
                }
                let _ = writeln!(text);
            }
        }
        for (bar, found) in judged(measured, job.name) {
            let word = if found >= bar { "met" } else { "MISSED" };
            let _ = writeln!(text, "    {word:<7} >= {bar:.2} of native, one thread: {found:.2}");
        }
    }
    text
}

/// The same as JSON.
pub fn json(about: &str, chosen: &[&Job], threads: &[usize], measured: &Measured) -> Result<String> {
    let mut jobs: Vec<Value> = Vec::new();
    for job in chosen {
        for count in threads {
            for variant in COMPARED {
                let Some(rounds) = measured.get(&(job.name, *count, variant)) else { continue };
                jobs.push(json!({
                    "job": job.name,
                    "about": job.about,
                    "threads": count,
                    "variant": variant.heading(),
                    "per_second": of(rounds, |figures| figures.per_second),
                    "of_native": ratio(measured, job.name, *count, variant),
                    "processor_us": of(rounds, |figures| figures.processor_us),
                    "requests": requests(rounds),
                    "rounds": rounds,
                }));
            }
        }
    }
    Ok(serde_json::to_string_pretty(&json!({ "about": about, "jobs": jobs }))?)
}

fn of(rounds: &[Figures], figure: impl Fn(&Figures) -> f64) -> f64 {
    middle(rounds.iter().map(figure).collect()).unwrap_or(0.0)
}

/// Median over the rounds of the rate's ratio to the native one of the same round.
fn ratio(measured: &Measured, job: &'static str, threads: usize, variant: Variant) -> Option<f64> {
    if variant == Variant::Native {
        return None;
    }
    let own = measured.get(&(job, threads, variant))?;
    let native = measured.get(&(job, threads, Variant::Native))?;
    let ratios = own.iter().zip(native).map(|(own, native)| own.per_second / native.per_second.max(1e-9));
    middle(ratios.collect())
}

fn requests(rounds: &[Figures]) -> BTreeMap<String, f64> {
    let mut names: Vec<&String> = rounds.iter().flat_map(|figures| figures.requests.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let median = |name: &String| of(rounds, |figures| figures.requests.get(name).copied().unwrap_or(0.0));
    names.into_iter().map(|name| (name.clone(), median(name))).collect()
}

/// Those that matter, the most frequent first.
fn words(requests: &BTreeMap<String, f64>) -> String {
    let mut sorted: Vec<_> = requests.iter().filter(|(_, count)| **count >= 0.005).collect();
    sorted.sort_by(|left, right| right.1.total_cmp(left.1));
    let words: Vec<String> = sorted.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
    words.join(", ")
}

/// Bar and figure of each judged variant.
fn judged(measured: &Measured, job: &'static str) -> Vec<(f64, f64)> {
    let Some((_, bar)) = BARS.iter().find(|(name, _)| *name == job) else { return Vec::new() };
    JUDGED.into_iter().filter_map(|variant| Some((*bar, ratio(measured, job, 1, variant)?))).collect()
}
