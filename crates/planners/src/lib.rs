//! planners
