//! structured-merge
