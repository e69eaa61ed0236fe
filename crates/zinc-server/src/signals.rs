//! The signals that end a server.

use std::io;

/// Resolves when the process is told to end for the first time.
///
/// # Errors
/// The system does not tell of signals.
#[cfg(unix)]
pub fn first() -> io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Resolves when the process is told to end for the first time.
///
/// # Errors
/// Never; the signature is that of other systems.
#[cfg(not(unix))]
pub fn first() -> io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// Lets the next signal end the process at once.
pub fn kill_at_next() {
    if let Ok(next) = first() {
        tokio::spawn(async move {
            next.await;
            std::process::exit(130);
        });
    }
}
