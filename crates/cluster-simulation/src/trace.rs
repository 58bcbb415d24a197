//! The trace of events, in order; equal for every run of a seed.
//!
//! Each line is hashed, the last lines are stored. Without a world no line is recorded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::io::Write;

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Number of stored lines for the report of a failure.
const TAIL: usize = 150;

struct Trace {
    started: Instant,
    hash: Xxh3,
    lines: u64,
    tail: VecDeque<String>,
    prints_events: bool,
    broken: Vec<String>,
}

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Hash of all lines.
    pub hash: u64,
    pub lines: u64,
    pub tail: Vec<String>,
    /// The violations, in the order of their detection.
    pub broken: Vec<String>,
}

/// Starts the trace of this thread; with `prints_events`, each line is printed as well.
pub fn begin(prints_events: bool) {
    let trace = Trace {
        started: Instant::now(),
        hash: Xxh3::new(),
        lines: 0,
        tail: VecDeque::new(),
        prints_events,
        broken: Vec::new(),
    };
    TRACE.set(Some(trace));
}

pub fn end() -> Summary {
    TRACE.take().map_or_else(Summary::default, |trace| Summary {
        hash: trace.hash.digest(),
        lines: trace.lines,
        tail: trace.tail.into(),
        broken: trace.broken,
    })
}

/// Records a line.
pub fn note(text: Arguments<'_>) {
    TRACE.with_borrow_mut(|trace| {
        let Some(trace) = trace else { return };
        let at = trace.started.elapsed().as_secs_f64();
        let line = format!("{at:>9.3} {text}");
        trace.hash.update(line.as_bytes());
        trace.lines += 1;
        if trace.prints_events {
            // A closed output is ignored.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        trace.tail.push_back(line);
        if trace.tail.len() > TAIL {
            trace.tail.pop_front();
        }
    });
}

/// Records the violation of a rule.
pub fn broken(text: String) {
    note(format_args!("BROKEN {text}"));
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.broken.push(text);
        }
    });
}

/// Whether a rule was violated.
pub fn is_broken() -> bool {
    TRACE.with_borrow(|trace| trace.as_ref().is_some_and(|trace| !trace.broken.is_empty()))
}

/// Records a line; accepts the arguments of `format!`.
#[macro_export]
macro_rules! trace {
    ($($text:tt)*) => { $crate::trace::note(format_args!($($text)*)) };
}
