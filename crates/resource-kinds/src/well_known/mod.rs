//! Well-known names and numbers: annotations, labels, reasons, limits, kernel parameters.

pub mod annotations;
pub mod labels;
pub mod limits;
pub mod reasons;
pub mod sysctls;
