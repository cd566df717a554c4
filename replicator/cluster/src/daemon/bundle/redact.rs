//! Descriptions, less what may be secret.

use toml::{Table, Value};

/// What stands where something was left out.
const LEFT_OUT: &str = "(left out)";
/// Keys whose values are secret, by a part of their names.
const SECRET: &[&str] =
    &["password", "passwd", "passphrase", "secret", "token", "credential", "private", "key"];
/// The end of keys that say where a secret is, not what it is.
const PLACE: &str = "-file";
/// A table whose values are for programs, and may be anything.
const ENVIRONMENT: &str = "environment";

/// A description without secrets and comments. A text that is no TOML is left out as a whole.
pub fn toml(text: &str) -> String {
    let Ok(mut table) = text.parse::<Table>() else { return format!("# it is no TOML: {LEFT_OUT}\n") };
    redact(&mut table, false);
    toml::to_string(&table).unwrap_or_else(|_| format!("# {LEFT_OUT}\n"))
}

fn redact(table: &mut Table, all: bool) {
    for (key, value) in table.iter_mut() {
        let name = key.to_lowercase().replace('_', "-");
        let place = name.ends_with(PLACE) && !all;
        let secret = all || SECRET.iter().any(|part| name.contains(part));
        redact_value(value, secret && !place, name == ENVIRONMENT);
    }
}

fn redact_value(value: &mut Value, secret: bool, environment: bool) {
    match value {
        Value::Table(table) => redact(table, secret || environment),
        Value::Array(values) => values.iter_mut().for_each(|value| redact_value(value, secret, environment)),
        value if secret => *value = Value::String(LEFT_OUT.to_owned()),
        Value::String(text) => {
            if let Some(shown) = without_user(text) {
                *text = shown;
            }
        }
        _ => {}
    }
}

/// An address less the name and password in it; none if there are none.
fn without_user(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (_, host) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://{LEFT_OUT}@{host}{}", rest.get(authority.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_comments_are_left_out_and_the_rest_stays() {
        let shown = toml(
            "# the password is hunter2\nname = \"web\"\nport = 7421\ncluster-key-file = \"/etc/k\"\nAPI_TOKEN = \"hunter2\"\n\
             [environment]\nLANG = \"hunter2\"\nCREDENTIALS_FILE = \"hunter2\"\n[arbiter]\npassword = [\"hunter2\"]\nurl = \"http://u:hunter2@h/x?y\"\n\
             [[checker]]\nname = \"c\"\nsecret.deep = \"hunter2\"\n",
        );
        assert!(!shown.contains("hunter2"), "{shown}");
        for kept in ["name = \"web\"", "7421", "\"/etc/k\"", "@h/x?y", "name = \"c\"", "LANG"] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
        assert!(!toml("password = hunter2").contains("hunter2"));
    }
}
