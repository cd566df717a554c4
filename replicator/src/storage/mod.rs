//! Storage: the state of files, read on the primary and applied on the secondary.
