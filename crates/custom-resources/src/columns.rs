//! The table of a custom kind: the columns in its definition.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::duration;
use resource_kinds::{Cell, Column, table};

use crate::facts::text;
use crate::json_path::JsonPath;

const AGE: Column<'static> = Column {
    name: "Age",
    kind: "date",
    format: "",
    description: "Time since the object was created.",
    priority: 0,
};

/// The columns of one version of a definition.
#[derive(Debug)]
pub(crate) struct Columns {
    named: Vec<Named>,
    /// Whether the table has an age column, as for a definition without columns.
    age: bool,
}

/// A column from the definition.
#[derive(Debug)]
struct Named {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: u8,
    path: JsonPath,
}

impl Columns {
    pub(crate) fn from_version(version: &Value) -> Self {
        let columns = version["additionalPrinterColumns"].as_array();
        let columns = columns.map_or(&[][..], Vec::as_slice);
        Self {
            named: columns.iter().filter_map(Named::from_json).collect(),
            age: columns.is_empty(),
        }
    }

    pub(crate) fn headings(&self) -> Vec<Column<'_>> {
        let mut all = vec![table::NAME];
        all.extend(self.named.iter().map(Named::heading));
        all.extend(self.age.then_some(AGE));
        all
    }

    pub(crate) fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let metadata = &object["metadata"];
        let mut cells = vec![metadata["name"].clone()];
        let named = self.named.iter();
        cells.extend(named.map(|column| cell(&column.path.all(object), &column.kind, now)));
        let created = metadata["creationTimestamp"].as_str();
        cells.extend(self.age.then(|| json!(duration::age(created, now))));
        cells
    }
}

impl Named {
    /// `None` if the path of the column cannot be parsed.
    fn from_json(column: &Value) -> Option<Self> {
        Some(Self {
            name: text(&column["name"]),
            kind: text(&column["type"]),
            format: text(&column["format"]),
            description: text(&column["description"]),
            priority: u8::from(column["priority"].as_i64().unwrap_or_default() > 0),
            path: JsonPath::parse(column["jsonPath"].as_str()?)?,
        })
    }

    fn heading(&self) -> Column<'_> {
        Column {
            name: &self.name,
            kind: &self.kind,
            format: &self.format,
            description: &self.description,
            priority: self.priority,
        }
    }
}

/// A cell of the column's type; empty for a value of another type.
fn cell(values: &[&Value], kind: &str, now: Timestamp) -> Cell {
    let Some(value) = values.first() else {
        return Value::Null;
    };
    match (kind, *value) {
        ("date", Value::String(text)) => json!(duration::age(Some(text), now)),
        ("integer", Value::Number(_))
        | ("number", Value::Number(_))
        | ("boolean", Value::Bool(_)) => (*value).clone(),
        ("string", _) => {
            let text = |value: &Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            let all: Vec<String> = values.iter().map(|value| text(value)).collect();
            json!(all.join(","))
        }
        _ => Value::Null,
    }
}
