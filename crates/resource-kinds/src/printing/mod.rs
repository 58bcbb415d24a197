//! Tables that `kubectl get` shows.

pub mod table;
