//! Durations and sizes with their units.

use std::time::Duration;

use super::error::ConfigError;

/// Longest duration any key takes: beyond it, a value is a slip of the unit.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(3600);

const UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A duration such as "250ms", "3s", "1m 30s".
pub(super) fn duration(key: &'static str, text: &str) -> Result<Duration, ConfigError> {
    duration_up_to(key, text, DURATION_MAX)
}

/// A duration that may be longer than those of most keys.
pub(super) fn duration_up_to(
    key: &'static str,
    text: &str,
    limit: Duration,
) -> Result<Duration, ConfigError> {
    let value = humantime::parse_duration(text.trim()).map_err(|source| ConfigError::Duration {
        key,
        value: text.to_owned(),
        source,
    })?;
    if value > limit {
        return Err(ConfigError::DurationTooLong { key, value, limit });
    }
    Ok(value)
}

/// A size such as "16MiB": a whole number and a binary unit.
pub(super) fn size(key: &'static str, text: &str) -> Result<u64, ConfigError> {
    let refused = || ConfigError::Size { key, value: text.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).ok_or_else(refused)
}
