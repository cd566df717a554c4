//! What the daemon found out before it loaded the programs.

use replicator_common::{Hook, Layout, Settings};

/// Overwritten by the loader. Must be read with [`setting!`] only: a plain read would see what is written here.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings::UNSET;

/// A setting, by its path in [`Settings`].
macro_rules! setting {
    ($($path:tt)+) => {{
        // SAFETY: the address is of a field of a static; the loader wrote a value of its type.
        unsafe { core::ptr::read_volatile(&raw const $crate::settings::SETTINGS.$($path)+) }
    }};
}
pub(crate) use setting;

/// The offset of a kernel field.
macro_rules! offset {
    ($field:ident) => {
        $crate::settings::setting!(layout.$field)
    };
}
pub(crate) use offset;

/// Whether the running kernel has the field.
pub fn has(offset: u32) -> bool {
    offset != Layout::MISSING
}

/// The place of the `index`-th parameter that the hook's program uses.
#[inline(always)]
pub fn parameter(hook: Hook, index: usize) -> u8 {
    setting!(parameters[hook as usize][index])
}
