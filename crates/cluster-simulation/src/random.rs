//! Random numbers that are computed from a seed: one stream per thread, for all random decisions of a world.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static STREAM: Cell<u64> = const { Cell::new(0) };
}

/// The next number of a stream (SplitMix64).
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Starts this thread's stream.
pub fn begin(seed: u64) {
    STREAM.set(seed);
}

/// A number below `end`, which must be above zero.
pub fn below(end: u64) -> u64 {
    let mut state = STREAM.get();
    let number = next(&mut state) % end.max(1);
    STREAM.set(state);
    number
}

/// A number from `from` to `to`, including both.
pub fn between(from: u64, to: u64) -> u64 {
    from + below(to - from + 1)
}

/// True in `percent` of a hundred cases.
pub fn chance(percent: u64) -> bool {
    below(100) < percent
}

/// One of several choices.
pub fn one_of<T: Copy>(choices: &[T]) -> T {
    choices[below(choices.len() as u64) as usize]
}

/// A random duration between two bounds, in milliseconds.
pub fn millis(from: u64, to: u64) -> Duration {
    Duration::from_millis(between(from, to))
}
