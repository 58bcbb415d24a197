//! Signals. The kernel ignores signals without a handler for the first process of a container, and an
//! interactive shell must survive a Ctrl-C that is meant for its command.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit status after a signal is the sum of this number and the signal's number.
const SIGNALLED: i32 = 128;

/// Installs handlers that end this process on SIGTERM, SIGINT and SIGHUP, if it is the first process of its
/// container.
pub fn follow_signals_if_first() {
    if std::process::id() == 1 {
        // Without handlers the tool works; it only takes longer to stop.
        handle_signals(None).ok();
    }
}

/// The pending Ctrl-C of an interactive shell.
#[derive(Clone, Debug)]
pub struct Interrupts {
    pending: Arc<AtomicBool>,
}

impl Interrupts {
    /// After this call a SIGINT does not end the process; it is reported here and through the pipe.
    pub fn catch() -> io::Result<(Self, OwnedFd)> {
        let pending = Arc::new(AtomicBool::new(false));
        let (read, write) = io::pipe()?;
        handle_signals(Some((Arc::clone(&pending), write)))?;
        Ok((Self { pending }, read.into()))
    }

    /// Interrupts that never occur, for a script.
    pub fn none() -> Self {
        Self {
            pending: Arc::default(),
        }
    }

    /// Whether a SIGINT is pending.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Clears a pending Ctrl-C; returns whether there was one.
    pub fn take_pending(&self) -> bool {
        self.pending.swap(false, Ordering::Relaxed)
    }
}

type InterruptReport = (Arc<AtomicBool>, io::PipeWriter);

/// Handles the signals on a thread.
fn handle_signals(report_to: Option<InterruptReport>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handlers = {
        let _entered = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]
    };
    std::thread::Builder::new().spawn(move || runtime.block_on(wait(handlers, report_to)))?;
    Ok(())
}

async fn wait(handlers: [Signal; 3], mut report_to: Option<InterruptReport>) {
    let [mut interrupt, mut terminate, mut hangup] = handlers;
    loop {
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
        };
        match &mut report_to {
            Some((pending, pipe)) if kind == SignalKind::interrupt() => {
                pending.store(true, Ordering::Relaxed);
                pipe.write_all(&[0]).ok();
            }
            _ => std::process::exit(SIGNALLED + kind.as_raw_value()),
        }
    }
}
