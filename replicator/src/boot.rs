//! The kernel's id of this boot: what it numbers means something else after the next one.

use std::io;

/// Where it is (proc(5)).
pub const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The id as bytes.
///
/// # Errors
/// /proc is not mounted or the file has another form.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read_to_string(FILE)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the boot id is not a UUID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_every_time() {
        assert_eq!(boot_id().expect("/proc"), boot_id().expect("/proc"));
        assert_ne!(boot_id().expect("/proc"), [0; 16]);
    }
}
