//! Mutexes whose content is whole after each statement.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is behind the mutex. That a thread panicked while it had it is no reason not to go on: nothing in there can be left half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
