//! Fixed-layout records shared between the kernel programs and the daemon: no logic, no allocation.
#![no_std]
#![forbid(unsafe_code)]
