//! Tables for `kubectl get`.

pub mod table;

use jiff::Timestamp;
use json_tree::Value;

/// A column of the table for `kubectl get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    /// OpenAPI type, for instance `string` or `integer`.
    pub kind: &'a str,
    /// OpenAPI format: `name` for the first column, otherwise usually empty.
    pub format: &'a str,
    pub description: &'a str,
    /// 0: always displayed; 1: only with `-o wide`.
    pub priority: u8,
}

pub type Cell = Value;

/// The table of a kind.
pub trait Printer: Send + Sync + 'static {
    /// The columns of the table, without the columns that every kind has.
    fn columns(&self) -> Vec<Column<'_>>;

    /// The cells of one row, in the order of the columns.
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell>;

    /// The rank of an object's row in the table of a list; objects with equal ranks are sorted by name.
    fn row_rank(&self, _object: &Value) -> i64 {
        0
    }

    /// The conditions of the row (`Completed` for finished pods): (type, status, reason, message).
    fn row_conditions(&self, _object: &Value) -> Vec<(&'static str, &'static str, String, String)> {
        Vec::new()
    }
}
