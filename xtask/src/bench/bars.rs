//! What the figures must reach.

use super::Measured;
use super::fio::Figures;
use super::variants::Variant;

/// A bar and whether it is met.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Judged {
    /// The job it is about.
    pub job: &'static str,
    /// What is asked.
    pub bar: String,
    /// What was found.
    pub found: f64,
    /// Whether that is enough.
    pub met: bool,
}

/// Added latency of an fsync, in microseconds.
const ADDED_US: f64 = 250.0;
/// Rate of four jobs over that of one.
const GROUP_COMMIT: f64 = 2.5;

/// Lowest ratio to native: job, variant, ratio.
const RATIOS: &[(&str, Variant, f64)] = &[
    ("write-1m", Variant::Alone, 0.85),
    ("write-1m", Variant::Mirror, 0.60),
    ("write-4k", Variant::Alone, 0.85),
    ("write-4k", Variant::Mirror, 0.60),
    ("read-1m", Variant::Mirror, 0.90),
    ("read-4k", Variant::Mirror, 0.90),
    ("direct-write", Variant::Mirror, 0.50),
    ("direct-read", Variant::Mirror, 0.50),
];

/// Hold what was measured against all bars for which there are figures.
pub fn judge(measured: &Measured) -> Vec<Judged> {
    let mut judged = Vec::new();
    for (job, variant, least) in RATIOS {
        if let Some(found) = ratio(measured, job, *variant) {
            let bar = format!("{} >= {least:.2} of native", variant.heading());
            judged.push(Judged { job, bar, found, met: found >= *least });
        }
    }
    let p50 = |variant| median(measured, "sync-1", variant, |figures| figures.p50_us);
    if let Some(native) = p50(Variant::Native) {
        if let Some(semi) = p50(Variant::SemiSync) {
            let found = semi - native;
            let bar = format!("semi-sync adds <= {ADDED_US:.0} us to the median");
            judged.push(Judged { job: "sync-1", bar, found, met: found <= ADDED_US });
        }
        let flush = median(measured, "sync-1", Variant::Native, |figures| figures.sync_p50_us).unwrap_or(0.0);
        if let Some(sync) = p50(Variant::Mirror) {
            let found = sync - native;
            let most = ADDED_US + flush;
            let bar = format!("sync adds <= {ADDED_US:.0} us and one native fsync ({most:.0} us)");
            judged.push(Judged { job: "sync-1", bar, found, met: found <= most });
        }
    }
    for variant in [Variant::Mirror, Variant::SemiSync] {
        let rate = |job| median(measured, job, variant, |figures| figures.per_second);
        if let (Some(one), Some(four)) = (rate("sync-1"), rate("sync-4")) {
            let found = four / one.max(1e-9);
            let bar = format!("{}: four jobs >= {GROUP_COMMIT} times one", variant.heading());
            judged.push(Judged { job: "sync-4", bar, found, met: found >= GROUP_COMMIT });
        }
    }
    judged
}

/// Median over the rounds of one figure.
pub fn median(
    measured: &Measured,
    job: &'static str,
    variant: Variant,
    figure: impl Fn(&Figures) -> f64,
) -> Option<f64> {
    middle(measured.get(&(job, variant))?.iter().map(figure).collect())
}

/// Median over the rounds of the rate's ratio to the native one of the same round.
pub fn ratio(measured: &Measured, job: &'static str, variant: Variant) -> Option<f64> {
    let (own, native) = (measured.get(&(job, variant))?, measured.get(&(job, Variant::Native))?);
    middle(own.iter().zip(native).map(|(own, native)| own.per_second / native.per_second.max(1e-9)).collect())
}

/// The median; `None` of nothing.
pub fn middle(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    match figures.len() {
        0 => None,
        length if length % 2 == 1 => Some(figures[length / 2]),
        length => Some((figures[length / 2 - 1] + figures[length / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(rates: &[f64]) -> Vec<Figures> {
        rates.iter().map(|rate| Figures { per_second: *rate, ..Figures::default() }).collect()
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own_ratios() {
        let mut measured = Measured::new();
        measured.insert(("write-4k", Variant::Native), rates(&[100.0, 200.0, 400.0]));
        measured.insert(("write-4k", Variant::Alone), rates(&[90.0, 100.0, 400.0]));
        assert_eq!(ratio(&measured, "write-4k", Variant::Alone), Some(0.9));
        let judged = judge(&measured);
        assert_eq!(judged.len(), 1);
        assert!(judged[0].met);
    }

    #[test]
    fn the_price_of_an_fsync_is_a_difference_of_medians() {
        let figures =
            |p50_us| vec![Figures { p50_us, sync_p50_us: 100.0, per_second: 1.0, ..Figures::default() }];
        let mut measured = Measured::new();
        measured.insert(("sync-1", Variant::Native), figures(110.0));
        measured.insert(("sync-1", Variant::SemiSync), figures(361.0));
        measured.insert(("sync-1", Variant::Mirror), figures(459.0));
        let met: Vec<bool> = judge(&measured).iter().map(|judged| judged.met).collect();
        assert_eq!(met, [false, true]);
    }
}
