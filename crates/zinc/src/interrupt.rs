//! Ctrl-C as a request to stop at the next step; the second one kills.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// Exit code of a process stopped by Ctrl-C: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C for the rest of the process; a second call changes nothing.
///
/// # Errors
/// The system refuses.
pub fn install() -> anyhow::Result<()> {
    let handled = ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
    });
    match handled {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(error) => Err(error).context("cannot listen to Ctrl-C"),
    }
}

/// Whether Ctrl-C was pressed since the last [`clear`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets an earlier Ctrl-C.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}
