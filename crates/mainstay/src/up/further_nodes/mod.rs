//! The further nodes of `up --nodes`: one process each, in a network namespace of its own.

mod process;
