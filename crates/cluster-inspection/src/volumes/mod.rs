//! The volumes of claims: [`read`] reads the objects, [`list`] selects the reported facts, [`table`] formats the table.

mod model;
mod objects;
mod render;
#[cfg(test)]
mod tests;

pub use model::{ClaimRow, VolumeList, list};
pub use objects::{ClaimNamespaces, VolumeObjects, read};
pub use render::{Columns, table};
