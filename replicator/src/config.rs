//! Configuration: one TOML file, parsed once into a validated struct.
