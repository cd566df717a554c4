//! Logs: structured events on standard error, as text for people or one JSON object per line.
//!
//! A daemon whose standard error goes to a file below a mirrored directory would capture its own lines, log about them, and
//! so feed itself. The kernel programs leave out the daemon's own process, but not that of a log collector: keep logs
//! elsewhere.

use std::env;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Name of the environment variable that overrides `log.level`, with the filter syntax of tracing-subscriber, such as
/// `warn,replicator::gate=debug`.
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// What keeps logging from being set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The environment variable makes no sense.
    #[error(
        "{FILTER_VARIABLE}={value:?} is not a log filter ({source}); write it like \"info\" or \"warn,replicator::gate=debug\""
    )]
    Filter {
        /// The variable's value.
        value: String,
        /// Why not.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before, by this process.
    #[error("logging is already set up")]
    Twice,
}

/// Send this process's events to standard error from now on.
///
/// # Errors
/// [`TelemetryError`].
pub fn start(log: LogConfig) -> Result<(), TelemetryError> {
    let filter = filter(log.level, env::var(FILTER_VARIABLE).ok())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none());
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|_| TelemetryError::Twice)
}

fn filter(level: LogLevel, variable: Option<String>) -> Result<EnvFilter, TelemetryError> {
    let value = variable.filter(|value| !value.trim().is_empty()).unwrap_or_else(|| {
        let level = level_filter(level);
        // Below "warn" the library's events are about itself.
        let quiet = level.min(LevelFilter::WARN);
        format!("{level},aya={quiet},aya_obj={quiet}")
    });
    EnvFilter::try_new(&value).map_err(|source| TelemetryError::Filter { value, source })
}

const fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_configuration() {
        assert_eq!(filter(LogLevel::Warn, None).unwrap().max_level_hint(), Some(LevelFilter::WARN));
        assert_eq!(
            filter(LogLevel::Warn, Some(" ".into())).unwrap().max_level_hint(),
            Some(LevelFilter::WARN)
        );
        let overridden = filter(LogLevel::Warn, Some("debug".into())).unwrap();
        assert_eq!(overridden.max_level_hint(), Some(LevelFilter::DEBUG));
        assert!(matches!(
            filter(LogLevel::Warn, Some("replicator=loud".into())),
            Err(TelemetryError::Filter { .. })
        ));
    }
}
