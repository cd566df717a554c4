//! One table of the file, and typed looks at its keys: each refusal names the key by its whole path.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::error::ModuleError;
use crate::nearest::nearest;

/// A table whose keys are all known.
pub(super) struct Section<'a> {
    at: String,
    table: &'a Table,
}

const UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const NAME_CHARACTERS_MAX: usize = 64;

impl<'a> Section<'a> {
    /// Look at `table`, which the file calls `at`; a key that is none of `known` is refused.
    pub(super) fn open(at: &str, table: &'a Table, known: &[&str]) -> Result<Section<'a>, ModuleError> {
        let section = Section { at: at.to_owned(), table };
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ModuleError::UnknownKey {
                key: section.key(key),
                nearest: nearest(key, known.iter().copied()).map(|found| section.key(found)),
            }),
            None => Ok(section),
        }
    }

    /// A key with the path to it.
    pub(super) fn key(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// The value as it stands there.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.table.get(key)
    }

    /// The value, if it is what `pick` takes.
    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        pick: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModuleError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        pick(value).map(Some).ok_or_else(|| ModuleError::Type {
            key: self.key(key),
            expected,
            found: kind(value),
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModuleError> {
        self.typed(key, "a text in quotes", Value::as_str)
    }

    /// A text that must be there.
    pub(super) fn needed(&self, key: &str, remedy: &'static str) -> Result<&'a str, ModuleError> {
        self.text(key)?.ok_or_else(|| ModuleError::Missing { key: self.key(key), remedy })
    }

    /// A list of texts; empty if the key is not there.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ModuleError> {
        let expected = "a list of texts, like [\"one\", \"two\"]";
        let list = self.typed(key, expected, |value| {
            value
                .as_array()?
                .iter()
                .map(|entry| entry.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// A table.
    pub(super) fn table(&self, key: &str) -> Result<Option<&'a Table>, ModuleError> {
        self.typed(key, "a table", Value::as_table)
    }

    /// The tables of a list (`[[key]]`); empty if the key is not there.
    pub(super) fn tables(&self, key: &str, limit: usize) -> Result<Vec<&'a Table>, ModuleError> {
        let pick =
            |value: &'a Value| value.as_array()?.iter().map(Value::as_table).collect::<Option<Vec<_>>>();
        let tables =
            self.typed(key, "tables in double brackets, like [[directory]]", pick)?.unwrap_or_default();
        if tables.len() > limit {
            return Err(ModuleError::TooMany { key: self.key(key), count: tables.len(), limit });
        }
        Ok(tables)
    }

    /// Yes or no.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModuleError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A whole number within bounds.
    pub(super) fn count(&self, key: &str, default: u32, least: u32, most: u32) -> Result<u32, ModuleError> {
        let Some(value) = self.typed(key, "a whole number", Value::as_integer)? else { return Ok(default) };
        match u32::try_from(value) {
            Ok(count) if (least..=most).contains(&count) => Ok(count),
            _ => Err(ModuleError::OutOfBounds {
                key: self.key(key),
                value,
                least: least.into(),
                most: most.into(),
            }),
        }
    }

    /// A duration of at most `limit`.
    pub(super) fn duration(
        &self,
        key: &str,
        default: Duration,
        limit: Duration,
    ) -> Result<Duration, ModuleError> {
        let Some(text) = self.text(key)? else { return Ok(default) };
        let key = self.key(key);
        let value = humantime::parse_duration(text.trim()).map_err(|source| ModuleError::Duration {
            key: key.clone(),
            value: text.to_owned(),
            source,
        })?;
        if value > limit {
            return Err(ModuleError::DurationTooLong { key, value, limit });
        }
        Ok(value)
    }

    /// A duration of at most `limit` and more than nothing.
    pub(super) fn positive(
        &self,
        key: &str,
        default: Duration,
        limit: Duration,
    ) -> Result<Duration, ModuleError> {
        let value = self.duration(key, default, limit)?;
        if value.is_zero() {
            return Err(ModuleError::DurationZero { key: self.key(key) });
        }
        Ok(value)
    }

    /// A size in bytes such as "16MiB".
    pub(super) fn size(&self, key: &str, default: u64) -> Result<u64, ModuleError> {
        let Some(text) = self.text(key)? else { return Ok(default) };
        size(text).ok_or_else(|| ModuleError::Size { key: self.key(key), value: text.to_owned() })
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, ModuleError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let allowed = choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let nearest = nearest(text, choices.iter().map(|(word, _)| *word)).map(|word| format!("{word:?}"));
        Err(ModuleError::Choice { key: self.key(key), value: text.to_owned(), allowed, nearest })
    }

    /// A name that must be there.
    pub(super) fn name(&self, key: &str, remedy: &'static str) -> Result<String, ModuleError> {
        let text = self.needed(key, remedy)?;
        if !is_name(text) {
            return Err(ModuleError::Name { key: self.key(key), value: text.to_owned() });
        }
        Ok(text.to_owned())
    }

    /// A path from the root on, without `..`.
    pub(super) fn absolute(&self, key: &str, remedy: &'static str) -> Result<PathBuf, ModuleError> {
        let text = self.needed(key, remedy)?;
        let path = Path::new(text);
        let plain = !text.contains('\0') && path.components().all(|part| part != Component::ParentDir);
        if !path.is_absolute() || !plain {
            return Err(self.form(key, text, "a path from / on without \"..\"", "/var/lib/application"));
        }
        Ok(path.to_owned())
    }

    /// An IP address and a port.
    pub(super) fn socket_address(&self, key: &str, remedy: &'static str) -> Result<SocketAddr, ModuleError> {
        let text = self.needed(key, remedy)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(address),
            _ => Err(self.form(
                key,
                text,
                "an IP address and port (host names are not taken: a check must not depend on a name server)",
                "127.0.0.1:5432",
            )),
        }
    }

    /// The IP address `text` of the key.
    pub(super) fn ip(&self, key: &str, text: &str) -> Result<IpAddr, ModuleError> {
        text.parse().map_err(|_| self.form(key, text, "an IP address", "10.0.0.1"))
    }

    /// That `value` does not have the form of the key.
    pub(super) fn form(
        &self,
        key: &str,
        value: &str,
        what: &'static str,
        example: &'static str,
    ) -> ModuleError {
        ModuleError::Form { key: self.key(key), value: value.to_owned(), what, example }
    }

    /// That the key does not go with what else is there.
    pub(super) fn contradiction(&self, key: &str, why: &'static str) -> ModuleError {
        ModuleError::Contradiction { key: self.key(key), why }
    }
}

/// Whether it is a name: of a module, a checker, a node.
pub(in super::super) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= NAME_CHARACTERS_MAX
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}

/// A size such as "16MiB" in bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at_checked(digits)?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
