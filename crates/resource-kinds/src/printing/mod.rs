//! Tables that `kubectl get` shows.

pub mod table;

use jiff::Timestamp;
use json_tree::Value;

/// A column of the table that `kubectl get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// The column's heading.
    pub name: &'a str,
    /// OpenAPI type, for instance `string` or `integer`.
    pub kind: &'a str,
    /// OpenAPI format: `name` for the first column, else mostly empty.
    pub format: &'a str,
    /// The description in the Table.
    pub description: &'a str,
    /// 0 always, 1 only with `-o wide`.
    pub priority: u8,
}

/// A cell of a table row.
pub type Cell = Value;

/// The table of a kind.
pub trait Printer: Send + Sync + 'static {
    /// Columns of the table, without those that every kind has in the same way.
    fn columns(&self) -> Vec<Column<'_>>;

    /// The cells of one row, in the order of the columns.
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell>;

    /// The rank of an object's row in the table of a list; objects of the same rank are listed by name.
    fn row_rank(&self, _object: &Value) -> i64 {
        0
    }

    /// Conditions of the row (`Completed` for finished pods): (type, status, reason, message).
    fn row_conditions(&self, _object: &Value) -> Vec<(&'static str, &'static str, String, String)> {
        Vec::new()
    }
}
