//! Well-known names and numbers: annotations, labels, namespaces, accounts, reasons, limits, kernel
//! parameters.

pub mod annotations;
pub mod labels;
pub mod limits;
pub mod namespaces;
pub mod node_accounts;
pub mod reasons;
pub mod sysctls;
