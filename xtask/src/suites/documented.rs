//! Tests that pass natively and cannot pass on the gate, each with its reason; docs/semantics.md lists the same.

/// Suite, test, and why.
const DOCUMENTED: &[(&str, &str, &str)] = &[
    (
        "pjdfstest",
        "link::link_count_max",
        "the C library knows no LINK_MAX of the type FUSE and says that there is none",
    ),
    ("stress-ng", "fiemap", "the kernel does not pass FIEMAP on to a FUSE file system"),
];

/// Why this test cannot pass on the gate, if that is so.
#[must_use]
pub fn reason(suite: &str, test: &str) -> Option<&'static str> {
    DOCUMENTED.iter().find(|(of, name, _)| *of == suite && *name == test).map(|(_, _, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_in_the_document() {
        let document = include_str!("../../../docs/semantics.md");
        for (suite, test, _) in DOCUMENTED {
            assert!(
                document.contains(&format!("`{suite} {test}`")),
                "docs/semantics.md lacks `{suite} {test}`"
            );
        }
        assert_eq!(reason("pjdfstest", "no such test"), None);
    }
}
